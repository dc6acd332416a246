"""The cache for a GPU: one piece of memory that stays where it is while captured graphs read it.

K key-value heads, D head width, B tokens a block.
"""

from __future__ import annotations

import numpy as np

from deepscaler.engines.torch.decode_state import Rows
from deepscaler.engines.torch.kv_cache import BlockCache

SLACK = 64  # blocks: below this, gaps between blocks are not worth closing


class PoolCache(BlockCache):
    """Keys like values: [blocks,K,B,D]; block 0 is no sequence's, padded rows write there.

    Every block has one owner (a prompt is copied for each sample), because a step reads the first blocks of the pool as
    they lie (`pool_attention`).
    Blocks taken again keep what they held: finite numbers, which the weight 0 of a hidden place makes 0.
    """

    shares_blocks = False
    num_idle = 1
    zeroes_reused = False
    scratch_block = 0
    _key_order = (0, 2, 1, 3, 4)

    def reform(self, block_tokens: int, max_bytes: int | None = None) -> None:
        super().reform(block_tokens, max_bytes)
        assert self.allocator.take(1) == [self.scratch_block]

    def release(self) -> None:
        """Give all memory back, for a learner on the same device. No block may be in use."""
        assert self.allocator.num_used == self.num_idle
        self.reform(self.block_tokens)

    def _grow(self, needed: int) -> None:
        # On a GPU all at once, with the first block: a captured graph holds good while nothing moves.
        super()._grow(self.allocator.limit if self.device.type == "cuda" else needed)

    def close_gaps(self, rows: Rows) -> None:
        """Move blocks of `rows` down where over half of what a step would read is free."""
        allocator = self.allocator
        if allocator.span <= 2 * allocator.num_used + SLACK:
            return
        table, count = rows.tables
        held = table[np.arange(table.shape[1]) < count[:, None]]
        sources = np.sort(held[held >= allocator.num_used])
        targets = allocator.take(len(sources))  # the lowest free ones
        self.copy(sources.tolist(), targets)
        allocator.release(sources.tolist())
        rows.move_blocks(sources, np.array(targets))

    @staticmethod
    def suitable_block_tokens(longest: int) -> int:
        return 64 if longest <= 2048 else 256


class FlashCache(PoolCache):
    """Keys and values [blocks,B,K,D], as torch's flash attention reads them (`flash_attention`); prompts are shared."""

    shares_blocks = True
    _key_order = _value_order = (0, 2, 3, 1, 4)

    def close_gaps(self, rows: Rows) -> None:
        """Nothing to do: a step reads the blocks of its rows, wherever they are."""

    @staticmethod
    def suitable_block_tokens(longest: int) -> int:
        return 128 if longest <= 2048 else 256
