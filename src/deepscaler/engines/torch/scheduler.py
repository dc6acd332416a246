"""Continuous batching: sequences that are decoded together over one cache, joining and leaving at any step.

A prompt is prefilled once per request. Finished sequences leave at once and waiting ones take their place; when the
cache is full, the newest sequence waits again and is taken up later where it stood.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from deepscaler.engines.torch.decode_state import Rows, Sequence, draw_rows
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.kv_cache import BlockCache
from deepscaler.engines.torch.prefix_cache import Prefixes
from deepscaler.engines.torch.stops import Stops
from deepscaler.types import FinishReason, RunError

__all__ = ["Batch", "Sequence", "Step"]


class Step(Protocol):
    def run(self, rows: Rows, changed: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The next token and its logprob for each row. `changed`: their blocks are others than in the last step."""
        ...


class Batch:
    """`add` sequences at any time, `step` until `is_empty`, `close`. The caller checks that each fits."""

    def __init__(self, decoder: Decoder, cache: BlockCache, step: Step, stops: Stops, max_active: int) -> None:
        self._cache, self._step, self._stops, self._max_active = cache, step, stops, max_active
        self._waiting: deque[Sequence] = deque()
        self._rows = Rows(max_active, stops)
        self._prefixes = Prefixes(decoder, cache)
        self._changed = True  # are the blocks in use other ones than in the last step?
        self._lost = False  # was it closed with work left?

    @property
    def is_empty(self) -> bool:
        return not (self._lost or self._waiting or len(self._rows))

    @property
    def waiting(self) -> list[Sequence]:
        """Those that have not been taken up yet, or wait again."""
        return list(self._waiting)

    @property
    def active(self) -> list[Sequence]:
        """Those that are decoded now."""
        return list(self._rows.sequences)

    def fits(self, sequence: Sequence) -> bool:
        """Whether the cache has room for it alone."""
        return sequence.num_needed <= self._cache.room(len(sequence.request.prompt_ids))

    def add(self, sequence: Sequence) -> None:
        """Sequences of one request should be added together: their prompt is then prefilled once.

        Raises ValueError for a stop string where the engine cannot decode.
        """
        self._stops.check(sequence.params)
        assert self.fits(sequence)
        self._waiting.append(sequence)

    def step(self) -> list[Sequence]:
        """One token for every sequence that finds room; those that are finished now.

        Raises RunError for non-finite logits, and when a newer batch of the engine has taken over.
        """
        if self._lost:
            raise RunError("this generation was ended by a newer one of the same engine; finish one before the next")
        with torch.inference_mode():
            finished = self._drop_cancelled()
            finished += self._admit()
            if len(self._rows):
                self._make_room()
                self._rows.append(*self._step.run(self._rows, self._changed))
                self._changed = False
                finished += self._leave()
        return finished

    def close(self) -> None:
        """Give every block back; what is under way is lost. Closing again does nothing."""
        self._lost = not self.is_empty
        while len(self._rows):
            self._cache.allocator.release(self._rows.remove(len(self._rows) - 1)[1])
        self._prefixes.clear()
        self._waiting.clear()

    def finish_reason(self, sequence: Sequence) -> FinishReason | None:
        tokens = sequence.token_array
        if sequence.stopped:
            return FinishReason.STOP
        if len(tokens) >= sequence.params.max_completion_tokens:
            return FinishReason.LENGTH
        return FinishReason.CANCELLED if sequence.cancelled else None

    def _drop_cancelled(self) -> list[Sequence]:
        gone = [s for s in self._waiting if s.cancelled]
        if gone:
            self._waiting = deque(s for s in self._waiting if not s.cancelled)
            self._prefixes.forget(self._waiting)  # they go by identity, which a later request may have
        if any(s.cancelled for s in self._rows.sequences):
            gone += self._leave()
        return gone

    def _admit(self) -> list[Sequence]:
        """Take waiting sequences up and draw their next token; those that end with it."""
        first = len(self._rows)
        admitted = self._prefixes.admissible(self._waiting, self._max_active - first, first)
        if not admitted:
            return []
        logits = self._prefixes.fill(admitted)
        for sequence, blocks in zip(admitted, self._prefixes.tables_for(admitted), strict=True):
            self._rows.add(sequence, blocks)
        self._prefixes.forget(self._waiting)
        self._rows.append(*draw_rows(logits, self._rows, first), first)
        self._changed = True
        return self._leave()

    def _make_room(self) -> None:
        """A block for every row whose newest token begins one.

        While there are too few, kept prompts are dropped and then the newest rows wait again; one row always fits.
        """
        rows, allocator = self._rows, self._cache.allocator
        full = np.flatnonzero(rows.num_cached == rows.tables[1] * self._cache.block_tokens)
        if len(full) > allocator.num_free:
            self._prefixes.clear()
        while len(full) > allocator.num_free:
            sequence, blocks = rows.remove(len(rows) - 1)
            allocator.release(blocks)
            self._waiting.appendleft(sequence)
            full, self._changed = full[full < len(rows)], True
        if len(full):
            rows.give_blocks(full, self._cache.take(len(full)))
            self._changed = True

    def _leave(self) -> list[Sequence]:
        """Remove finished sequences; their blocks are free at once."""
        finished = []
        for row in self._rows.finished():
            sequence, blocks = self._rows.remove(int(row))
            self._cache.allocator.release(blocks)
            finished.append(sequence)
        self._changed |= bool(finished)
        return finished
