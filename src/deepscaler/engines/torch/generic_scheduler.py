"""Continuous batching of a model without a family, over its own cache in transformers (`modeling.generic`).

Sequences of the same length are decoded together: their rows need no padding and no mask, so windows, chunks, learned
positions and recurrent states are the model's own, and every row is what it would be alone. The samples of a group
share their prompt, hence they begin together and stay together. A finished row leaves the cache at once.

N sequences, U different prompts among them, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.engines.torch.decode_state import DecodeState, Sequence, sample_rows
from deepscaler.engines.torch.prefix_cache import PREFILL_TOKENS
from deepscaler.engines.torch.scheduler import finish_reason_of
from deepscaler.engines.torch.stops import StopConditions
from deepscaler.modeling.generic import own_logits
from deepscaler.types import FinishReason, RunError


@dataclass(slots=True)
class _Cohort:
    """Sequences of one length, one row each in `state` and in `cache`; without a cache everything is computed anew."""

    state: DecodeState
    cache: Any


class GenericScheduler:
    """As `scheduler.Scheduler`: `add` at any time, `step` while `has_unfinished`, `close`.

    max_tokens: that all running sequences may reach together, by the memory for the cache.
    """

    def __init__(self, model: Any, stops: StopConditions, max_active: int, max_tokens: int) -> None:
        self._model, self._stops, self._max_active, self._max_tokens = model, stops, max_active, max_tokens
        weight = next(model.parameters())
        self._device: torch.device = weight.device
        self._half = None if weight.dtype == torch.float32 else weight.dtype
        self._waiting: deque[Sequence] = deque()
        self._cohorts: list[_Cohort] = []
        self._closed_unfinished = False

    @property
    def has_unfinished(self) -> bool:
        return bool(self._closed_unfinished or self._waiting or self._cohorts)

    @property
    def waiting(self) -> list[Sequence]:
        return list(self._waiting)

    @property
    def running(self) -> list[Sequence]:
        return [sequence for cohort in self._cohorts for sequence in cohort.state.sequences]

    def fits(self, sequence: Sequence) -> bool:
        """Whether the cache has room for the sequence alone."""
        return sequence.max_tokens <= self._max_tokens

    def add(self, sequence: Sequence) -> None:
        """Raises ValueError for a stop string where the engine cannot decode."""
        self._stops.check(sequence.params)
        assert self.fits(sequence)
        self._waiting.append(sequence)

    def step(self) -> list[Sequence]:
        """Decode one token for every sequence that has room. Returns the sequences that finished.

        Raises RunError for non-finite logits, and when the engine has opened another scheduler since.
        """
        if self._closed_unfinished:
            raise RunError("this generation was ended by a newer one of the same engine; finish one before the next")
        with torch.inference_mode():
            finished = self._abort_cancelled()
            finished += self._start_waiting()
            for cohort in self._cohorts:
                logits = self._next_logits(cohort)
                cohort.state.append(*sample_rows(logits, cohort.state, 0))
                finished += _remove_finished(cohort)
            self._cohorts = [cohort for cohort in self._cohorts if len(cohort.state)]
        return finished

    def cancel_all(self) -> None:
        """The next step returns every unfinished sequence as it is."""
        for sequence in (*self._waiting, *self.running):
            sequence.cancelled = True

    def close(self) -> None:
        """Unfinished sequences are dropped. May be called again."""
        self._closed_unfinished = self.has_unfinished
        for cohort in self._cohorts:
            while len(cohort.state):
                cohort.state.remove(len(cohort.state) - 1)
        self._cohorts.clear()
        self._waiting.clear()

    def finish_reason(self, sequence: Sequence) -> FinishReason | None:
        return finish_reason_of(sequence)

    def _abort_cancelled(self) -> list[Sequence]:
        aborted = [s for s in self._waiting if s.cancelled]
        self._waiting = deque(s for s in self._waiting if not s.cancelled)
        for cohort in self._cohorts:
            if any(s.cancelled for s in cohort.state.sequences):
                aborted += _remove_finished(cohort)
        self._cohorts = [cohort for cohort in self._cohorts if len(cohort.state)]
        return aborted

    def _start_waiting(self) -> list[Sequence]:
        """Start waiting sequences and sample their next token. Returns those that finish with it."""
        finished: list[Sequence] = []
        for sequences in _by_length(self._pop_schedulable()):
            cohort = _Cohort(DecodeState(len(sequences), self._stops), None)
            for sequence in sequences:
                cohort.state.add(sequence, [])
            self._cohorts.append(cohort)  # before the forward: a step that fails leaves it among the running ones
            logits = self._prefill(cohort, sequences)
            cohort.state.append(*sample_rows(logits, cohort.state, 0))
            finished += _remove_finished(cohort)
        self._cohorts = [cohort for cohort in self._cohorts if len(cohort.state)]
        return finished

    def _pop_schedulable(self) -> list[Sequence]:
        running = self.running
        room = self._max_active - len(running)
        free = self._max_tokens - sum(sequence.max_tokens for sequence in running)
        chosen: list[Sequence] = []
        while self._waiting and len(chosen) < room and self._waiting[0].max_tokens <= free:
            free -= self._waiting[0].max_tokens
            chosen.append(self._waiting.popleft())
        return chosen

    def _prefill(self, cohort: _Cohort, sequences: list[Sequence]) -> Tensor:
        """Logits [N,V] after each sequence's tokens; equal ones are computed once."""
        numbers: dict[bytes, int] = {}
        ids_U: list[NDArray[np.int32]] = []
        for sequence in sequences:
            if (key := sequence.ids.tobytes()) not in numbers:
                numbers[key] = len(ids_U)
                ids_U.append(sequence.ids)
        chosen_N = torch.tensor([numbers[s.ids.tobytes()] for s in sequences], device=self._device)
        logits_UV, cohort.cache = self._forward(np.stack(ids_U), None)
        if len(ids_U) < len(sequences):
            _select(cohort.cache, chosen_N)
        return logits_UV[chosen_N]

    def _next_logits(self, cohort: _Cohort) -> Tensor:
        if cohort.cache is None:
            return self._forward(np.stack([s.ids for s in cohort.state.sequences]), None)[0]
        return self._forward(cohort.state.last_tokens[:, None], cohort.cache)[0]

    def _forward(self, ids: NDArray[Any], cache: Any) -> tuple[Tensor, Any]:
        """Logits [N,V] after the last of the given tokens [N,T], and the cache with them, if it is one of rows."""
        tokens = torch.from_numpy(ids.astype(np.int64)).to(self._device)
        rows = torch.arange(len(tokens), device=self._device)
        last = torch.full_like(rows, tokens.shape[1] - 1)
        whole = {"attention_mask": torch.ones_like(tokens)} if cache is None else {}  # no token is padding
        logits, kept = own_logits(
            self._model, tokens, rows, last, half=self._half, cache=cache, use_cache=True, **whole
        )
        return logits, kept if hasattr(kept, "reorder_cache") else None


def _by_length(sequences: list[Sequence]) -> list[list[Sequence]]:
    """In lists of one length each, of at most PREFILL_TOKENS tokens, in the order of their first sequences."""
    groups: dict[int, list[list[Sequence]]] = {}
    for sequence in sequences:
        length = len(sequence.ids)
        lists = groups.setdefault(length, [[]])
        different = {s.ids.tobytes() for s in lists[-1]} | {sequence.ids.tobytes()}
        if lists[-1] and len(different) * length > PREFILL_TOKENS:
            lists.append([])
        lists[-1].append(sequence)
    return [members for lists in groups.values() for members in lists]


def _remove_finished(cohort: _Cohort) -> list[Sequence]:
    """Remove finished and cancelled sequences from state and cache; the last row moves into the place of each."""
    order = list(range(len(cohort.state)))
    finished = []
    for row in cohort.state.finished():
        sequence, _ = cohort.state.remove(int(row))
        finished.append(sequence)
        order[int(row)] = order[-1]
        order.pop()
    if finished and order:
        _select(cohort.cache, torch.tensor(order))
    return finished


def _select(cache: Any, rows: Tensor) -> None:
    """Let the cache have these rows, some maybe several times."""
    if cache is not None:
        cache.reorder_cache(rows)
