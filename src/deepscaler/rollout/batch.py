"""Continuous batching: sequences that are decoded together in the slots of one cache, joining and leaving at any step.

A prompt is prefilled once per request. Finished sequences leave at once and waiting ones take their slots. N: sequences
of one step, V: vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Listed
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepscaler.attention import forward_hidden
from deepscaler.rollout.cache import DecodeAttention, PrefillAttention, SlotCache
from deepscaler.rollout.sampling import KeyedUniforms, sample_tokens
from deepscaler.types import FinishReason, Request, SamplingParams

PREFILL_TOKENS = 16384  # padded prompt tokens per prefill forward


@dataclass(slots=True)
class _Prefix:
    """A prefilled prompt: keys and values [L,K,tokens,D] and the logits [V] of its next token."""

    keys: Tensor
    values: Tensor
    logits: Tensor


@dataclass(slots=True, eq=False)
class Sequence:
    """One completion in the making. `cancelled` may be set at any time; it then leaves at the next step."""

    request: Request
    sample_index: int
    params: SamplingParams
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    cancelled: bool = False
    _uniforms: KeyedUniforms | None = None

    @property
    def num_cached(self) -> int:
        """Tokens in the cache: all but the newest one."""
        return len(self.request.prompt_ids) + len(self.tokens) - 1

    @property
    def num_needed(self) -> int:
        """Tokens it may grow to."""
        return len(self.request.prompt_ids) + self.params.max_completion_tokens

    def next_uniform(self) -> float:
        if self._uniforms is None:
            self._uniforms = KeyedUniforms(self.params, self.request.problem_id, self.sample_index)
        return self._uniforms.at(len(self.tokens))


class Batch:
    """`add` sequences at any time, `step` until `is_empty`. The caller checks that each fits into the cache."""

    def __init__(self, model: Any, cache: SlotCache, stop_ids: frozenset[int]) -> None:
        self._model, self._cache, self._stop_ids = model, cache, stop_ids
        self._device = next(model.parameters()).device
        self._waiting: deque[Sequence] = deque()
        self._prefixes: dict[int, _Prefix] = {}
        self.active: list[Sequence] = []

    @property
    def is_empty(self) -> bool:
        return not self._waiting and not self.active

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Sequences of one request should be added together: their prompt is then prefilled once."""
        assert sequence.num_needed <= self._cache.capacity
        self._waiting.append(sequence)

    def step(self) -> list[Sequence]:
        """One token for every sequence that has a slot; those that are finished now."""
        with torch.inference_mode():
            finished = self._drop_cancelled()
            admitted = self._admit()
            finished += [s for s in admitted if self.finish_reason(s)]
            self._place([s for s in admitted if not self.finish_reason(s)])
            if self.active:
                self._decode()
                finished += self._leave()
            self._forget()
        return finished

    def finish_reason(self, sequence: Sequence) -> FinishReason | None:
        if sequence.tokens and sequence.tokens[-1] in self._stop_ids:
            return FinishReason.STOP
        if len(sequence.tokens) >= sequence.params.max_completion_tokens:
            return FinishReason.LENGTH
        return FinishReason.CANCELLED if sequence.cancelled else None

    def _drop_cancelled(self) -> list[Sequence]:
        gone = [s for s in self._waiting if s.cancelled]
        if gone:
            self._waiting = deque(s for s in self._waiting if not s.cancelled)
        if any(s.cancelled for s in self.active):
            gone += self._leave()
        return gone

    def _admit(self) -> list[Sequence]:
        """Take waiting sequences into free slots and draw their first token."""
        count = min(self._cache.slots - len(self.active), len(self._waiting))
        if count == 0:
            return []
        admitted = [self._waiting.popleft() for _ in range(count)]
        new = {id(s.request): s.request for s in admitted if id(s.request) not in self._prefixes}
        self._prefill(list(new.values()))
        self._draw(admitted, torch.stack([self._prefixes[id(s.request)].logits for s in admitted]))
        return admitted

    def _prefill(self, requests: Listed[Request]) -> None:
        start = 0
        while start < len(requests):
            end, longest = start, 0
            while end < len(requests):
                longest = max(longest, len(requests[end].prompt_ids))
                if end > start and longest * (end + 1 - start) > PREFILL_TOKENS:
                    break
                end += 1
            self._prefill_together(requests[start:end])
            start = end

    def _prefill_together(self, requests: Listed[Request]) -> None:
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
            self._prefixes[id(request)] = _Prefix(keys[:, row, :, cut], values[:, row, :, cut], logits[row])

    def _place(self, admitted: list[Sequence]) -> None:
        """Give every admitted sequence the next slot, with its prompt's keys and values."""
        by_request: dict[int, list[int]] = {}
        for sequence in admitted:
            by_request.setdefault(id(sequence.request), []).append(len(self.active))
            self.active.append(sequence)
        for request, slots in by_request.items():
            prefix = self._prefixes[request]
            self._cache.put_prefix(torch.tensor(slots, device=self._device), prefix.keys, prefix.values)

    def _decode(self) -> None:
        """One token for every active sequence."""
        lengths = [s.num_cached for s in self.active]
        newest = torch.tensor([s.tokens[-1] for s in self.active], device=self._device)
        positions = torch.tensor(lengths, device=self._device)
        attention = DecodeAttention(self._cache, positions, max(lengths))
        hidden = forward_hidden(self._model, newest.unsqueeze(1), positions.unsqueeze(1), attention)
        self._draw(self.active, self._model.get_output_embeddings()(hidden[:, 0]))

    def _draw(self, sequences: Listed[Sequence], logits_NV: Tensor) -> None:
        """One token each; sequences that sample alike are drawn together."""
        alike: dict[tuple[float, float, int], list[int]] = {}
        for row, sequence in enumerate(sequences):
            p = sequence.params
            alike.setdefault((p.temperature, p.top_p, p.top_k), []).append(row)
        for rows in alike.values():
            uniform_N = torch.tensor([sequences[r].next_uniform() for r in rows], dtype=torch.float32)
            logits = logits_NV if len(alike) == 1 else logits_NV[rows]
            drawn = sample_tokens(logits, uniform_N.to(logits.device), sequences[rows[0]].params)
            for row, token, logprob in zip(rows, drawn[0].tolist(), drawn[1].tolist(), strict=True):
                sequences[row].tokens.append(token)
                sequences[row].logprobs.append(logprob)

    def _leave(self) -> list[Sequence]:
        """Remove finished sequences, last slot first; the then last active one moves into each gap."""
        finished: list[Sequence] = []
        for slot in range(len(self.active) - 1, -1, -1):
            if not self.finish_reason(self.active[slot]):
                continue
            finished.append(self.active[slot])
            last = self.active.pop()
            if slot < len(self.active):
                self._cache.move(len(self.active), slot, last.num_cached)
                self.active[slot] = last
        return finished

    def _forget(self) -> None:
        """Drop prefilled prompts nobody waits for. A request's samples stand together in the queue."""
        needed = id(self._waiting[0].request) if self._waiting else None
        for key in [k for k in self._prefixes if k != needed]:
            del self._prefixes[key]
