"""The torch engine: continuous batching over a key-value cache in blocks, for supported transformers causal LMs.

Each draw is keyed by (seed, step, problem id, sample index, position), so a completion is independent of batch
composition and order up to rounding: matmuls of another batch size may differ in the last bits, and a uniform number
that falls between the two results (about one draw in 10^5 in float32) selects the neighbouring token.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from deepscaler.cpu import available_cores
from deepscaler.engines.sizing import cache_bytes
from deepscaler.engines.torch.block_attention import CpuStep
from deepscaler.engines.torch.cuda_graph_step import CudaGraphStep
from deepscaler.engines.torch.flash_attention import flash_works
from deepscaler.engines.torch.kv_cache import KVCache
from deepscaler.engines.torch.module_decoder import make_decoder
from deepscaler.engines.torch.paged_cache import FlashCache, PagedCache
from deepscaler.engines.torch.scheduler import OpenScheduler, Scheduler, Sequence
from deepscaler.engines.torch.scoring import TokenScores, score_tokens
from deepscaler.engines.torch.stops import Decode, StopConditions
from deepscaler.modeling.positions import fitted_context
from deepscaler.modeling.weights import dtype_name, weights_digest
from deepscaler.observability import liveness
from deepscaler.observability.counts import counted
from deepscaler.protocols import PublishedWeights
from deepscaler.types import FloatArray, IntArray, Request, Rollout, SamplingParams, WeightsInfo

# Attention reads the layout of the key-value cache, so the cache selects both.
BACKENDS: dict[str, type[KVCache]] = {"cpu": KVCache, "paged": PagedCache, "flash": FlashCache}


class TorchEngine:
    """Samples from `model`, which it may share with a learner: then publishing weights copies nothing.

    decode: ids of a completion to its text, required for stop strings.
    max_active: most sequences decoded at once.
    is_cancelled: called at every step; once true, unfinished sequences are yielded as they are.
    max_cache_bytes: upper limit of the key-value cache; by default a fraction of the free memory: on CPU measured now
        and divided by the number of cores, each of which may run an engine; on a GPU measured when the cache is
        allocated.
    float32_head: compute logits in float32 where the weights are in half precision.
    attention_backend: a key of `BACKENDS`, by default the fastest one that works on the device.
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
        attention_backend: str | None = None,
    ) -> None:
        parameter = next(model.parameters())
        self._model: Any = model
        self._stops = StopConditions(stop_ids, decode)
        self._is_cancelled = is_cancelled
        self.dtype = parameter.dtype
        self._max_active = max_active
        self._device = parameter.device
        self._max_cache_bytes = max_cache_bytes
        self._build(float32_head, attention_backend)
        self._scheduler: OpenScheduler | None = None
        self._capacity = 0
        self.context_limit = fitted_context(model)
        self.version = 0

    def _build(self, float32_head: bool, attention_backend: str | None) -> None:
        """What computes a step."""
        self._decoder = make_decoder(self._model, float32_head=float32_head)
        backend = BACKENDS[attention_backend or self._fastest_backend()]
        self.cache = backend(self._model.config, self.dtype, self._device, self._free_bytes())
        paged = isinstance(self.cache, PagedCache)
        self._step: Any = (CudaGraphStep if paged else CpuStep)(self._decoder, self.cache)

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
        if self._scheduler is not None:
            self._refresh()  # an open scheduler continues with the new weights
        self.version = weights.version
        return WeightsInfo(self.version, weights.digest(dtype), dtype) if shared else self.weights_info()

    def _refresh(self) -> None:
        self._decoder.refresh(self._capacity)

    def generate(self, requests: abc.Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        """Yield rollouts as they finish.

        Raises ValueError when a prompt and the budget exceed the model's context or the memory for the cache.
        """
        longest = max((len(r.prompt_ids) for r in requests), default=0) + params.max_completion_tokens
        self._check_context(requests, params)
        scheduler = self.open_scheduler(longest)
        self._check_memory(requests, params)
        for request in requests:
            for index in range(request.first_sample_index, request.first_sample_index + request.num_samples):
                scheduler.add(_sequence(request, index, self._params_of(request, index, params)))
        try:
            while scheduler.has_unfinished:
                liveness.beat()
                if self._is_cancelled():
                    scheduler.cancel_all()
                for sequence in scheduler.step():
                    yield self._rollout(scheduler, sequence)
        finally:
            scheduler.close()

    def open_scheduler(self, capacity: int) -> OpenScheduler:
        """A scheduler for sequences of at most `capacity` tokens each, with the current weights.

        An engine has one at a time: a scheduler that is still open is closed.
        """
        if self._scheduler is not None:
            self._scheduler.close()
        self._prepare_cache(self.cache.choose_block_tokens(capacity))
        self._capacity = capacity
        self._refresh()
        opened = Scheduler(self._decoder, self.cache, self._step, self._stops, self._max_active)
        self._scheduler = opened
        return opened

    def score(self, ids: IntArray, temperatures: FloatArray, num_alternatives: int) -> TokenScores:
        """Log-probabilities of given tokens (`scoring.score_tokens`)."""
        return score_tokens(self._model, ids, temperatures, num_alternatives)

    def release_memory(self) -> None:
        """On a GPU free the cache, for a learner on the same device; the next generation allocates it again.

        Unfinished sequences are dropped.
        """
        if isinstance(self.cache, PagedCache) and self.cache.allocated_bytes:
            if self._scheduler is not None:
                self._scheduler.close()
            self.cache.release()
            self._step.clear()

    def close(self) -> None:
        """Close the scheduler; on a GPU also free the cache."""
        if self._scheduler is not None:
            self._scheduler.close()
        self.release_memory()

    def reset(self) -> None:
        """After a fault: close the scheduler and discard the content of the cache."""
        self.close()
        if not isinstance(self.cache, PagedCache):
            self.cache.reset(self.cache.block_tokens)

    def _prepare_cache(self, block_tokens: int) -> None:
        cache = self.cache
        if isinstance(cache, PagedCache) and not cache.allocated_bytes:
            cache.reset(block_tokens, self._free_bytes())
        elif cache.block_tokens != block_tokens:
            self.release_memory()
            cache.reset(block_tokens, self._free_bytes() if isinstance(cache, PagedCache) else None)

    def _fastest_backend(self) -> str:
        if self._device.type != "cuda":
            return "cpu"
        shape = (self._decoder.heads, self._decoder.kv_heads, self._decoder.head_dim)
        return "flash" if flash_works(self._device, self.dtype, *shape) else "paged"

    def _free_bytes(self) -> int:
        processes = available_cores() if self._device.type == "cpu" else 1
        return self._max_cache_bytes or cache_bytes(self._device, processes)

    def _params_of(self, request: Request, sample_index: int, params: SamplingParams) -> SamplingParams:
        """Sampling parameters of one completion; a subclass may vary them."""
        return params

    def _check_context(self, requests: abc.Sequence[Request], params: SamplingParams) -> None:
        rows = self._model.config.vocab_size
        for request in requests:
            if (largest := int(request.prompt_ids.max())) >= rows:
                raise ValueError(
                    f"problem {request.problem_id}: its prompt contains token {largest}, but the model has embeddings "
                    f"of {counted(rows, 'token')}; the tokenizer belongs to another model"
                )
            if len(request.prompt_ids) + params.max_completion_tokens > self.context_limit:
                raise ValueError(
                    f"problem {request.problem_id}: prompt of {counted(len(request.prompt_ids), 'token')} plus a "
                    f"budget of {params.max_completion_tokens} exceeds the model's context of {self.context_limit}; "
                    "lower max_completion_tokens or choose a model with a longer context"
                )

    def _check_memory(self, requests: abc.Sequence[Request], params: SamplingParams) -> None:
        for request in requests:
            most = self._max_sequence_tokens(len(request.prompt_ids))
            if len(request.prompt_ids) + params.max_completion_tokens > most:
                raise ValueError(
                    f"problem {request.problem_id}: prompt of {counted(len(request.prompt_ids), 'token')} plus a "
                    f"budget of {params.max_completion_tokens} does not fit into the cache, which has room for "
                    f"{counted(most, 'token')}; lower max_completion_tokens or give the cache more memory"
                )

    def _max_sequence_tokens(self, prompt_tokens: int) -> int:
        return self.cache.max_sequence_tokens(prompt_tokens)

    def _rollout(self, scheduler: OpenScheduler, sequence: Sequence) -> Rollout:
        reason = scheduler.finish_reason(sequence)
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


def _sequence(request: Request, index: int, params: SamplingParams) -> Sequence:
    if request.begun is None:
        return Sequence(request, index, params)
    return Sequence(
        request, index, params, _tokens=request.begun.completion_ids, _logprobs=request.begun.rollout_logprobs
    )
