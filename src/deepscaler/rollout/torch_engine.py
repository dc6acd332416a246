"""The embedded engine: continuous batching over a slotted cache, for any supported transformers causal LM.

A prompt is prefilled once per group. Finished sequences leave at once and waiting ones take their slots. Each draw
is keyed by (seed, step, problem id, sample index, position), so a completion depends on neither batch composition
nor order as far as floating point allows: matrix products of another batch size may differ in the last bits, and a
uniform number that falls into such a gap (about one draw in 10^5 in float32) picks the neighbouring token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepscaler.attention import forward_hidden
from deepscaler.rollout.cache import DecodeAttention, PrefillAttention, SlotCache
from deepscaler.rollout.sampling import KeyedUniforms, sample_tokens
from deepscaler.types import FinishReason, Request, Rollout, SamplingParams, WeightsInfo
from deepscaler.weights import weights_digest

PREFILL_TOKENS = 16384  # padded prompt tokens per prefill forward


@dataclass(slots=True)
class _Prefix:
    """A prefilled prompt: keys and values [L,K,tokens,D] and the logits [V] of its next token."""

    keys: Tensor
    values: Tensor
    logits: Tensor


@dataclass(slots=True)
class _Sequence:
    """One completion in the making."""

    request: Request
    sample_index: int
    uniforms: KeyedUniforms
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def num_cached(self) -> int:
        """Tokens in the cache: all but the newest one."""
        return len(self.request.prompt_ids) + len(self.tokens) - 1


class TorchEngine:
    """Samples from `model`, which it may share with a learner: then publishing weights costs nothing."""

    def __init__(self, model: nn.Module, *, stop_ids: frozenset[int], max_active: int = 256) -> None:
        parameter = next(model.parameters())
        self._model: Any = model
        self._stop_ids = stop_ids
        self._device = parameter.device
        self.dtype = parameter.dtype
        self._cache = SlotCache(self._model.config, max_active, parameter.dtype, parameter.device)
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

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        """Yield rollouts as they finish. Raises ValueError when a prompt and the budget exceed the model's context."""
        self._check(requests, params)
        longest = max((len(r.prompt_ids) for r in requests), default=0)
        self._cache.reserve(longest + params.max_completion_tokens)
        waiting: deque[_Sequence] = deque(
            _Sequence(r, i, KeyedUniforms(params, r.problem_id, i))
            for r in requests
            for i in range(r.first_sample_index, r.first_sample_index + r.num_samples)
        )
        prefixes: dict[int, _Prefix] = {}
        active: list[_Sequence] = []
        while waiting or active:
            with torch.inference_mode():
                admitted = self._admit(waiting, prefixes, len(active), params)
                finished = [s for s in admitted if self._finish_reason(s, params)]
                self._place([s for s in admitted if not self._finish_reason(s, params)], active, prefixes)
                if active:
                    self._decode(active, params)
                    finished += self._leave(active, params)
                self._forget(prefixes, waiting)
            for sequence in finished:
                yield self._rollout(sequence, params)

    def _check(self, requests: Sequence[Request], params: SamplingParams) -> None:
        for request in requests:
            needed = len(request.prompt_ids) + params.max_completion_tokens
            if needed > self._context_limit:
                raise ValueError(
                    f"problem {request.problem_id}: prompt of {len(request.prompt_ids)} tokens plus a budget of "
                    f"{params.max_completion_tokens} exceeds the model's context of {self._context_limit}; lower "
                    "max_completion_tokens or choose a model with a longer context"
                )

    def _admit(
        self, waiting: deque[_Sequence], prefixes: dict[int, _Prefix], num_active: int, params: SamplingParams
    ) -> list[_Sequence]:
        """Take waiting sequences into free slots and draw their first token."""
        count = min(self._cache.slots - num_active, len(waiting))
        if count == 0:
            return []
        admitted = [waiting.popleft() for _ in range(count)]
        new = {id(s.request): s.request for s in admitted if id(s.request) not in prefixes}
        self._prefill(list(new.values()), prefixes)
        self._draw(admitted, torch.stack([prefixes[id(s.request)].logits for s in admitted]), params)
        return admitted

    def _prefill(self, requests: Sequence[Request], prefixes: dict[int, _Prefix]) -> None:
        start = 0
        while start < len(requests):
            end, longest = start, 0
            while end < len(requests):
                longest = max(longest, len(requests[end].prompt_ids))
                if end > start and longest * (end + 1 - start) > PREFILL_TOKENS:
                    break
                end += 1
            self._prefill_together(requests[start:end], prefixes)
            start = end

    def _prefill_together(self, requests: Sequence[Request], prefixes: dict[int, _Prefix]) -> None:
        lengths = [len(r.prompt_ids) for r in requests]
        ids = np.zeros((len(requests), max(lengths)), dtype=np.int64)
        for row, request in enumerate(requests):
            ids[row, : lengths[row]] = request.prompt_ids
        attention = PrefillAttention()
        positions = torch.arange(ids.shape[1], device=self._device).expand(len(requests), -1)
        hidden = forward_hidden(self._model, torch.from_numpy(ids).to(self._device), positions, attention)
        last = hidden[torch.arange(len(requests)), torch.tensor(lengths) - 1]
        logits = self._model.get_output_embeddings()(last)
        keys, values = torch.stack(attention.keys), torch.stack(attention.values)
        for row, request in enumerate(requests):
            cut = slice(0, lengths[row])
            prefixes[id(request)] = _Prefix(keys[:, row, :, cut], values[:, row, :, cut], logits[row])

    def _place(self, admitted: list[_Sequence], active: list[_Sequence], prefixes: dict[int, _Prefix]) -> None:
        """Give every admitted sequence the next slot, with its prompt's keys and values."""
        by_request: dict[int, list[int]] = {}
        for sequence in admitted:
            by_request.setdefault(id(sequence.request), []).append(len(active))
            active.append(sequence)
        for request, slots in by_request.items():
            prefix = prefixes[request]
            self._cache.put_prefix(torch.tensor(slots, device=self._device), prefix.keys, prefix.values)

    def _decode(self, active: list[_Sequence], params: SamplingParams) -> None:
        """One token for every active sequence."""
        lengths = [s.num_cached for s in active]
        newest = torch.tensor([s.tokens[-1] for s in active], device=self._device)
        positions = torch.tensor(lengths, device=self._device)
        attention = DecodeAttention(self._cache, positions, max(lengths))
        hidden = forward_hidden(self._model, newest.unsqueeze(1), positions.unsqueeze(1), attention)
        self._draw(active, self._model.get_output_embeddings()(hidden[:, 0]), params)

    def _draw(self, sequences: Sequence[_Sequence], logits_NV: Tensor, params: SamplingParams) -> None:
        uniform_N = torch.tensor([s.uniforms.at(len(s.tokens)) for s in sequences], dtype=torch.float32)
        tokens_N, logprobs_N = sample_tokens(logits_NV, uniform_N.to(logits_NV.device), params)
        for sequence, token, logprob in zip(sequences, tokens_N.tolist(), logprobs_N.tolist(), strict=True):
            sequence.tokens.append(token)
            sequence.logprobs.append(logprob)

    def _leave(self, active: list[_Sequence], params: SamplingParams) -> list[_Sequence]:
        """Remove finished sequences, last slot first; the then last active one moves into each gap."""
        finished: list[_Sequence] = []
        for slot in range(len(active) - 1, -1, -1):
            if not self._finish_reason(active[slot], params):
                continue
            finished.append(active[slot])
            last = active.pop()
            if slot < len(active):
                self._cache.move(len(active), slot, last.num_cached)
                active[slot] = last
        return finished

    @staticmethod
    def _forget(prefixes: dict[int, _Prefix], waiting: deque[_Sequence]) -> None:
        """Drop prefilled prompts nobody waits for. A group's samples stand together in the queue."""
        needed = id(waiting[0].request) if waiting else None
        for key in [k for k in prefixes if k != needed]:
            del prefixes[key]

    def _finish_reason(self, sequence: _Sequence, params: SamplingParams) -> FinishReason | None:
        if sequence.tokens[-1] in self._stop_ids:
            return FinishReason.STOP
        if len(sequence.tokens) >= params.max_completion_tokens:
            return FinishReason.LENGTH
        return None

    def _rollout(self, sequence: _Sequence, params: SamplingParams) -> Rollout:
        reason = self._finish_reason(sequence, params)
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
