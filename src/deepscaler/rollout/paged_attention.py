"""Attention of one new token per row by torch's paged flash attention, where this torch has it and it is right.

It reads the blocks of each row and nothing else, in one kernel. torch 2.11 does not have it; `paged_attention_works`
asks by trying it on this device against plain arithmetic, so no version is compared.

N rows, T most blocks of a row, H query heads, K key-value heads, D head width, B tokens a block.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepscaler.rollout.pool_attention import Mirror, RowInputs, Sizes, padded
from deepscaler.rollout.pool_cache import PagedCache, PoolCache
from deepscaler.rollout.rows import Rows

TOLERANCE = 0.02  # of outputs of size 1 in bfloat16, which is exact to 0.004


class PagedInputs(RowInputs):
    """The blocks of every row; those of padded rows, and beyond a row's last, are the scratch block."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        rows, most = sizes
        super().__init__(rows, device)
        self._sizes = (rows, rows * most)
        self._layout = Mirror(sum(self._sizes), device)
        self.written_N, table = self._layout.tensor.split(self._sizes)
        self.table_NT = table.view(rows, most)

    @staticmethod
    def sizes(rows: Rows, cache: PoolCache) -> Sizes:
        return padded(len(rows)), padded(int(rows.tables[1].max()))

    def fill(self, rows: Rows, cache: PoolCache, changed: bool) -> None:
        super().fill(rows, cache, changed)
        if not changed:
            return
        table_NT, count_N = rows.tables
        owner, place = np.nonzero(np.arange(count_N.max()) < count_N[:, None])
        written_N, table = np.split(self._layout.host, self._sizes[:1])
        written_N[:], table[:] = cache.scratch_block, cache.scratch_block
        written_N[: len(rows)] = self.written(rows)
        table.reshape(self.table_NT.shape)[owner, place] = table_NT[owner, place]
        self._layout.send()

    def attention(self, cache: PoolCache) -> PagedAttention:
        return PagedAttention(cache, self)


class PagedAttention:
    def __init__(self, cache: PoolCache, inputs: PagedInputs) -> None:
        self._cache, self._inputs = cache, inputs
        rows, most = inputs.table_NT.shape
        self._table = inputs.table_NT.to(torch.int32)
        self._used = (inputs.position_N + 1).to(torch.int32)
        self._begins = torch.arange(rows + 1, dtype=torch.int32, device=self._used.device)
        self._longest = most * cache.block_tokens

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [N,H,D], already scaled; key and value [N,K,D]. Returns [N,H*D]."""
        inputs, keys, values = self._inputs, self._cache.keys[layer], self._cache.values[layer]
        keys[inputs.written_N, inputs.offset_N] = key
        values[inputs.written_N, inputs.offset_N] = value
        out = paged(query, keys, values, self._begins, self._longest, self._used, self._table)
        return out.flatten(1)


def paged(
    query: Tensor, keys: Tensor, values: Tensor, begins: Tensor, longest: int, used: Tensor, table: Tensor
) -> Tensor:
    """[N,H,D] of one query [N,H,D] per row over the first `used` tokens of the blocks that `table` [N,T] names.

    keys and values [blocks,B,K,D]; begins, used and table int32.
    """
    from torch.nn.attention import varlen

    attend: Any = varlen.varlen_attn  # not every version that is supported has these parameters
    return attend(
        query,
        keys,
        values,
        begins,
        None,
        1,
        longest,
        scale=1.0,
        enable_gqa=query.shape[1] != keys.shape[2],
        seqused_k=used,
        block_table=table,
    )


@functools.cache
def paged_attention_works(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int) -> bool:
    """Whether `paged` is there for these shapes and gives what plain float32 arithmetic gives."""
    if device.type != "cuda" or dtype == torch.float32:
        return False
    size, used_N = PagedCache.suitable_block_tokens(1), [300, 256, 1]
    noise = torch.Generator(device).manual_seed(0)
    query = torch.randn(3, heads, head_dim, generator=noise, device=device).div(head_dim**0.5).to(dtype)
    keys, values = torch.randn(2, 6, size, kv_heads, head_dim, generator=noise, device=device).to(dtype).unbind()
    table = torch.tensor([[5, 2], [3, 0], [1, 0]], dtype=torch.int32, device=device)
    begins, used = (torch.tensor(x, dtype=torch.int32, device=device) for x in (range(4), used_N))
    try:
        out = paged(query, keys, values, begins, 2 * size, used, table)
    except (ImportError, TypeError, ValueError, RuntimeError):  # absent, or refused for these shapes
        return False
    return all(
        torch.allclose(out[n].float(), _plain(query[n], keys, values, table[n], length), atol=TOLERANCE)
        for n, length in enumerate(used_N)
    )


def _plain(query: Tensor, keys: Tensor, values: Tensor, table: Tensor, length: int) -> Tensor:
    """[H,D] of one row, float32."""
    groups = query.shape[0] // keys.shape[2]
    key, value = (x[table.long()].flatten(0, 1)[:length].float().repeat_interleave(groups, 1) for x in (keys, values))
    probs = torch.einsum("hd,thd->ht", query.float(), key).softmax(-1)
    return torch.einsum("ht,thd->hd", probs, value)
