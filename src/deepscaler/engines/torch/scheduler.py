"""Continuous batching: sequences are decoded together over one cache, and may join and leave at every step.

A prompt is prefilled once per request. A finished sequence frees its row and blocks at once and a waiting one takes its
place; when the cache is full, the newest running sequence is preempted and recomputed later from its own tokens.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from deepscaler.engines.torch.decode_state import DecodeState, Sequence, sample_rows
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.kv_cache import KVCache
from deepscaler.engines.torch.prefix_cache import PrefixCache
from deepscaler.engines.torch.stops import StopConditions
from deepscaler.types import FinishReason, RunError

__all__ = ["DecodeStep", "OpenScheduler", "Scheduler", "Sequence"]


class DecodeStep(Protocol):
    def run(self, state: DecodeState, changed: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The next token and its logprob for each row. `changed`: block tables differ from those of the last step."""
        ...


class OpenScheduler(Protocol):
    """What an engine and a server use of a scheduler: see `Scheduler`."""

    @property
    def has_unfinished(self) -> bool: ...
    @property
    def waiting(self) -> list[Sequence]: ...
    @property
    def running(self) -> list[Sequence]: ...
    def fits(self, sequence: Sequence) -> bool: ...
    def add(self, sequence: Sequence) -> None: ...
    def step(self) -> list[Sequence]: ...
    def cancel_all(self) -> None: ...
    def close(self) -> None: ...
    def finish_reason(self, sequence: Sequence) -> FinishReason | None: ...


class Scheduler:
    """`add` sequences at any time, `step` while `has_unfinished`, `close`. The caller checks `fits` before `add`.

    max_active: most sequences running at once.
    """

    def __init__(
        self, decoder: Decoder, cache: KVCache, step: DecodeStep, stops: StopConditions, max_active: int
    ) -> None:
        self._cache, self._step, self._stops, self._max_active = cache, step, stops, max_active
        self._waiting: deque[Sequence] = deque()
        self._state = DecodeState(max_active, stops)
        self._prefix_cache = PrefixCache(decoder, cache)
        self._changed = True  # do the block tables differ from those of the last step?
        self._closed_unfinished = False

    @property
    def has_unfinished(self) -> bool:
        return bool(self._closed_unfinished or self._waiting or len(self._state))

    @property
    def waiting(self) -> list[Sequence]:
        """Sequences that have not started, or were preempted."""
        return list(self._waiting)

    @property
    def running(self) -> list[Sequence]:
        return list(self._state.sequences)

    def fits(self, sequence: Sequence) -> bool:
        """Whether the cache has room for the sequence alone."""
        return sequence.max_tokens <= self._cache.max_sequence_tokens(len(sequence.request.prompt_ids))

    def add(self, sequence: Sequence) -> None:
        """Add all sequences of a request one after another: their prompt is then prefilled once.

        Raises ValueError for a stop string where the engine cannot decode.
        """
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
            finished += self._schedule_waiting()
            if len(self._state):
                self._allocate_blocks()
                self._state.append(*self._step.run(self._state, self._changed))
                self._changed = False
                finished += self._free_finished()
        return finished

    def cancel_all(self) -> None:
        """The next step returns every unfinished sequence as it is."""
        for sequence in (*self._waiting, *self._state.sequences):
            sequence.cancelled = True

    def close(self) -> None:
        """Free every block; unfinished sequences are dropped. May be called again."""
        self._closed_unfinished = self.has_unfinished
        while len(self._state):
            self._cache.allocator.free(self._state.remove(len(self._state) - 1)[1])
        self._prefix_cache.clear()
        self._waiting.clear()

    def finish_reason(self, sequence: Sequence) -> FinishReason | None:
        return finish_reason_of(sequence)

    def _abort_cancelled(self) -> list[Sequence]:
        aborted = [s for s in self._waiting if s.cancelled]
        if aborted:
            self._waiting = deque(s for s in self._waiting if not s.cancelled)
            self._prefix_cache.evict_unused(self._waiting)  # keys are object ids, which a later request may reuse
        if any(s.cancelled for s in self._state.sequences):
            aborted += self._free_finished()
        return aborted

    def _schedule_waiting(self) -> list[Sequence]:
        """Start waiting sequences and sample their next token. Returns the sequences that finish with it."""
        first = len(self._state)
        scheduled = self._prefix_cache.pop_schedulable(self._waiting, self._max_active - first, first)
        if not scheduled:
            return []
        logits = self._prefix_cache.prefill(scheduled)
        for sequence, blocks in zip(scheduled, self._prefix_cache.block_tables(scheduled), strict=True):
            self._state.add(sequence, blocks)
        self._prefix_cache.evict_unused(self._waiting)
        self._state.append(*sample_rows(logits, self._state, first), first)
        self._changed = True
        return self._free_finished()

    def _allocate_blocks(self) -> None:
        """Allocate a block for every row whose newest token begins one; one row always fits.

        While too few are free, drop cached prompts, then preempt the newest sequences.
        """
        state, allocator = self._state, self._cache.allocator
        full = np.flatnonzero(state.num_cached == state.block_tables[1] * self._cache.block_tokens)
        if len(full) > allocator.num_free:
            self._prefix_cache.clear()
        while len(full) > allocator.num_free:
            self._preempt()
            full = full[full < len(state)]
        if len(full):
            state.append_blocks(full, self._cache.allocate(len(full)))
            self._changed = True

    def _preempt(self) -> None:
        """Move the newest running sequence back to the front of the queue and free its blocks."""
        sequence, blocks = self._state.remove(len(self._state) - 1)
        self._cache.allocator.free(blocks)
        self._waiting.appendleft(sequence)
        self._changed = True

    def _free_finished(self) -> list[Sequence]:
        """Remove finished and cancelled sequences and free their blocks."""
        finished = []
        for row in self._state.finished():
            sequence, blocks = self._state.remove(int(row))
            self._cache.allocator.free(blocks)
            finished.append(sequence)
        self._changed |= bool(finished)
        return finished


def finish_reason_of(sequence: Sequence) -> FinishReason | None:
    """None while the sequence is unfinished."""
    if sequence.stopped:
        return FinishReason.STOP
    if len(sequence.token_array) >= sequence.params.max_completion_tokens:
        return FinishReason.LENGTH
    return FinishReason.CANCELLED if sequence.cancelled else None
