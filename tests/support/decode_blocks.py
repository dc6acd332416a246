"""Sequences of given lengths over the blocks of a cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepscaler.engines.torch.kv_cache import KVCache


def blocks_for(cache: KVCache, lengths: list[int]) -> tuple[Any, Any]:
    """A table of blocks with room for one more token than `lengths`, in no order of memory."""
    counts = np.array([n // cache.block_tokens + 1 for n in lengths])
    table = np.zeros((len(lengths), counts.max()), np.int64)
    free = np.random.default_rng(0).permutation(cache.allocate(int(counts.sum())))
    for row, count in enumerate(counts):
        table[row, :count], free = free[:count], free[count:]
    return table, counts
