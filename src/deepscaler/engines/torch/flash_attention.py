"""Attention of one new token per row by torch's flash attention, one block of the cache at a time.

Every block that a row holds is a short sequence of its own to the variable-length kernel: it begins anywhere in the
cache and has as many tokens as are in use. The kernel also returns the log-sum-exp by which blocks are combined. So
only blocks in use are read, in one kernel, and those of a prompt may be shared. The kernel's operator is not part of
torch's public interface (`varlen_attn` of torch 2.11 hides the lengths, and a block table wants FlashAttention 3):
whether it is there and right is asked by trying it on this device against plain arithmetic, never by a version.

N rows, M pairs of a row and a block that it holds, T most blocks of a row, H query heads, K key-value heads, D head
width, B tokens a block.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepscaler.engines.torch.decode_state import Rows
from deepscaler.engines.torch.paged_attention import Mirror, RowInputs, Sizes, combined, padded
from deepscaler.engines.torch.paged_cache import PoolCache

TOLERANCE = 0.02  # of outputs of size 1 in bfloat16, which is exact to 0.004


class FlashInputs(RowInputs):
    """Padded pairs read the scratch block, and no row takes what they give."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        rows, pairs, most = sizes
        super().__init__(rows, device)
        self._sizes = (rows, pairs, pairs, pairs, rows * most)
        self._layout = Mirror(sum(self._sizes), device)
        self.written_N, self.owner_M, self.start_M, self.block_M, parts = self._layout.tensor.split(self._sizes)
        self.parts_NT = parts.view(rows, most)

    @staticmethod
    def sizes(rows: Rows, cache: PoolCache) -> Sizes:
        count_N = rows.tables[1]
        return padded(len(rows)), padded(int(count_N.sum()), steps=8), padded(int(count_N.max()))

    def fill(self, rows: Rows, cache: PoolCache, changed: bool) -> None:
        super().fill(rows, cache, changed)
        if not changed:
            return
        table_NT, count_N = rows.tables
        owner, place = np.nonzero(np.arange(count_N.max()) < count_N[:, None])
        host, count = self._layout.host, len(owner)
        written_N, owner_M, start_M, block_M, parts = np.split(host, np.cumsum(self._sizes)[:-1])
        host[:] = 0
        written_N[:], block_M[:] = cache.scratch_block, cache.scratch_block
        written_N[: len(rows)] = self.written(rows)
        owner_M[:count], start_M[:count] = owner, place * cache.block_tokens
        block_M[:count] = table_NT[owner, place]
        parts[:] = len(owner_M)
        parts.reshape(self.parts_NT.shape)[owner, place] = np.arange(count)
        self._layout.send()

    def attention(self, cache: PoolCache) -> FlashAttention:
        return FlashAttention(cache, self)


class FlashAttention:
    def __init__(self, cache: PoolCache, inputs: FlashInputs) -> None:
        self._cache, self._inputs = cache, inputs
        self._used = (inputs.position_N[inputs.owner_M] - inputs.start_M + 1).clamp_(max=cache.block_tokens).int()
        self._first = (inputs.block_M * cache.block_tokens).int()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [N,H,D], already scaled; key and value [N,K,D]. Returns [N,H*D]."""
        inputs, keys, values = self._inputs, self._cache.keys[layer], self._cache.values[layer]
        keys[inputs.written_N, inputs.offset_N] = key
        values[inputs.written_N, inputs.offset_N] = value
        chosen = query.index_select(0, inputs.owner_M)
        out_MHD, lse_MH = flash_blocks(chosen, keys, values, self._first, self._used)
        return combined(out_MHD, lse_MH, inputs.parts_NT).flatten(1)


def flash_blocks(query: Tensor, keys: Tensor, values: Tensor, first: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """[M,H,D] and log-sum-exp [M,H] float32 of one query [M,H,D] each over `used` tokens from the token `first` on.

    keys and values [blocks,B,K,D]; first and used int32 [M]. Queries are scaled already.
    """
    count, size = len(query), keys.shape[1]
    operator: Any = torch.ops.aten._flash_attention_forward
    out, lse, *_ = operator(
        query,
        keys.flatten(0, 1),
        values.flatten(0, 1),
        torch.arange(count + 1, dtype=torch.int32, device=query.device),
        torch.nn.functional.pad(first, (0, 1)),  # one more than there are, as of cumulated lengths
        1,
        size,
        0.0,
        False,
        False,
        scale=1.0,
        seqused_k=used,
    )
    return out, lse.T


@functools.cache
def flash_works(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int) -> bool:
    """Whether `flash_blocks` is there for these shapes and gives what plain float32 arithmetic gives."""
    if device.type != "cuda" or dtype == torch.float32:
        return False
    noise = torch.Generator(device).manual_seed(0)
    size, blocks, used_M = 128, [3, 0, 5, 0], [128, 1, 77, 100]
    query = torch.randn(4, heads, head_dim, generator=noise, device=device).div(head_dim**0.5).to(dtype)
    keys, values = torch.randn(2, 6, size, kv_heads, head_dim, generator=noise, device=device).to(dtype).unbind()
    first, used = (torch.tensor(x, dtype=torch.int32, device=device) for x in ([b * size for b in blocks], used_M))
    try:
        found = flash_blocks(query, keys, values, first, used)
    except (AttributeError, TypeError, ValueError, RuntimeError):  # absent, or refused for these shapes
        return False
    expected = plain_blocks(query, keys, values, first, used)
    return all(
        a.shape == b.shape and torch.allclose(a.float(), b, atol=TOLERANCE)
        for a, b in zip(found, expected, strict=True)
    )


def plain_blocks(query: Tensor, keys: Tensor, values: Tensor, first: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """What `flash_blocks` should return, in float32, one pair after the other."""
    groups = query.shape[1] // keys.shape[2]
    outs, sums = [], []
    for q, begin, length in zip(query.float(), first.tolist(), used.tolist(), strict=True):
        key, value = (
            x.flatten(0, 1)[begin : begin + length].float().repeat_interleave(groups, 1) for x in (keys, values)
        )
        scores = torch.einsum("hd,thd->ht", q, key)
        outs.append(torch.einsum("ht,thd->hd", scores.softmax(-1), value))
        sums.append(scores.logsumexp(-1))
    return torch.stack(outs), torch.stack(sums)
