"""The embedded engine: continuous batching over a slotted cache, for any supported transformers causal LM.

Each draw is keyed by (seed, step, problem id, sample index, position), so a completion depends on neither batch
composition nor order as far as floating point allows: matrix products of another batch size may differ in the last
bits, and a uniform number that falls into such a gap (about one draw in 10^5 in float32) picks the neighbouring token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepscaler.rollout import batch
from deepscaler.rollout.cache import SlotCache
from deepscaler.types import Request, Rollout, SamplingParams, WeightsInfo
from deepscaler.weights import weights_digest


class TorchEngine:
    """Samples from `model`, which it may share with a learner: then publishing weights costs nothing.

    is_cancelled: asked at every step; once it says yes, what is under way is abandoned.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        stop_ids: frozenset[int],
        max_active: int = 256,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        parameter = next(model.parameters())
        self._model: Any = model
        self._stop_ids = stop_ids
        self._is_cancelled = is_cancelled
        self.dtype = parameter.dtype
        self._cache = SlotCache(self._model.config, max_active, parameter.dtype, parameter.device)
        self.context_limit: int = self._model.config.max_position_embeddings
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

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        """Yield rollouts as they finish. Raises ValueError when a prompt and the budget exceed the model's context."""
        self._check(requests, params)
        longest = max((len(r.prompt_ids) for r in requests), default=0)
        decoding = self.open_batch(longest + params.max_completion_tokens)
        for request in requests:
            for index in range(request.first_sample_index, request.first_sample_index + request.num_samples):
                decoding.add(batch.Sequence(request, index, params))
        while not decoding.is_empty and not self._is_cancelled():
            for sequence in decoding.step():
                yield self._rollout(decoding, sequence)

    def open_batch(self, capacity: int) -> batch.Batch:
        """A new batch of sequences of at most `capacity` tokens each. One at a time: they share the cache."""
        self._cache.reserve(capacity)
        return batch.Batch(self._model, self._cache, self._stop_ids)

    def _check(self, requests: Sequence[Request], params: SamplingParams) -> None:
        for request in requests:
            needed = len(request.prompt_ids) + params.max_completion_tokens
            if needed > self.context_limit:
                raise ValueError(
                    f"problem {request.problem_id}: prompt of {len(request.prompt_ids)} tokens plus a budget of "
                    f"{params.max_completion_tokens} exceeds the model's context of {self.context_limit}; lower "
                    "max_completion_tokens or choose a model with a longer context"
                )

    def _rollout(self, decoding: batch.Batch, sequence: batch.Sequence) -> Rollout:
        reason = decoding.finish_reason(sequence)
        assert reason is not None
        return Rollout(
            problem_id=sequence.request.problem_id,
            sample_index=sequence.sample_index,
            prompt_ids=sequence.request.prompt_ids,
            completion_ids=np.array(sequence.tokens, dtype=np.int32),
            rollout_logprobs=np.array(sequence.logprobs, dtype=np.float32),
            finish_reason=reason,
            policy_version=self.version,
        )
