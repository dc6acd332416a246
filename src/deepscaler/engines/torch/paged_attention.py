"""Attention of one new token per row over the first M blocks of the cache, for any device, dtype and torch.

Batched matmuls read the blocks in place; their outputs are combined by log-sum-exp (Dao et al. 2023). All shapes
are static: rows, blocks and blocks per row are padded to a few sizes.

N rows, M blocks, T most blocks of a row, H query heads, K key-value heads, G = H / K, D head width, B tokens per block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.engines.torch.decode_state import DecodeState
from deepscaler.engines.torch.paged_cache import PagedCache

Sizes = tuple[int, ...]


def padded_size(count: int, steps: int = 2) -> int:
    """`count` rounded up to one of `steps` sizes between powers of two: at most 1/steps more than needed."""
    power = 1 << max(0, count - 1).bit_length()
    step = max(1, power // (2 * steps))
    return -(-count // step) * step


class CpuGpuBuffer:
    """An int64 tensor on the device at a fixed address, filled from pinned host memory by one asynchronous copy.

    The host side may be written again once the device has made the copy; every step ends by reading its result.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._cpu = torch.zeros(size, dtype=torch.int64, pin_memory=device.type == "cuda")
        self.np: NDArray[np.int64] = self._cpu.numpy()
        self.gpu = torch.zeros(size, dtype=torch.int64, device=device)

    def copy_to_gpu(self) -> None:
        self.gpu.copy_(self._cpu, non_blocking=True)


class StepInputs:
    """Inputs of a step, one entry per row. Padded rows write to the scratch block."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._rows = CpuGpuBuffer(4 * rows, device)
        self.token_N, self.position_N, self.offset_N, bits = self._rows.gpu.view(4, rows).unbind()
        self.uniform_N = bits.view(torch.float64)

    def fill(self, state: DecodeState, cache: PagedCache, changed: bool) -> None:
        host = self._rows.np.reshape(4, -1)
        host[:] = 0
        host[:2, : len(state)] = state.last_tokens, state.num_cached
        host[2, : len(state)] = state.num_cached % cache.block_tokens
        host[3, : len(state)] = state.uniforms().astype(np.float64).view(np.int64)
        self._rows.copy_to_gpu()

    @staticmethod
    def written(state: DecodeState) -> NDArray[np.int64]:
        """The block that each row writes to, its last one."""
        table_NT, count_N = state.block_tables
        return table_NT[np.arange(len(state)), count_N - 1]


class PagedInputs(StepInputs):
    """Blocks that belong to no row are given to row 0 and masked."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        rows, blocks, most = sizes
        super().__init__(rows, device)
        self._sizes = (rows, blocks, blocks, rows * most)
        self._layout = CpuGpuBuffer(sum(self._sizes), device)
        self.written_N, self.owner_M, self.start_M, parts = self._layout.gpu.split(self._sizes)
        self.parts_NT = parts.view(rows, most)

    @staticmethod
    def sizes(state: DecodeState, cache: PagedCache) -> Sizes:
        blocks = min(padded_size(cache.allocator.span, steps=8), len(cache.keys[0]))
        return padded_size(len(state)), blocks, padded_size(int(state.block_tables[1].max()))

    def fill(self, state: DecodeState, cache: PagedCache, changed: bool) -> None:
        super().fill(state, cache, changed)
        if not changed:
            return
        table_NT, count_N = state.block_tables
        owner, index = np.nonzero(np.arange(count_N.max()) < count_N[:, None])
        blocks = table_NT[owner, index]
        written_N, owner_M, start_M, parts = np.split(self._layout.np, np.cumsum(self._sizes)[:-1])
        written_N[:], written_N[: len(state)] = cache.scratch_block, self.written(state)
        # A block of no row begins beyond every position, so that all of it is masked.
        owner_M[:], start_M[:] = 0, np.iinfo(np.int64).max
        owner_M[blocks], start_M[blocks] = owner, index * cache.block_tokens
        parts[:] = len(owner_M)
        parts.reshape(self.parts_NT.shape)[owner, index] = blocks
        self._layout.copy_to_gpu()

    def attention(self, cache: PagedCache) -> PagedAttention:
        return PagedAttention(cache, self)


class PagedAttention:
    def __init__(self, cache: PagedCache, inputs: PagedInputs) -> None:
        self._cache, self._inputs = cache, inputs
        self._slots = torch.arange(cache.block_tokens, device=inputs.owner_M.device)
        self._ahead_M1 = (inputs.position_N[inputs.owner_M] - inputs.start_M).unsqueeze(1)
        self._mask = (self._slots > self._ahead_M1)[:, None, None, :]
        self._windows: dict[int, Tensor] = {}

    def _mask_of(self, window: int | None) -> Tensor:
        """bool [M,1,1,B]: tokens that the row of a block does not see."""
        if window is None:
            return self._mask
        if window not in self._windows:
            before = self._slots <= self._ahead_M1 - window
            self._windows[window] = self._mask | before[:, None, None, :]
        return self._windows[window]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None = None) -> Tensor:
        """query [N,H,D], already scaled; key and value [N,K,D]. Returns [N,H*D]."""
        inputs, count = self._inputs, len(self._inputs.owner_M)
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[inputs.written_N, :, inputs.offset_N] = key
        values[inputs.written_N, :, inputs.offset_N] = value
        query_MKGD = query.index_select(0, inputs.owner_M).unflatten(1, (key.shape[1], -1))
        scores = _float32_scores(query_MKGD, keys[:count]).masked_fill_(self._mask_of(window), -torch.inf)
        # The softmax of a block that is masked entirely may be NaN; it is not used below.
        probs = scores.softmax(dim=-1)
        # The largest probability is exp(largest score - log-sum-exp), which is never 0.
        lse_MH = (scores.amax(-1) - probs.amax(-1).log()).flatten(1)
        out_MHD = (probs.to(value.dtype) @ values[:count]).flatten(1, 2)
        return combined(out_MHD, lse_MH, inputs.parts_NT).flatten(1)


def combined(out_MHD: Tensor, lse_MH: Tensor, parts_NT: Tensor) -> Tensor:
    """Output [N,H,D] of each row from the outputs and log-sum-exp of its blocks; M in `parts_NT` means no block."""
    # One more entry, for no block.
    lse_NTH = F.pad(lse_MH, (0, 0, 0, 1), value=-torch.inf)[parts_NT]
    share = lse_NTH.softmax(dim=1).nan_to_num()  # a padded row has no block
    parts = F.pad(out_MHD, (0, 0, 0, 0, 0, 1))[parts_NT]
    return (share.unsqueeze(-1) * parts.float()).sum(1).to(out_MHD.dtype)


def _float32_scores(query: Tensor, keys: Tensor) -> Tensor:
    """query [M,K,G,D] keys^T [M,K,D,B] in float32: a score of 30 rounded to bfloat16 can be off by 0.06."""
    if query.dtype == torch.float32:
        return query @ keys.transpose(2, 3)
    if not query.is_cuda:
        return query.float() @ keys.float().transpose(2, 3)
    multiply: Any = torch.bmm  # its stub in torch 2.11 lacks out_dtype
    flat = multiply(query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2), out_dtype=torch.float32)
    return flat.unflatten(0, query.shape[:2])
