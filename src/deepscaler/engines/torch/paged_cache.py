"""Key-value cache on a GPU: its memory keeps its address while captured graphs read it.

K key-value heads, D head width, B tokens per block.
"""

from __future__ import annotations

import numpy as np

from deepscaler.engines.torch.decode_state import DecodeState
from deepscaler.engines.torch.kv_cache import KVCache

SLACK = 64  # free blocks between used ones that `compact` tolerates


class PagedCache(KVCache):
    """Keys and values [blocks,K,B,D]. Block 0 is a scratch block: padded rows write to it.

    Every block belongs to one sequence (a prompt is copied for each sample), because a step reads the first blocks of
    the cache in the order of memory (`paged_attention`). A block that is allocated again keeps its old content: finite
    numbers, which the attention weight 0 of a masked slot multiplies to 0.
    """

    shares_blocks = False
    num_reserved = 1
    clears_reused = False
    scratch_block = 0
    _key_order = (0, 2, 1, 3, 4)

    def reset(self, block_tokens: int, max_bytes: int | None = None) -> None:
        super().reset(block_tokens, max_bytes)
        assert self.allocator.allocate(1) == [self.scratch_block]

    def release(self) -> None:
        """Free all memory, for a learner on the same device. No block may be in use."""
        assert self.allocator.num_used == self.num_reserved
        self.reset(self.block_tokens)

    def _grow(self, needed: int) -> None:
        # On a GPU all at once, with the first block: captured graphs need fixed addresses.
        super()._grow(self.allocator.num_blocks if self.device.type == "cuda" else needed)

    def compact(self, state: DecodeState) -> None:
        """Move blocks to lower numbers when more than half of the blocks that a step would read are free."""
        allocator = self.allocator
        if allocator.span <= 2 * allocator.num_used + SLACK:
            return
        table, count = state.block_tables
        used = table[np.arange(table.shape[1]) < count[:, None]]
        sources = np.sort(used[used >= allocator.num_used])
        targets = allocator.allocate(len(sources))  # the lowest free ones
        self.copy(sources.tolist(), targets)
        allocator.free(sources.tolist())
        state.move_blocks(sources, np.array(targets))

    @staticmethod
    def choose_block_tokens(longest: int) -> int:
        return 64 if longest <= 2048 else 256


class FlashCache(PagedCache):
    """Keys and values [blocks,B,K,D], the layout of torch's flash attention (`flash_attention`); prompts are shared."""

    shares_blocks = True
    _key_order = _value_order = (0, 2, 3, 1, 4)

    def compact(self, state: DecodeState) -> None:
        """Nothing to do: a step reads only the blocks of its rows, wherever they are."""

    @staticmethod
    def choose_block_tokens(longest: int) -> int:
        return 128 if longest <= 2048 else 256
