"""The embedded engine: continuous batching over a cache in blocks, for any supported transformers causal LM.

A prompt is prefilled once per group. Finished sequences leave at once and waiting ones take their place; when the
cache is full, the newest sequence waits again and is taken up later where it stood. Each draw is keyed by (seed, step,
problem id, sample index, position), so a completion depends on neither batch composition nor order as far as floating
point allows: matrix products of another batch size may differ in the last bits, and a uniform number that falls into
such a gap (about one draw in 10^5 in float32) picks the neighbouring token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Several
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepscaler.rollout.block_attention import BlockStep
from deepscaler.rollout.cache import BlockCache, default_cache_bytes
from deepscaler.rollout.decoder import Decoder
from deepscaler.rollout.pool import PoolCache, PoolStep
from deepscaler.rollout.prefill import Prefixes
from deepscaler.rollout.rows import Rows, Sequence
from deepscaler.rollout.sampling import KeyedUniforms, sample_tokens
from deepscaler.types import Request, Rollout, RunError, SamplingParams, WeightsInfo
from deepscaler.weights import weights_digest


class TorchEngine:
    """Samples from `model`, which it may share with a learner: then publishing weights costs nothing."""

    def __init__(
        self,
        model: nn.Module,
        *,
        stop_ids: frozenset[int],
        max_active: int = 256,
        max_cache_bytes: int | None = None,
    ) -> None:
        """`max_cache_bytes`: upper limit of the key-value cache; None = half of the memory that is free now."""
        parameter = next(model.parameters())
        self._model: Any = model
        self._stop_ids = np.array(sorted(stop_ids), dtype=np.int64)
        self._device = parameter.device
        self.dtype = parameter.dtype
        self._max_active = max_active
        limit = max_cache_bytes or default_cache_bytes(self._device)
        self._decoder = Decoder(model)
        cache, step = (PoolCache, PoolStep) if self._device.type == "cuda" else (BlockCache, BlockStep)
        self._cache = cache(self._model.config, parameter.dtype, parameter.device, limit)
        self._step = step(self._decoder, self._cache)
        self._context_limit: int = self._model.config.max_position_embeddings
        self.version = 0

    def weights_info(self) -> WeightsInfo:
        return WeightsInfo(self.version, weights_digest(self._model.named_parameters()))

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copy the given weights in place, casting to the engine's dtype. Raises KeyError for an unknown name."""
        own = dict(self._model.named_parameters())
        for name, weight in weights:
            if weight is not own[name]:
                own[name].copy_(weight)
        self.version = version

    def generate(self, requests: Several[Request], params: SamplingParams) -> Iterator[Rollout]:
        """Yield rollouts as they finish.

        Raises ValueError when a prompt and the budget exceed the model's context or the memory for the cache, RunError
        when an earlier generation of this engine is neither finished nor closed.
        """
        longest = max((len(r.prompt_ids) for r in requests), default=0) + params.max_completion_tokens
        self._prepare(longest)
        self._check(requests, params)
        waiting = deque(
            Sequence(r, i, KeyedUniforms(params, r.problem_id, i), self._budget(r, i, params))
            for r in requests
            for i in range(r.first_sample_index, r.first_sample_index + r.num_samples)
        )
        rows = Rows(min(self._max_active, len(waiting)), self._stop_ids)
        prefixes = Prefixes(self._model, self._cache)
        self._decoder.refresh(longest)
        changed = True  # are the blocks in use other ones than in the last step?
        try:
            while waiting or len(rows):
                with torch.inference_mode():
                    finished, admitted = self._admit(waiting, rows, prefixes, params)
                    if len(rows):
                        changed |= self._make_room(waiting, rows, prefixes) or admitted
                        rows.append(*self._step.run(rows, params, changed))
                        left = self._leave(rows)
                        finished, changed = finished + left, bool(left)
                for sequence in finished:
                    yield sequence.rollout(self.version, self._stop_ids)
        finally:
            while len(rows):
                self._cache.allocator.release(rows.remove(len(rows) - 1)[1])
            prefixes.clear()

    def _prepare(self, longest: int) -> None:
        """An empty cache, in blocks of a size that suits sequences of `longest` tokens."""
        if self._cache.allocator.num_used > self._cache.num_idle:
            raise RunError("an earlier generation of this engine is unfinished; exhaust or close its iterator first")
        suitable = self._cache.suitable_block_tokens(longest)
        if self._cache.block_tokens != suitable:
            self._cache.reform(suitable)

    def _budget(self, request: Request, sample_index: int, params: SamplingParams) -> int:
        """The most tokens a completion may have."""
        return params.max_completion_tokens

    def _check(self, requests: Several[Request], params: SamplingParams) -> None:
        size, blocks = self._cache.block_tokens, self._cache.allocator.limit - self._cache.num_idle
        for request in requests:
            needed = len(request.prompt_ids) + params.max_completion_tokens
            if needed > self._context_limit:
                raise ValueError(
                    f"problem {request.problem_id}: prompt of {len(request.prompt_ids)} tokens plus a budget of "
                    f"{params.max_completion_tokens} exceeds the model's context of {self._context_limit}; lower "
                    "max_completion_tokens or choose a model with a longer context"
                )
            # A prompt is there a second time when it is copied: its last block, or all of it. One more to grow.
            copied = 1 if self._cache.shares_blocks else -(-len(request.prompt_ids) // size)
            room = max(0, blocks - copied - 1) * size
            if needed > room:
                raise ValueError(
                    f"problem {request.problem_id}: prompt of {len(request.prompt_ids)} tokens plus a budget of "
                    f"{params.max_completion_tokens} does not fit into the cache, which has room for {room} "
                    "tokens; lower max_completion_tokens or give the cache more memory"
                )

    def _admit(
        self, waiting: deque[Sequence], rows: Rows, prefixes: Prefixes, params: SamplingParams
    ) -> tuple[list[Sequence], bool]:
        """Take waiting sequences up, draw their next token, and return those that end with it; were any taken up?"""
        first = len(rows)
        admitted = prefixes.admissible(waiting, self._max_active - first, first)
        if not admitted:
            return [], False
        logits = prefixes.fill(admitted)
        for sequence, table in zip(admitted, prefixes.tables_for(admitted), strict=True):
            rows.add(sequence, table)
        prefixes.forget(waiting)
        uniform_N = torch.from_numpy(rows.uniforms(first)).to(logits.device)
        tokens_N, logprobs_N = sample_tokens(logits, uniform_N, params)
        rows.append(tokens_N.cpu().numpy(), logprobs_N.cpu().numpy(), first)
        return self._leave(rows), True

    def _make_room(self, waiting: deque[Sequence], rows: Rows, prefixes: Prefixes) -> bool:
        """A block for every row whose newest token begins one. Returns whether any block changed hands.

        While there are too few, kept prompts are dropped and then the newest rows wait again; one row always fits.
        """
        allocator, changed = self._cache.allocator, False
        full = np.flatnonzero(rows.num_cached == rows.tables[1] * self._cache.block_tokens)
        if len(full) > allocator.num_free:
            prefixes.clear()
        while len(full) > allocator.num_free:
            sequence, blocks = rows.remove(len(rows) - 1)
            allocator.release(blocks)
            waiting.appendleft(sequence)
            full, changed = full[full < len(rows)], True
        if len(full):
            rows.give_blocks(full, self._cache.take(len(full)))
        return changed or len(full) > 0

    def _leave(self, rows: Rows) -> list[Sequence]:
        """Remove finished sequences; their blocks are free at once."""
        finished = []
        for row in rows.finished():
            sequence, table = rows.remove(int(row))
            self._cache.allocator.release(table)
            finished.append(sequence)
        return finished
