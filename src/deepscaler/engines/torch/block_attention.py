"""Attention of one new token per sequence over the blocks of the cache: reads exactly the blocks in use, no padding.

For CPU by torch's operators; in float32, where numba is installed, `compiled_attention` does the same faster. Both
halves are sums of weighted rows, which `embedding_bag` computes at twice to three times the rate of batched matrix
products of such narrow shape (docs/experiments.md): scores are a block's D key rows [B] weighted by the query, outputs
its B value rows [D] weighted by the probabilities. A sequence's blocks are normalised one by one and then combined by
their log-sum-exp, as in flash decoding (Dao et al. 2023).

N sequences, M blocks in use by them, T most blocks of a sequence, H query heads, K key-value heads, D head width, B
tokens in a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.compiled import has_numba
from deepscaler.engines.torch.compiled_attention import CompiledLayout, in_order_of_memory
from deepscaler.engines.torch.decode_state import DecodeState, sample_rows
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class Parts:
    """How the blocks of a sequence are put together, where any has several."""

    most: int  # T
    blocks: Tensor  # int64 [N*T]: each sequence's blocks as places in M, padded with M
    shares: Tensor  # int64 [M*H]: where in [N,T,H] the share of each block and head stands; by sequence, then head
    lse: Tensor  # [M+1,H], room for the log-sum-exp of each block; the last row, which stands for no block, is -inf


class BlockLayout:
    """Where everything lies for as long as no block is added or freed; the same for all layers.

    A bag is one weighted sum, for each block and query head. The query heads that share a key-value head follow one
    another, so that a block is read from memory once and from the processor's cache for the others; blocks are in
    the order of memory, in which the processor reads ahead.
    """

    def __init__(
        self,
        table_NT: NDArray[np.int64],
        count_N: NDArray[np.int64],
        cache: KVCache,
        heads: int,
        padding: int,
    ) -> None:
        """table_NT: the blocks of each sequence, in order of position; row n holds count_N[n] of them.

        `padding`: rows of zeros wanted after the N sequences.
        """
        blocks, owner, place = in_order_of_memory(table_NT, count_N)
        self.cache, self.heads, self.num_blocks, self.num_sequences = cache, heads, len(blocks), len(count_N)
        self.owner_M = torch.from_numpy(owner)
        self.key_rows, self.key_bags = _bags(blocks, cache.kv_heads, heads, cache.head_dim)
        self.value_rows, self.value_bags = _bags(blocks, cache.kv_heads, heads, cache.block_tokens)

        self.written_N = torch.from_numpy(table_NT[np.arange(len(count_N)), count_N - 1])
        last_M = place == count_N[owner] - 1
        self._last_N = torch.from_numpy(np.flatnonzero(last_M)[np.argsort(owner[last_M])])
        self._bias_MB = torch.zeros(len(blocks), cache.block_tokens, dtype=cache.dtype)
        self._hidden_BB = torch.full((cache.block_tokens, cache.block_tokens), -torch.inf).triu_(1).to(cache.dtype)

        # [M*H] places of the block's outputs, ordered by sequence, head and block: each sequence and head is a bag.
        by_owner = np.argsort(owner * (count_N.max() + 1) + place)
        rows_NHT = by_owner[:, None] * heads + np.arange(heads)
        self._by_sequence = rows_NHT.reshape(-1)[np.argsort(_key(owner[by_owner], heads), kind="stable")]
        self.out_rows = torch.from_numpy(self._by_sequence)
        ends = np.cumsum(np.repeat(count_N, heads))
        self.out_bags = torch.from_numpy(np.concatenate([[0], ends[:-1], np.full(padding * heads, ends[-1])]))
        self.parts = self._parts(owner, place, count_N, cache.dtype) if len(blocks) > len(count_N) else None
        self.no_parts = torch.ones(len(blocks) * heads, dtype=cache.dtype)

    def _parts(
        self, owner: NDArray[np.int64], place: NDArray[np.int64], count_N: NDArray[np.int64], dtype: torch.dtype
    ) -> Parts:
        most = int(count_N.max())
        blocks = np.full((len(count_N), most), len(owner), dtype=np.int64)
        blocks[owner, place] = np.arange(len(owner))
        shares = ((owner * most + place)[:, None] * self.heads + np.arange(self.heads)).reshape(-1)[self._by_sequence]
        lse = torch.full((len(owner) + 1, self.heads), -torch.inf, dtype=dtype)
        return Parts(most, torch.from_numpy(blocks.reshape(-1)), torch.from_numpy(shares), lse)

    def step(self, length_N: Tensor) -> BlockAttention:
        """Attention of the next token. length_N: int64 [N], tokens already cached of each sequence."""
        offset_N = length_N % self.cache.block_tokens
        self._bias_MB[self._last_N] = self._hidden_BB[offset_N]
        return BlockAttention(self.cache, self, offset_N, self._bias_MB.unsqueeze(1))


def _key(owner: NDArray[np.int64], heads: int) -> NDArray[np.int64]:
    """Sequence and head as one number, [M*H]."""
    return (owner[:, None] * heads + np.arange(heads)).reshape(-1)


def _bags(blocks: NDArray[np.int64], kv_heads: int, heads: int, size: int) -> tuple[Tensor, Tensor]:
    """For each (block, query head) its `size` rows of a table [blocks * kv_heads * size, ...], and where it begins.

    Both int32.
    """
    first = (blocks[:, None] * kv_heads + np.arange(kv_heads)) * size
    assert first.max() < 2**31 - size, "the cache is too large for 32-bit rows"
    rows = first.astype(np.int32).reshape(-1, 1, 1) + np.arange(size, dtype=np.int32)
    rows = np.repeat(rows, heads // kv_heads, axis=1).reshape(-1)
    return torch.from_numpy(rows), torch.arange(len(blocks) * heads, dtype=torch.int32) * size


class BlockAttention:
    """Writes the new token's key and value, and attends to everything up to it."""

    def __init__(self, cache: KVCache, layout: BlockLayout, offset_N: Tensor, bias_M1B: Tensor) -> None:
        """offset_N: int64 [N], the place of the new token in its block; bias: -inf for places not filled by then."""
        self._cache, self._layout, self._offset_N, self._bias_M1B = cache, layout, offset_N, bias_M1B

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [rows,H,D], key and value [rows,K,D] -> [rows,H*D]; rows beyond the N sequences are padding."""
        layout, count = self._layout, self._layout.num_sequences
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[layout.written_N, :, :, self._offset_N] = key[:count]
        values[layout.written_N, :, self._offset_N] = value[:count]
        scores = _weighted_sums(keys, layout.key_rows, layout.key_bags, query.index_select(0, layout.owner_M))
        scores = scores.view(layout.num_blocks, layout.heads, -1).add_(self._bias_M1B)
        probs = scores.softmax(dim=-1)
        out = _weighted_sums(values, layout.value_rows, layout.value_bags, probs)
        shares = layout.no_parts if layout.parts is None else _shares(scores, probs, layout.parts)
        return _weighted_sums(out, layout.out_rows, layout.out_bags, shares).view(len(query), -1)


def _weighted_sums(table: Tensor, rows: Tensor, bags: Tensor, weights: Tensor) -> Tensor:
    """table [..., width] -> [bags, width]."""
    return torch.embedding_bag(
        table.view(-1, table.shape[-1]), rows, bags, mode=0, per_sample_weights=weights.reshape(-1)
    )[0]


def _shares(scores: Tensor, probs: Tensor, parts: Parts) -> Tensor:
    """Each block's share of its sequence's probability, [M*H] in the order of `parts.shares`."""
    # log-sum-exp from what is at hand: the largest probability is exp(largest score - log-sum-exp), never 0.
    torch.sub(scores.amax(-1), probs.amax(-1).log_(), out=parts.lse[:-1])
    padded = parts.lse.index_select(0, parts.blocks).view(-1, parts.most, scores.shape[1])
    return padded.softmax(dim=1).view(-1).index_select(0, parts.shares)


class CpuStep:
    """One token for every row, on CPU."""

    def __init__(self, decoder: Decoder, cache: KVCache, *, compiled: bool = True) -> None:
        """compiled: by the function of `kernels`, where that is to be had."""
        self._decoder, self._cache = decoder, cache
        suits = compiled and cache.dtype == torch.float32 and has_numba()
        self._layout_type = CompiledLayout if suits else BlockLayout
        self._layout: CompiledLayout | BlockLayout | None = None

    def run(self, state: DecodeState, changed: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The next token and its logprob for each row. `changed`: block tables differ from those of the last step."""
        count = len(state)
        padding = -count % self._decoder.products.row_multiple
        if changed or self._layout is None:
            self._layout = self._layout_type(*state.block_tables, self._cache, self._decoder.heads, padding)
        fed = np.zeros((2, count + padding), np.int64)
        fed[0, :count], fed[1, :count] = state.last_tokens, state.num_cached
        token_N, position_N = torch.from_numpy(fed)
        attention = self._layout.step(position_N[:count])
        logits = self._decoder.logits(token_N, position_N, attention)[:count]
        return sample_rows(logits, state, first=0)
