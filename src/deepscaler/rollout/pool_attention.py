"""Attention of one new token per row over the first M blocks of the pool, for any device, number type and torch.

Blocks are read where they lie, by batched products, and combined by log-sum-exp (flash decoding, Dao et al. 2023).
Shapes are static: rows, blocks and blocks per row are padded to a few sizes.

N rows, M blocks, T most blocks of a row, H query heads, K key-value heads, G = H / K, D head width, B tokens a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.rollout.pool_cache import PoolCache
from deepscaler.rollout.rows import Rows

Sizes = tuple[int, ...]


def padded(count: int, steps: int = 2) -> int:
    """A size at least `count`, of `steps` different ones between powers of two: at most 1/steps more than needed."""
    power = 1 << max(0, count - 1).bit_length()
    step = max(1, power // (2 * steps))
    return -(-count // step) * step


class Mirror:
    """An int64 tensor of the device at a fixed address, written through host memory in one copy that does not wait.

    The host's side may be written again once the device has gone past the copy; a step ends by reading its result.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._host = torch.zeros(size, dtype=torch.int64, pin_memory=device.type == "cuda")
        self.tensor = torch.zeros(size, dtype=torch.int64, device=device)

    @property
    def host(self) -> NDArray[np.int64]:
        return self._host.numpy()

    def send(self) -> None:
        self.tensor.copy_(self._host, non_blocking=True)


class RowInputs:
    """What every step reads of its rows. Padded rows write to the scratch block."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._rows = Mirror(4 * rows, device)
        self.token_N, self.position_N, self.offset_N, bits = self._rows.tensor.view(4, rows).unbind()
        self.uniform_N = bits.view(torch.float64)

    def fill(self, rows: Rows, cache: PoolCache, changed: bool) -> None:
        host = self._rows.host.reshape(4, -1)
        host[:] = 0
        host[:2, : len(rows)] = rows.newest, rows.num_cached
        host[2, : len(rows)] = rows.num_cached % cache.block_tokens
        host[3, : len(rows)] = rows.uniforms().astype(np.float64).view(np.int64)
        self._rows.send()

    @staticmethod
    def written(rows: Rows) -> NDArray[np.int64]:
        """The block that each row writes to: its last one."""
        table_NT, count_N = rows.tables
        return table_NT[np.arange(len(rows)), count_N - 1]


class PoolInputs(RowInputs):
    """Blocks that no row owns belong to row 0 and are hidden."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        rows, blocks, most = sizes
        super().__init__(rows, device)
        self._sizes = (rows, blocks, blocks, rows * most)
        self._layout = Mirror(sum(self._sizes), device)
        self.written_N, self.owner_M, self.start_M, parts = self._layout.tensor.split(self._sizes)
        self.parts_NT = parts.view(rows, most)

    @staticmethod
    def sizes(rows: Rows, cache: PoolCache) -> Sizes:
        blocks = min(padded(cache.allocator.span, steps=8), len(cache.keys[0]))
        return padded(len(rows)), blocks, padded(int(rows.tables[1].max()))

    def fill(self, rows: Rows, cache: PoolCache, changed: bool) -> None:
        super().fill(rows, cache, changed)
        if not changed:
            return
        table_NT, count_N = rows.tables
        owner, place = np.nonzero(np.arange(count_N.max()) < count_N[:, None])
        blocks = table_NT[owner, place]
        written_N, owner_M, start_M, parts = np.split(self._layout.host, np.cumsum(self._sizes)[:-1])
        written_N[:], written_N[: len(rows)] = cache.scratch_block, self.written(rows)
        # A block that no row owns begins beyond every position, so that all of it is hidden.
        owner_M[:], start_M[:] = 0, np.iinfo(np.int64).max
        owner_M[blocks], start_M[blocks] = owner, place * cache.block_tokens
        parts[:] = len(owner_M)
        parts.reshape(self.parts_NT.shape)[owner, place] = blocks
        self._layout.send()

    def attention(self, cache: PoolCache) -> PoolAttention:
        return PoolAttention(cache, self)


class PoolAttention:
    def __init__(self, cache: PoolCache, inputs: PoolInputs) -> None:
        self._cache, self._inputs = cache, inputs
        places = torch.arange(cache.block_tokens, device=inputs.owner_M.device)
        ahead_M1 = (inputs.position_N[inputs.owner_M] - inputs.start_M).unsqueeze(1)
        self._hidden = (places > ahead_M1)[:, None, None, :]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [N,H,D], already scaled; key and value [N,K,D]. Returns [N,H*D]."""
        inputs, count = self._inputs, len(self._inputs.owner_M)
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[inputs.written_N, :, inputs.offset_N] = key
        values[inputs.written_N, :, inputs.offset_N] = value
        query_MKGD = query.index_select(0, inputs.owner_M).unflatten(1, (key.shape[1], -1))
        scores = _wide_scores(query_MKGD, keys[:count]).masked_fill_(self._hidden, -torch.inf)
        # Of a block that is all hidden nothing is used below: its softmax may be NaN.
        probs = scores.softmax(dim=-1)
        # log-sum-exp from what is at hand: the largest probability is exp(largest score - log-sum-exp), never 0.
        lse_MH = (scores.amax(-1) - probs.amax(-1).log()).flatten(1)
        out_MHD = (probs.to(value.dtype) @ values[:count]).flatten(1, 2)
        return combined(out_MHD, lse_MH, inputs.parts_NT).flatten(1)


def combined(out_MHD: Tensor, lse_MH: Tensor, parts_NT: Tensor) -> Tensor:
    """[N,H,D] of each row from the outputs of its blocks and their log-sum-exp; in `parts_NT` M stands for no block."""
    # One row more, which stands for no block.
    lse_NTH = F.pad(lse_MH, (0, 0, 0, 1), value=-torch.inf)[parts_NT]
    share = lse_NTH.softmax(dim=1).nan_to_num()  # a padded row has no block at all
    parts = F.pad(out_MHD, (0, 0, 0, 0, 0, 1))[parts_NT]
    return (share.unsqueeze(-1) * parts.float()).sum(1).to(out_MHD.dtype)


def _wide_scores(query: Tensor, keys: Tensor) -> Tensor:
    """query [M,K,G,D] keys^T [M,K,D,B], float32 always: a score of 30 rounded to bfloat16 can be 0.06 off."""
    if query.dtype == torch.float32:
        return query @ keys.transpose(2, 3)
    if not query.is_cuda:
        return query.float() @ keys.float().transpose(2, 3)
    multiply: Any = torch.bmm  # its stub in torch 2.11 lacks out_dtype
    flat = multiply(query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2), out_dtype=torch.float32)
    return flat.unflatten(0, query.shape[:2])
