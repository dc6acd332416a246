"""The embedded engine: continuous batching over a cache in blocks, for any supported transformers causal LM.

Each draw is keyed by (seed, step, problem id, sample index, position), so a completion depends on neither batch
composition nor order as far as floating point allows: matrix products of another batch size may differ in the last
bits, and a uniform number that falls into such a gap (about one draw in 10^5 in float32) picks the neighbouring token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from deepscaler.cpu import available_cores
from deepscaler.observability.counts import counted
from deepscaler.positions import fitted_context
from deepscaler.protocols import PublishedWeights
from deepscaler.rollout import batch
from deepscaler.rollout.block_attention import BlockStep
from deepscaler.rollout.cache import BlockCache
from deepscaler.rollout.decoder import Decoder
from deepscaler.rollout.flash_attention import flash_works
from deepscaler.rollout.pool import PoolStep
from deepscaler.rollout.pool_cache import FlashCache, PoolCache
from deepscaler.rollout.scoring import TokenScores, score_tokens
from deepscaler.rollout.sizing import cache_bytes
from deepscaler.rollout.stops import Decode, Stops
from deepscaler.types import FloatArray, IntArray, Request, Rollout, SamplingParams, WeightsInfo
from deepscaler.weights import dtype_name, weights_digest


class TorchEngine:
    """Samples from `model`, which it may share with a learner: then publishing weights costs nothing.

    decode: ids of a completion to its text, where completions shall end at stop strings.
    is_cancelled: asked at every step; once it says yes, what is under way is abandoned.
    max_cache_bytes: upper limit of the key-value cache; by default a share of the memory that is free: on CPU now and
        divided by the number of cores, each of which may run an engine; on a GPU whenever the cache takes its memory.
    float32_head: keep logits in float32 where the weights are in half precision.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        stop_ids: frozenset[int],
        decode: Decode | None = None,
        max_active: int = 256,
        is_cancelled: Callable[[], bool] = lambda: False,
        max_cache_bytes: int | None = None,
        float32_head: bool = False,
    ) -> None:
        parameter = next(model.parameters())
        self._model: Any = model
        self._stops = Stops(stop_ids, decode)
        self._is_cancelled = is_cancelled
        self.dtype = parameter.dtype
        self._max_active = max_active
        self._device = parameter.device
        self._max_cache_bytes = max_cache_bytes
        on_gpu = self._device.type == "cuda"
        self._decoder = Decoder(model, float32_head=float32_head)
        shape = (self._decoder.heads, self._decoder.kv_heads, self._decoder.head_dim)
        flash = flash_works(self._device, parameter.dtype, *shape)
        cache = (FlashCache if flash else PoolCache) if on_gpu else BlockCache
        step = PoolStep if on_gpu else BlockStep
        self._cache = cache(self._model.config, parameter.dtype, self._device, self._free_bytes())
        self._step: Any = step(self._decoder, self._cache)
        self._batch: batch.Batch | None = None
        self._capacity = 0
        self.context_limit = fitted_context(model)
        self.version = 0

    def weights_info(self) -> WeightsInfo:
        """Version and digest of the weights that sampling uses right now, read from the engine's memory."""
        digest = weights_digest(self._model.named_parameters())
        return WeightsInfo(self.version, digest, dtype_name(self.dtype))

    @torch.no_grad()
    def load_weights(self, weights: PublishedWeights) -> WeightsInfo:
        """Copy the given weights in place, cast to the engine's dtype. Raises KeyError for an unknown name.

        Weights that are this model's own are neither copied nor hashed a second time: there is no other memory.
        """
        own, dtype = dict(self._model.named_parameters()), dtype_name(self.dtype)
        shared = True
        for name, weight in weights.tensors(dtype):
            if weight is not own[name]:
                own[name].copy_(weight)
                shared = False
        if self._batch is not None:
            self._decoder.refresh(self._capacity)  # it goes on with the new ones
        self.version = weights.version
        return WeightsInfo(self.version, weights.digest(dtype), dtype) if shared else self.weights_info()

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        """Yield rollouts as they finish.

        Raises ValueError when a prompt and the budget exceed the model's context or the memory for the cache.
        """
        longest = max((len(r.prompt_ids) for r in requests), default=0) + params.max_completion_tokens
        self._check_context(requests, params)
        decoding = self.open_batch(longest)
        self._check_memory(requests, params)
        for request in requests:
            for index in range(request.first_sample_index, request.first_sample_index + request.num_samples):
                decoding.add(batch.Sequence(request, index, self._params_of(request, index, params)))
        try:
            while not decoding.is_empty and not self._is_cancelled():
                for sequence in decoding.step():
                    yield self._rollout(decoding, sequence)
        finally:
            decoding.close()

    def open_batch(self, capacity: int) -> batch.Batch:
        """A new batch of sequences of at most `capacity` tokens each, with the weights as they are now.

        One at a time: an earlier batch that is still open ends.
        """
        if self._batch is not None:
            self._batch.close()
        self._fit_cache(self._cache.suitable_block_tokens(capacity))
        self._capacity = capacity
        self._decoder.refresh(capacity)
        self._batch = batch.Batch(self._decoder, self._cache, self._step, self._stops, self._max_active)
        return self._batch

    def score(self, ids: IntArray, temperatures: FloatArray, num_alternatives: int) -> TokenScores:
        """Of tokens that are there already (`scoring.score_tokens`)."""
        return score_tokens(self._model, ids, temperatures, num_alternatives)

    def release_memory(self) -> None:
        """On a GPU give the cache's memory back, for a learner beside; the next generation takes what is free then.

        An unfinished generation ends.
        """
        if isinstance(self._cache, PoolCache) and self._cache.allocated_bytes:
            if self._batch is not None:
                self._batch.close()
            self._cache.release()
            self._step.forget()

    def close(self) -> None:
        """End an unfinished generation, and give the cache's memory back on a GPU."""
        if self._batch is not None:
            self._batch.close()
        self.release_memory()

    def reset(self) -> None:
        """After a fault: end the open batch, and give the cache's memory back with whatever it may hold."""
        self.close()
        if not isinstance(self._cache, PoolCache):
            self._cache.reform(self._cache.block_tokens)

    def _fit_cache(self, block_tokens: int) -> None:
        cache = self._cache
        if isinstance(cache, PoolCache) and not cache.allocated_bytes:
            cache.reform(block_tokens, self._free_bytes())
        elif cache.block_tokens != block_tokens:
            self.release_memory()
            cache.reform(block_tokens, self._free_bytes() if isinstance(cache, PoolCache) else None)

    def _free_bytes(self) -> int:
        processes = available_cores() if self._device.type == "cpu" else 1
        return self._max_cache_bytes or cache_bytes(self._device, processes)

    def _params_of(self, request: Request, sample_index: int, params: SamplingParams) -> SamplingParams:
        """How one completion is sampled: like all others."""
        return params

    def _check_context(self, requests: Sequence[Request], params: SamplingParams) -> None:
        rows = self._model.config.vocab_size
        for request in requests:
            if (largest := int(request.prompt_ids.max())) >= rows:
                raise ValueError(
                    f"problem {request.problem_id}: its prompt holds token {largest}, and the model has embeddings of "
                    f"{counted(rows, 'token')}; the tokenizer belongs to another model"
                )
            if len(request.prompt_ids) + params.max_completion_tokens > self.context_limit:
                raise ValueError(
                    f"problem {request.problem_id}: prompt of {counted(len(request.prompt_ids), 'token')} plus a "
                    "budget of "
                    f"{params.max_completion_tokens} exceeds the model's context of {self.context_limit}; lower "
                    "max_completion_tokens or choose a model with a longer context"
                )

    def _check_memory(self, requests: Sequence[Request], params: SamplingParams) -> None:
        for request in requests:
            room = self._cache.room(len(request.prompt_ids))
            if len(request.prompt_ids) + params.max_completion_tokens > room:
                raise ValueError(
                    f"problem {request.problem_id}: prompt of {counted(len(request.prompt_ids), 'token')} plus a "
                    "budget of "
                    f"{params.max_completion_tokens} does not fit into the cache, which has room for "
                    f"{counted(room, 'token')}; "
                    "lower max_completion_tokens or give the cache more memory"
                )

    def _rollout(self, decoding: batch.Batch, sequence: batch.Sequence) -> Rollout:
        reason = decoding.finish_reason(sequence)
        assert reason is not None
        return Rollout(
            problem_id=sequence.request.problem_id,
            sample_index=sequence.sample_index,
            prompt_ids=sequence.request.prompt_ids,
            completion_ids=sequence.token_array,
            rollout_logprobs=sequence.logprob_array,
            finish_reason=reason,
            policy_version=self.version,
        )
