"""Which blocks of the key-value cache are free, and how many holders each has.

A block has room for a fixed number of tokens of one sequence, in every layer. The full blocks of a prompt are held by
all samples of its group; everything a sequence writes to it holds alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np


class BlockAllocator:
    """Hands out block numbers 0..limit-1, lowest first, so that `highest` says how much memory is really needed."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._holders = np.zeros(limit, dtype=np.int32)
        self._free: list[int] = []  # a heap of returned ones; those from `highest` on were never given out
        self.highest = 0

    @property
    def num_free(self) -> int:
        return self.limit - self.highest + len(self._free)

    @property
    def num_used(self) -> int:
        return self.limit - self.num_free

    @property
    def span(self) -> int:
        """One more than the highest block in use, 0 without any."""
        used = np.flatnonzero(self._holders[: self.highest])
        return int(used[-1]) + 1 if len(used) else 0

    def take(self, count: int) -> list[int]:
        """`count` blocks, each with one holder. The caller has made sure that they are there."""
        assert count <= self.num_free, f"{count} blocks wanted, {self.num_free} free"
        reused = min(count, len(self._free))
        blocks = [heapq.heappop(self._free) for _ in range(reused)]
        blocks.extend(range(self.highest, self.highest + count - reused))
        self.highest += count - reused
        self._holders[blocks] = 1
        return blocks

    def share(self, blocks: Sequence[int], holders: int) -> None:
        """`holders` more sequences hold each of `blocks`."""
        self._holders[list(blocks)] += holders

    def release(self, blocks: Sequence[int]) -> None:
        """One holder less each; a block without any is free at once."""
        for block in blocks:
            self._holders[block] -= 1
            assert self._holders[block] >= 0
            if self._holders[block] == 0:
                heapq.heappush(self._free, block)
