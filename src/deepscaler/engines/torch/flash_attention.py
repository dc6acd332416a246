"""Attention of one new token per row by torch's flash attention, one block of the cache at a time.

For the variable-length kernel every block of a row is a short sequence of its own: it begins anywhere in the cache and
has as many tokens as are in use. Query heads that share a key-value head are the queries of that sequence, so that keys
and values are read once for all of them. The kernel also returns the log-sum-exp by which blocks are combined. So one
kernel reads only blocks in use, and rows may share blocks of a prompt. The operator is not part of torch's public
interface (`varlen_attn` of torch 2.11 hides the lengths, and a block table needs FlashAttention 3): `flash_works` tries
it on the device against plain arithmetic and does not look at versions.

N rows, M pairs of a row and one of its blocks, T most blocks of a row, H query heads, K key-value heads, G = H / K,
D head width, B tokens per block.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepscaler.engines.torch.decode_state import DecodeState
from deepscaler.engines.torch.paged_attention import CpuGpuBuffer, Sizes, StepInputs, combined, padded_size
from deepscaler.engines.torch.paged_cache import PagedCache

TOLERANCE = 0.02  # of outputs of size 1 in bfloat16, which is exact to 0.004


class FlashInputs(StepInputs):
    """Padded pairs read the scratch block; no row uses their output."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        rows, pairs, most = sizes
        super().__init__(rows, device)
        self._sizes = (rows, pairs, pairs, pairs, rows * most)
        self._layout = CpuGpuBuffer(sum(self._sizes), device)
        self.written_N, self.owner_M, self.start_M, self.block_M, parts = self._layout.gpu.split(self._sizes)
        self.parts_NT = parts.view(rows, most)

    @staticmethod
    def sizes(state: DecodeState, cache: PagedCache) -> Sizes:
        count_N = state.block_tables[1]
        return padded_size(len(state)), padded_size(int(count_N.sum()), steps=8), padded_size(int(count_N.max()))

    def fill(self, state: DecodeState, cache: PagedCache, changed: bool) -> None:
        super().fill(state, cache, changed)
        if not changed:
            return
        table_NT, count_N = state.block_tables
        owner, index = np.nonzero(np.arange(count_N.max()) < count_N[:, None])
        host, count = self._layout.np, len(owner)
        written_N, owner_M, start_M, block_M, parts = np.split(host, np.cumsum(self._sizes)[:-1])
        host[:] = 0
        written_N[:], block_M[:] = cache.scratch_block, cache.scratch_block
        written_N[: len(state)] = self.written(state)
        owner_M[:count], start_M[:count] = owner, index * cache.block_tokens
        block_M[:count] = table_NT[owner, index]
        parts[:] = len(owner_M)
        parts.reshape(self.parts_NT.shape)[owner, index] = np.arange(count)
        self._layout.copy_to_gpu()

    def attention(self, cache: PagedCache) -> FlashAttention:
        return FlashAttention(cache, self)


class FlashAttention:
    def __init__(self, cache: PagedCache, inputs: FlashInputs) -> None:
        self._cache, self._inputs = cache, inputs
        self._ahead = inputs.position_N[inputs.owner_M] - inputs.start_M
        self._used = (self._ahead + 1).clamp_(max=cache.block_tokens).int()
        self._first = (inputs.block_M * cache.block_tokens).int()
        self._windows: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def _seen(self, window: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """First token and number of tokens of each block that its row sees, and bool [M], where that is none."""
        if window is None:
            return self._first, self._used, None
        if window not in self._windows:
            unseen = (self._ahead - window + 1).clamp_(min=0).int()
            begin = torch.minimum(unseen, self._used - 1)  # the kernel takes no empty sequences: one token, left out
            self._windows[window] = self._first + begin, self._used - begin, unseen >= self._used
        return self._windows[window]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None = None) -> Tensor:
        """query [N,H,D], already scaled; key and value [N,K,D]. Returns [N,H*D]."""
        inputs, keys, values = self._inputs, self._cache.keys[layer], self._cache.values[layer]
        keys[inputs.written_N, inputs.offset_N] = key
        values[inputs.written_N, inputs.offset_N] = value
        chosen = query.index_select(0, inputs.owner_M)
        first, used, outside = self._seen(window)
        out_MHD, lse_MH = flash_blocks(chosen, keys, values, first, used)
        if outside is not None:
            lse_MH = lse_MH.masked_fill(outside.unsqueeze(1), -torch.inf)
        return combined(out_MHD, lse_MH, inputs.parts_NT).flatten(1)


def flash_blocks(query: Tensor, keys: Tensor, values: Tensor, first: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """Output [M,H,D] and log-sum-exp [M,H] float32 of one query each over `used` tokens from the token `first` on.

    query [M,H,D], already scaled; keys and values [blocks,B,K,D]; first and used int32 [M].
    """
    (count, heads, width), (_, size, kv_heads, _) = query.shape, keys.shape
    groups = heads // kv_heads
    operator: Any = torch.ops.aten._flash_attention_forward
    out, lse, *_ = operator(
        query.unflatten(1, (kv_heads, groups)).transpose(1, 2).flatten(0, 1),
        keys.flatten(0, 1),
        values.flatten(0, 1),
        torch.arange(0, groups * count + 1, groups, dtype=torch.int32, device=query.device),
        torch.nn.functional.pad(first, (0, 1)),  # cumulative lengths have one entry more
        groups,
        size,
        0.0,
        False,
        False,
        scale=1.0,
        seqused_k=used,
    )
    out_MGKD, lse_KMG = out.view(count, groups, kv_heads, width), lse.view(kv_heads, count, groups)
    return out_MGKD.transpose(1, 2).flatten(1, 2), lse_KMG.transpose(0, 1).flatten(1)


@functools.cache
def flash_works(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int) -> bool:
    """Whether `flash_blocks` runs for these shapes and agrees with `reference_blocks`."""
    if device.type != "cuda" or dtype == torch.float32:
        return False
    noise = torch.Generator(device).manual_seed(0)
    size, blocks, used_M = 128, [3, 0, 5, 0], [128, 1, 77, 100]
    query = torch.randn(4, heads, head_dim, generator=noise, device=device).div(head_dim**0.5).to(dtype)
    keys, values = torch.randn(2, 6, size, kv_heads, head_dim, generator=noise, device=device).to(dtype).unbind()
    first, used = (torch.tensor(x, dtype=torch.int32, device=device) for x in ([b * size for b in blocks], used_M))
    try:
        found = flash_blocks(query, keys, values, first, used)
    except (AttributeError, TypeError, ValueError, RuntimeError):  # missing, or refused for these shapes
        return False
    expected = reference_blocks(query, keys, values, first, used)
    return all(
        a.shape == b.shape and torch.allclose(a.float(), b, atol=TOLERANCE)
        for a, b in zip(found, expected, strict=True)
    )


def reference_blocks(query: Tensor, keys: Tensor, values: Tensor, first: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """Reference of `flash_blocks`: float32, one pair after the other."""
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
