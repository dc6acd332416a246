"""The cache and the decoding step for a GPU: static shapes, so that a whole step can be one CUDA graph.

Every block has one owner here (a prompt is copied for each sample), so the first M blocks of the pool are read where
they lie, by batched products, and combined by log-sum-exp as in `block_attention`. Rows, blocks and blocks per row are
padded to a few sizes; each combination of sizes is captured once as a graph and replayed from then on, sampling
included. On CPU the same code runs without graphs, for its tests.

N rows, M blocks, T most blocks of a row, H query heads, K key-value heads, G = H / K, D head width, B tokens a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.rollout.cache import BlockCache
from deepscaler.rollout.decoder import Decoder
from deepscaler.rollout.rows import Rows
from deepscaler.rollout.sampling import check_finite, draw
from deepscaler.types import SamplingParams


class PoolCache(BlockCache):
    """Keys like values: [blocks,K,B,D]; block 0 is no sequence's, padded rows write there."""

    shares_blocks = False
    num_idle = 1
    _key_order = (0, 2, 1, 3, 4)

    def reform(self, block_tokens: int) -> None:
        super().reform(block_tokens)
        if self._device.type == "cuda":
            self._grow(self.allocator.limit)  # all at once: a captured graph holds good while nothing moves
        self.scratch_block = self.take(1)[0]

    def _key_shape(self) -> tuple[int, int]:
        return self.block_tokens, self.head_dim

    @staticmethod
    def suitable_block_tokens(longest: int) -> int:
        return 64 if longest <= 2048 else 256


class _Inputs:
    """What a step reads, at fixed addresses. Padding: rows write to the scratch block, blocks belong to row N - 1."""

    def __init__(self, rows: int, blocks: int, most: int, device: torch.device) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.token_N, self.position_N, self.written_N, self.offset_N = (zeros(rows) for _ in range(4))
        self.uniform_N = zeros(rows, dtype=torch.float32)
        self.owner_M, self.start_M = zeros(blocks), zeros(blocks)
        self.parts_NT = zeros(rows, most)

    def fill(self, rows: Rows, cache: PoolCache, changed: bool) -> None:
        count, total, size = len(rows), len(self.owner_M), cache.block_tokens
        table_NT, count_N = rows.tables
        _set(self.token_N, rows.newest)
        _set(self.position_N, rows.num_cached)
        _set(self.uniform_N, rows.uniforms())
        _set(self.offset_N, rows.num_cached % size)
        if not changed:
            return
        written = np.full(len(self.written_N), cache.scratch_block)
        written[:count] = table_NT[np.arange(count), count_N - 1]
        owner, place = np.nonzero(np.arange(count_N.max()) < count_N[:, None])
        blocks = table_NT[owner, place]
        # A block that no row owns begins beyond every position, so that all of it is hidden.
        owners, starts = np.zeros(total, np.int64), np.full(total, np.iinfo(np.int64).max)
        owners[blocks], starts[blocks] = owner, place * size
        parts = np.full(self.parts_NT.shape, total)
        parts[owner, place] = blocks
        for tensor, values in ((self.written_N, written), (self.owner_M, owners), (self.start_M, starts)):
            _set(tensor, values)
        self.parts_NT.copy_(torch.from_numpy(parts))


def _set(tensor: Tensor, values: NDArray[Any]) -> None:
    tensor[: len(values)].copy_(torch.from_numpy(np.ascontiguousarray(values)))


