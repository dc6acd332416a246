"""Causal attention of packed segments on CPU, forward and backward, as plain products with one softmax between.

torch's own CPU kernel multiplies with MKL, which leaves AVX-512 unused on AMD processors, and computes a shared prompt
anew for each of its completions (measured side by side in docs/experiments.md). Here every segment of the row is
attended once. Queries go in blocks of at most BLOCK_SCORES scores, so memory grows with the block; up to KEPT_KEYS keys
the probabilities are kept for the backward, above they are made again.

oneDNN compiles a kernel for every shape, so numbers of queries and keys are rounded up; padding is a row of zeros
behind the last token.

T tokens of the row, H query heads, K key-value heads, G = H / K, D head width; of a block: R queries and L keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepscaler.attention import PackedAttention
from deepscaler.training.products import product

BLOCK_SCORES = 2**20
KEPT_KEYS = 512
_STEP = 32


@dataclass(frozen=True, slots=True)
class Block:
    """Some queries of a segment and the keys they may see, as rows of the packed row; T stands for padding.

    before: keys that all queries see, besides themselves and each other.
    """

    queries: np.ndarray  # int64 [R]
    keys: np.ndarray  # int64 [L]
    before: int


class Plan:
    """How a packed row is attended to; made once per micro-batch.

    queries: int64 [sum of R], keys: int64 [sum of L], the rows of all blocks one after the other.
    place: int64 [T], where a token stands in `queries`.
    mean_scores: scores of a product on average.
    masks: per block [R, 1, L - before], minus infinity for what a query must not see.
    """

    def __init__(self, attention: PackedAttention, group: int) -> None:
        self.tokens = sum(attention.lengths)
        blocks = list(_blocks(attention, group))
        queries = np.concatenate([b.queries for b in blocks])
        place = np.empty(self.tokens + 1, np.int64)
        place[queries] = np.arange(len(queries))
        self.group = group
        self.queries, self.place = torch.from_numpy(queries), torch.from_numpy(place[:-1])
        self.keys = torch.from_numpy(np.concatenate([b.keys for b in blocks]))
        self.num_queries = [len(b.queries) for b in blocks]
        self.num_keys = [len(b.keys) for b in blocks]
        self.before = [b.before for b in blocks]
        self.mean_scores = float(np.mean([group * len(b.queries) * len(b.keys) for b in blocks]))
        known: dict[tuple[int, int], Tensor] = {}
        self.masks = [
            known.setdefault(s, _mask(*s)) for s in ((len(b.queries), len(b.keys) - b.before) for b in blocks)
        ]


def _blocks(attention: PackedAttention, group: int) -> Iterator[Block]:
    """Every segment of the row once."""
    starts = np.cumsum([0, *attention.lengths])
    rows = [np.arange(a, b) for a, b in pairwise(starts)]
    seen: set[int] = set()
    for members in attention.sequences:
        for place, segment in enumerate(members):
            if segment not in seen:
                seen.add(segment)
                prefix = np.concatenate([np.empty(0, np.int64), *(rows[i] for i in members[:place])])
                yield from _blocks_of(rows[segment], prefix, group, int(starts[-1]))


def _blocks_of(own: np.ndarray, prefix: np.ndarray, group: int, padding: int) -> Iterator[Block]:
    most = BLOCK_SCORES // (group * _rounded(len(prefix) + len(own))) // _STEP * _STEP
    most = max(_STEP, most)
    for first in range(0, len(own), most):
        queries = own[first : first + most]
        before = len(prefix) + first
        count = min(_rounded(len(queries)), most)
        keys = np.concatenate([prefix, own[: first + len(queries)]])
        yield Block(_filled(queries, count, padding), _filled(keys, _rounded(before + count), padding), before)


def _rounded(count: int) -> int:
    """`count` rounded up to a multiple of 32, above 512 to a sixteenth of its magnitude."""
    step = max(_STEP, (1 << (count - 1).bit_length()) // 16)
    return -(-count // step) * step


def _filled(rows: np.ndarray, count: int, padding: int) -> np.ndarray:
    return np.concatenate([rows, np.full(count - len(rows), padding)])


def _mask(rows: int, keys: int) -> Tensor:
    return torch.full((rows, keys), -torch.inf).triu_(1).unsqueeze(1)


class SegmentAttention(torch.autograd.Function):
    """query [K,T+1,G*D], scaled and rotated, key and value [K,T+1,D], the last row zero; returns [T,H*D]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: Plan) -> Tensor:
        needed = any(ctx.needs_input_grad)
        kept: list[Tensor | None] = []
        results = []
        padded = _padded(plan, query, key, value)
        for index, (q, k, v) in _parts(plan, *padded):
            p = _probabilities(q, k, plan, index)
            results.append(product(p, v.T))
            kept.append(p if needed and p.shape[1] <= KEPT_KEYS else None)
        ctx.save_for_backward(*padded, *kept)
        ctx.plan, ctx.shapes = plan, (query.shape, key.shape)
        whole = torch.cat(results).view(len(query), -1, query.shape[2])
        return whole.index_select(1, plan.place).transpose(0, 1).reshape(plan.tokens, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        plan: Plan = ctx.plan
        of_queries, of_keys = ctx.shapes
        grad_out = grads[0].new_zeros(of_queries)
        grad_out[:, :-1] = grads[0].view(plan.tokens, len(query), -1).transpose(0, 1)
        grad_out = grad_out.index_select(1, plan.queries).view(query.shape)
        results, keys, values = [], [], []
        for (index, (q, k, v, grad)), p in zip(_parts(plan, query, key, value, grad_out), kept, strict=True):
            p = _probabilities(q, k, plan, index) if p is None else p
            scores = torch.ops.aten._softmax_backward_data(product(grad, v), p, -1, p.dtype)
            results.append(product(scores, k.T))
            keys.append(product(q.T, scores.T))
            values.append(product(grad.T, p.T))
        grad_query = grads[0].new_zeros(of_queries)
        grad_query[:, :-1] = torch.cat(results).view(len(query), -1, of_queries[2]).index_select(1, plan.place)
        return grad_query, _summed(keys, plan, of_keys), _summed(values, plan, of_keys), None


def _padded(plan: Plan, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows as the blocks want them: [K, sum of R * G, D] and twice [K, sum of L, D]."""
    queries = query.index_select(1, plan.queries).view(len(query), -1, key.shape[2])
    return queries, key.index_select(1, plan.keys), value.index_select(1, plan.keys)


def _parts(plan: Plan, query: Tensor, key: Tensor, value: Tensor, *more: Tensor) -> Iterator[tuple[int, Any]]:
    """Block by block for one head after the other: its index, and its rows of each tensor (`more` are as queries)."""
    rows = [plan.group * n for n in plan.num_queries]
    for head in range(len(query)):
        tensors = (query[head].split(rows), key[head].split(plan.num_keys), value[head].split(plan.num_keys))
        yield from enumerate(zip(*tensors, *(x[head].split(rows) for x in more), strict=True))


def _probabilities(query: Tensor, key: Tensor, plan: Plan, index: int) -> Tensor:
    """[R*G, L]."""
    scores = product(query, key)
    scores.view(-1, plan.group, len(key))[:, :, plan.before[index] :] += plan.masks[index]
    return torch.softmax(scores, -1)


def _summed(parts: list[Tensor], plan: Plan, shape: torch.Size) -> Tensor:
    """[K,T+1,D]: gradients [D,L] of the blocks' keys added up where the keys came from."""
    heads, rows, _ = shape
    gradients = torch.cat(parts, 1).T.contiguous()
    places = (plan.keys + rows * torch.arange(heads).unsqueeze(1)).view(-1)
    return torch.ops.aten.embedding_dense_backward(gradients, places, heads * rows, -1, False).view(shape)
