"""Reference counts of the blocks of the key-value cache, and which of them are free.

A block holds a fixed number of tokens of one sequence, in every layer. The full blocks of a prompt are shared by all
samples of its group; a block that a sequence writes to has one reference.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np


class BlockAllocator:
    """Allocates block numbers 0..num_blocks-1, lowest first, so that `peak` says how much memory is really needed.

    peak: one more than the highest block ever allocated.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._ref_counts = np.zeros(num_blocks, dtype=np.int32)
        self._freed: list[int] = []  # heap; blocks from `peak` on were never allocated
        self.peak = 0

    @property
    def num_free(self) -> int:
        return self.num_blocks - self.peak + len(self._freed)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    @property
    def span(self) -> int:
        """One more than the highest block in use, 0 without any."""
        used = np.flatnonzero(self._ref_counts[: self.peak])
        return int(used[-1]) + 1 if len(used) else 0

    def allocate(self, count: int) -> list[int]:
        """`count` blocks with one reference each. The caller checks `num_free` first."""
        assert count <= self.num_free, f"{count} blocks requested, {self.num_free} free"
        reused = min(count, len(self._freed))
        blocks = [heapq.heappop(self._freed) for _ in range(reused)]
        blocks.extend(range(self.peak, self.peak + count - reused))
        self.peak += count - reused
        self._ref_counts[blocks] = 1
        return blocks

    def add_references(self, blocks: Sequence[int], count: int = 1) -> None:
        """`count` more references to each of `blocks`."""
        self._ref_counts[list(blocks)] += count

    def free(self, blocks: Sequence[int]) -> None:
        """Drop one reference to each block; a block without references can be allocated again."""
        for block in blocks:
            self._ref_counts[block] -= 1
            assert self._ref_counts[block] >= 0
            if self._ref_counts[block] == 0:
                heapq.heappush(self._freed, block)