class PoolAttention:
    """Attention of one new token per row over the first M blocks of the pool."""

    def __init__(self, cache: PoolCache, inputs: _Inputs) -> None:
        self._cache, self._inputs = cache, inputs
        places = torch.arange(cache.block_tokens, device=inputs.owner_M.device)
        ahead_M1 = (inputs.position_N[inputs.owner_M] - inputs.start_M).unsqueeze(1)
        self._hidden = (places > ahead_M1)[:, None, None, :]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        inputs, count = self._inputs, len(self._inputs.owner_M)
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[inputs.written_N, :, inputs.offset_N] = key
        values[inputs.written_N, :, inputs.offset_N] = value
        query_MKGD = query.index_select(0, inputs.owner_M).unflatten(1, (key.shape[1], -1))
        scores = (query_MKGD @ keys[:count].transpose(2, 3)).float().masked_fill(self._hidden, -torch.inf)
        lse = scores.logsumexp(-1, keepdim=True)  # -inf for a block that is all hidden
        probs = (scores - lse.clamp(min=torch.finfo(torch.float32).min)).exp()
        out_MHD = (probs.to(value.dtype) @ values[:count]).flatten(1, 2)
        # One row more, which stands for no block.
        lse_NTH = F.pad(lse.flatten(1), (0, 0, 0, 1), value=-torch.inf)[inputs.parts_NT]
        share = lse_NTH.softmax(dim=1).nan_to_num()  # a padded row has no block at all
        parts = F.pad(out_MHD, (0, 0, 0, 0, 0, 1))[inputs.parts_NT]
        return (share.unsqueeze(-1) * parts.float()).sum(1).to(value.dtype).flatten(1)


class PoolStep:
    """One token for every row, from a captured graph where the device has them."""

    def __init__(self, decoder: Decoder, cache: BlockCache) -> None:
        assert isinstance(cache, PoolCache)
        self._decoder, self._cache = decoder, cache
        self._inputs: dict[tuple[int, int, int], _Inputs] = {}
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._last: tuple[int, int, int] | None = None
        self._addresses: tuple[int, ...] = ()

    def run(self, rows: Rows, params: SamplingParams, changed: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Tokens and logprobs [N]. `changed`: the blocks of the rows are others than in the last step."""
        most = int(rows.tables[1].max())
        blocks = min(padded(self._cache.allocator.highest, steps=8), len(self._cache.keys[0]))
        sizes = (padded(len(rows)), blocks, padded(most))
        device = self._cache.keys[0].device
        if sizes not in self._inputs:
            self._inputs[sizes] = _Inputs(*sizes, device)
        inputs = self._inputs[sizes]
        inputs.fill(rows, self._cache, changed or sizes != self._last)
        self._last = sizes
        if device.type == "cuda":
            tokens_N, logprobs_N = self._captured(sizes, inputs, params)
        else:
            tokens_N, logprobs_N = self._step(inputs, params)
        check_finite(logprobs_N[: len(rows)])
        return tokens_N[: len(rows)].cpu().numpy(), logprobs_N[: len(rows)].cpu().numpy()

    def _step(self, inputs: _Inputs, params: SamplingParams) -> tuple[Tensor, Tensor]:
        logits = self._decoder.logits(inputs.token_N, inputs.position_N, PoolAttention(self._cache, inputs))
        return draw(logits, inputs.uniform_N, params)

    def _captured(self, sizes: tuple[int, int, int], inputs: _Inputs, params: SamplingParams) -> tuple[Tensor, Tensor]:
        """Replay the graph of these sizes, captured at first use and whenever cache or weights have moved."""
        addresses = (*(t.data_ptr() for t in (*self._cache.keys, *self._cache.values)), *self._decoder.addresses)
        if addresses != self._addresses:
            self._graphs.clear()
            self._addresses = addresses
        key = (sizes, params.temperature, params.top_k, params.top_p)
        if key not in self._graphs:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries set themselves up in the first call, which a graph cannot hold
                self._step(inputs, params)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                tokens_N, logprobs_N = self._step(inputs, params)
            self._graphs[key] = graph, tokens_N, logprobs_N
        graph, tokens_N, logprobs_N = self._graphs[key]
        graph.replay()
        return tokens_N, logprobs_N


def padded(count: int, steps: int = 2) -> int:
    """A size at least `count`, of `steps` different ones between powers of two: at most 1/steps more than needed."""
    power = 1 << max(0, count - 1).bit_length()
    step = max(1, power // (2 * steps))
    return -(-count // step) * step
