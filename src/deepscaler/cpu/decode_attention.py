"""Attention of one new token per sequence over the cache's blocks on CPU: reads exactly the blocks in use, no padding.

N sequences, M blocks in use by them, H query heads, K key-value heads, D head width, B tokens in a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.cpu.dispatch import can_accelerate

Places = NDArray[np.int64]


class DecodeAttention:
    """The torch reference, sequence by sequence, for any dtype.

    Valid for as long as no block is added or freed; the same for all layers.
    """

    def __init__(
        self, table_NT: Places, count_N: Places, keys: Sequence[Tensor], values: Sequence[Tensor], padding: int
    ) -> None:
        """table_NT: the blocks of each sequence, in order of position; row n holds count_N[n] of them.

        keys and values of every layer: [blocks,K,D,B] and [blocks,K,B,D]. padding: rows of zeros after the N sequences.
        """
        self._keys, self._values, self._block_tokens = keys, values, keys[0].shape[3]
        self._last_N = np.cumsum(count_N) - 1  # in order of sequence and position
        self._rows = len(count_N) + padding
        self.owner_M, place = np.nonzero(np.arange(count_N.max()) < count_N[:, None])
        self.blocks_M = table_NT[self.owner_M, place]
        self.num_blocks = len(self.blocks_M)
        # How many tokens of each block count, the new one included.
        self.visible_M = np.full(self.num_blocks, self._block_tokens)

    def step(self, length_N: Tensor) -> DecodeAttention:
        """Attention of the next token. length_N: int64 [N], tokens already cached of each sequence."""
        self.visible_M[self._last_N] = length_N.numpy() % self._block_tokens + 1
        return self

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None = None) -> Tensor:
        """Write the new keys and values [rows,K,D]; query [rows,H,D], scaled -> [rows,H*D]. Rows past N are padding.

        window: the last tokens that count, the new one included; None: all.
        """
        keys, values = self._keys[layer], self._values[layer]
        out = torch.zeros_like(query)
        for row, last in enumerate(self._last_N):
            blocks = torch.from_numpy(self._blocks_of(row))
            offset, length = self.visible_M[last] - 1, (len(blocks) - 1) * self._block_tokens + self.visible_M[last]
            keys[blocks[-1], :, :, offset], values[blocks[-1], :, offset] = key[row], value[row]
            first = 0 if window is None else max(0, length - window)
            unseen = first // self._block_tokens  # blocks in front of the window
            seen = slice(first - unseen * self._block_tokens, length - unseen * self._block_tokens)
            key_KLD = keys[blocks[unseen:]].permute(1, 0, 3, 2).flatten(1, 2)[:, seen]
            value_KLD = values[blocks[unseen:]].transpose(0, 1).flatten(1, 2)[:, seen]
            query_1HND = query[row].unsqueeze(0).unsqueeze(2)
            out[row] = F.scaled_dot_product_attention(
                query_1HND, key_KLD.unsqueeze(0), value_KLD.unsqueeze(0), scale=1.0, enable_gqa=True
            )[0, :, 0]
        return out.flatten(1)

    def _blocks_of(self, row: int) -> Places:
        """The blocks of a sequence in order of position."""
        return self.blocks_M[self.owner_M == row]


class FusedDecodeAttention(DecodeAttention):
    """By one kernel, for float32. Blocks are read in the order of memory, in which the processor reads ahead.

    `attend` overwrites the result of the call before.
    """

    def __init__(
        self, table_NT: Places, count_N: Places, keys: Sequence[Tensor], values: Sequence[Tensor], padding: int
    ) -> None:
        super().__init__(table_NT, count_N, keys, values, padding)
        from deepscaler.cpu.kernels import decode_attention  # loads numba; compiled when first used

        self._kernel = decode_attention.attend
        self._arrays = [[x.numpy() for x in tensors] for tensors in (keys, values)]
        order = np.argsort(self.blocks_M, kind="stable")
        self.owner_M, self.blocks_M = self.owner_M[order], self.blocks_M[order]
        self._in_order_M, self._starts_N = np.argsort(order), np.concatenate([[0], np.cumsum(count_N)])
        self._last_N = self._in_order_M[self._last_N]
        self._longest = int(count_N.max()) * self._block_tokens  # tokens of any sequence, rounded up to whole blocks
        self._scratch = np.empty(0, np.float32)
        self._out = torch.empty(0)

    def _blocks_of(self, row: int) -> Places:
        return self.blocks_M[self._in_order_M[self._starts_N[row] : self._starts_N[row + 1]]]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None = None) -> Tensor:
        if window is not None and window < self._longest:
            return super().attend(layer, query, key, value, window)
        assert query.stride()[1:] == (query.shape[2], 1), "the kernel reads the heads of a row as one piece"
        if not self._scratch.size:
            self._scratch = np.empty((self.num_blocks, *query.shape[1:]), np.float32)
            self._out = torch.from_numpy(np.zeros((self._rows, *query.shape[1:]), np.float32))
        self._kernel(
            query.numpy(), key.numpy(), value.numpy(), self._arrays[0][layer], self._arrays[1][layer], self.blocks_M,
            self.owner_M, self.visible_M, self._in_order_M, self._starts_N, self._scratch, self._out.numpy(),
        )  # fmt: skip
        return self._out.view(self._rows, -1)


def decode_attention(
    table_NT: Places, count_N: Places, keys: Sequence[Tensor], values: Sequence[Tensor], padding: int
) -> DecodeAttention:
    """By the kernel where `can_accelerate` says so of the cache."""
    kind = FusedDecodeAttention if can_accelerate(keys[0]) else DecodeAttention
    return kind(table_NT, count_N, keys, values, padding)
