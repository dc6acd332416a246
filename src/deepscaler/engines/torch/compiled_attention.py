"""Attention of one new token per sequence by the compiled function of `kernels`: float32 on CPU.

N sequences, M blocks in use by them, H query heads, K key-value heads, D head width, B tokens in a block.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.engines.torch.kv_cache import KVCache

Places = NDArray[np.int64]


class CompiledLayout:
    """Where everything lies for as long as no block is added or freed; the same for all layers.

    Blocks are read in the order of memory, in which the processor reads ahead.
    """

    def __init__(self, table_NT: Places, count_N: Places, cache: KVCache, heads: int, padding: int) -> None:
        """table_NT and count_N: `DecodeState.block_tables`; `padding`: rows of zeros wanted after the N sequences."""
        from deepscaler.engines.torch import kernels  # compiled when first used

        assert cache.dtype == torch.float32
        self._attend, self._block_tokens = kernels.attend, cache.block_tokens
        self._keys, self._values = ([x.numpy() for x in tensors] for tensors in (cache.keys, cache.values))
        self._blocks_M, self._owner_M, place_M = in_order_of_memory(table_NT, count_N)
        self.num_blocks = len(self._blocks_M)
        self._in_order_M = np.lexsort((place_M, self._owner_M))
        self._starts_N = np.concatenate([[0], np.cumsum(count_N)])
        # How many tokens of each block count, the new one included.
        self.visible_M = np.full(self.num_blocks, cache.block_tokens)
        self._parts_MHD = np.empty((self.num_blocks, heads, cache.head_dim), np.float32)
        self._out_NHD = np.zeros((len(count_N) + padding, heads, cache.head_dim), np.float32)
        self._out = torch.from_numpy(self._out_NHD).view(len(self._out_NHD), -1)

    def step(self, length_N: Tensor) -> CompiledLayout:
        """Attention of the next token. length_N: int64 [N], tokens already cached of each sequence."""
        last_N = self._in_order_M[self._starts_N[1:] - 1]
        self.visible_M[last_N] = length_N.numpy() % self._block_tokens + 1
        return self

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [rows,H,D], key and value [rows,K,D] -> [rows,H*D], overwritten by the next call."""
        assert query.stride()[1:] == (query.shape[2], 1), "the compiled function reads the heads of a row as one piece"
        self._attend(
            query.numpy(),
            key.numpy(),
            value.numpy(),
            self._keys[layer],
            self._values[layer],
            self._blocks_M,
            self._owner_M,
            self.visible_M,
            self._in_order_M,
            self._starts_N,
            self._parts_MHD,
            self._out_NHD,
        )
        return self._out


def in_order_of_memory(table_NT: Places, count_N: Places) -> tuple[Places, Places, Places]:
    """Block, sequence, and place in the sequence of every block in use, each int64 [M]."""
    owner, place = np.nonzero(np.arange(count_N.max()) < count_N[:, None])
    blocks = table_NT[owner, place]
    order = np.argsort(blocks, kind="stable")
    return blocks[order], owner[order], place[order]
