"""Causal attention of packed segments on CPU, forward and backward, as plain products with one softmax between.

torch's own CPU kernel multiplies with MKL, which leaves AVX-512 unused on AMD processors, and computes a shared prompt
anew for each of its completions (measured side by side in docs/experiments.md). Here every segment of the row is
attended once. Queries go in blocks of at most BLOCK_SCORES scores, so memory grows with the block; up to KEPT_KEYS keys
the probabilities are kept for the backward, above they are made again.

oneDNN compiles a kernel for every shape, so numbers of queries and keys are rounded up. What pads is the row's first
token: as a key it stands behind every query and is masked, as a query its result is dropped and its gradient zero.

T tokens of the row, H query heads, K key-value heads, G = H / K, D head width; of a block: R queries and L keys.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepscaler.attention import PackedAttention
from deepscaler.compiled import passes
from deepscaler.cpu import prefers_onednn
from deepscaler.training.compiled_attention import CompiledAttention, SegmentKeys, segments_once
from deepscaler.training.products import product

# Scores of a product, on average over a row, from which this is faster than torch's kernel; below, calls cost more.
PAYING_SCORES = 55_000
BLOCK_SCORES = 2**20
KEPT_KEYS = 512
_STEP = 32


@dataclass(frozen=True, slots=True)
class Block:
    """Some queries of a segment and the keys they may see, as rows of the packed row, padding included.

    before: keys that all queries see, besides themselves and each other.
    """

    queries: np.ndarray  # int64 [R]
    count: int  # of them, the others are padding
    keys: np.ndarray  # int64 [L]
    before: int


class CpuPackedAttention(PackedAttention):
    """`PackedAttention` by compiled functions where numba can be used, else with the kernel below where it pays.

    The choice depends on lengths and machine only, so that a resumed run repeats itself.
    """

    _plan: Plan | None = None

    @functools.cached_property
    def segment_keys(self) -> SegmentKeys:
        return SegmentKeys(self)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        if all(passes.suit(x) for x in (query, key, value)):
            rows = (x[0].transpose(0, 1) for x in (query, key, value))
            compiled: Any = CompiledAttention.apply(*rows, scaling, self.segment_keys)
            return compiled.transpose(0, 1).unsqueeze(0)
        if query.dtype != torch.float32 or not prefers_onednn():
            return super().attend(layer, query, key, value, scaling)
        if self._plan is None:
            self._plan = Plan(self, query.shape[1] // key.shape[1])
        if self._plan.mean_scores < PAYING_SCORES:
            return super().attend(layer, query, key, value, scaling)
        rows = (x[0].transpose(0, 1) for x in (query, key, value))
        out: Any = SegmentAttention.apply(*rows, scaling, self._plan)
        return out.transpose(0, 1).unsqueeze(0)


class Plan:
    """How a packed row is attended to; made once per micro-batch.

    queries: int64 [sum of R], keys: int64 [sum of L], the rows of all blocks one after the other.
    place: int64 [T], where a token stands in `queries`; padding: int64, the places of those that stand for none.
    mean_scores: scores of a product on average.
    masks: per block [R, 1, L - before], minus infinity for what a query must not see.
    """

    def __init__(self, attention: PackedAttention, group: int) -> None:
        self.group, self.tokens = group, sum(attention.lengths)
        blocks = [b for prefix, own in segments_once(attention) for b in _blocks_of(own, prefix, group)]
        queries = np.concatenate([b.queries for b in blocks])
        real = np.concatenate([np.arange(len(b.queries)) < b.count for b in blocks])
        place = np.empty(self.tokens, np.int64)
        place[queries[real]] = np.flatnonzero(real)
        self.queries, self.place = torch.from_numpy(queries), torch.from_numpy(place)
        self.padding = torch.from_numpy(np.flatnonzero(~real))
        self.keys = torch.from_numpy(np.concatenate([b.keys for b in blocks]))
        self.num_queries, self.num_keys = [len(b.queries) for b in blocks], [len(b.keys) for b in blocks]
        self.before = [b.before for b in blocks]
        self.mean_scores = float(np.mean([group * len(b.queries) * len(b.keys) for b in blocks]))
        known: dict[tuple[int, int], Tensor] = {}
        shapes = [(len(b.queries), len(b.keys) - b.before) for b in blocks]
        self.masks = [known.setdefault(shape, _mask(*shape)) for shape in shapes]


def _blocks_of(own: np.ndarray, prefix: np.ndarray, group: int) -> Iterator[Block]:
    most = BLOCK_SCORES // (group * _rounded(len(prefix) + len(own))) // _STEP * _STEP
    most = max(_STEP, most)
    for first in range(0, len(own), most):
        queries = own[first : first + most]
        before = len(prefix) + first
        count = min(_rounded(len(queries)), most)
        keys = np.concatenate([prefix, own[: first + len(queries)]])
        yield Block(_filled(queries, count), len(queries), _filled(keys, _rounded(before + count)), before)


def _rounded(count: int) -> int:
    """`count` rounded up to a multiple of 32, above 512 to a sixteenth of its magnitude."""
    step = max(_STEP, (1 << (count - 1).bit_length()) // 16)
    return -(-count // step) * step


def _filled(rows: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([rows, np.zeros(count - len(rows), np.int64)])


def _mask(rows: int, keys: int) -> Tensor:
    return torch.full((rows, keys), -torch.inf).triu_(1).unsqueeze(1)


class SegmentAttention(torch.autograd.Function):
    """query [T,H,D], key and value [T,K,D], rotary embedding applied; returns [T,H,D]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, plan: Plan) -> Tensor:
        needed = any(ctx.needs_input_grad)
        heads = key.shape[1]
        out, kept = query.new_empty(len(query), heads, query[0].numel() // heads), []
        queries = [x.mul_(scaling) for x in _taken(query, heads, plan.queries)]
        keys, values = (_taken(x, heads, plan.keys) for x in (key, value))
        for head in range(heads):
            results = []
            for index, (q, k, v) in enumerate(_blocks_of_head(plan, queries[head], keys[head], values[head])):
                p = _probabilities(q, k, plan, index)
                results.append(product(p, v.T))
                kept.append(p if needed and p.shape[1] <= KEPT_KEYS else None)
            out[:, head] = torch.cat(results).view(len(plan.queries), -1).index_select(0, plan.place)
        ctx.save_for_backward(*queries, *keys, *values, *kept)
        ctx.plan, ctx.scaling, ctx.shapes = plan, scaling, (query.shape, key.shape)
        return out.view(query.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        of_queries, of_keys = ctx.shapes
        heads = of_keys[1]
        saved = ctx.saved_tensors  # once: under checkpointing a second reading is an error
        queries, keys, values = (saved[n * heads : (n + 1) * heads] for n in range(3))
        kept = iter(saved[3 * heads :])
        grad_query = grads[0].new_empty(of_queries[0], heads, grads[0][0].numel() // heads)
        grad_key, grad_value = grads[0].new_empty(of_keys), grads[0].new_empty(of_keys)
        for head, grad in enumerate(_taken(grads[0], heads, plan.queries)):
            grad.view(len(plan.queries), -1)[plan.padding] = 0  # so that padding adds nothing to any gradient
            results, key_parts, value_parts = [], [], []
            blocks = _blocks_of_head(plan, queries[head], keys[head], values[head], grad)
            for index, (q, k, v, g) in enumerate(blocks):
                p = next(kept)
                p = _probabilities(q, k, plan, index) if p is None else p
                scores = torch.ops.aten._softmax_backward_data(product(g, v), p, -1, p.dtype)
                results.append(product(scores, k.T))
                key_parts.append(product(q.T, scores.T))
                value_parts.append(product(g.T, p.T))
            grad_query[:, head] = torch.cat(results).view(len(plan.queries), -1).index_select(0, plan.place)
            grad_key[:, head] = _summed(key_parts, plan)
            grad_value[:, head] = _summed(value_parts, plan)
        return grad_query.mul_(ctx.scaling).view(of_queries), grad_key, grad_value, None, None


def _taken(x: Tensor, heads: int, rows: Tensor) -> list[Tensor]:
    """The given rows of x [T,heads*n,D] for every key-value head: [rows * n, D] each."""
    by_head = x.reshape(len(x), heads, -1)
    return [by_head[:, head].index_select(0, rows).view(-1, x.shape[2]) for head in range(heads)]


def _blocks_of_head(plan: Plan, query: Tensor, key: Tensor, value: Tensor, *more: Tensor) -> Iterator[tuple[Any, ...]]:
    """Block by block the rows of each tensor; `more` are as queries."""
    rows = [plan.group * n for n in plan.num_queries]
    tensors = (query.split(rows), key.split(plan.num_keys), value.split(plan.num_keys))
    return zip(*tensors, *(x.split(rows) for x in more), strict=True)


def _probabilities(query: Tensor, key: Tensor, plan: Plan, index: int) -> Tensor:
    """[R*G, L]."""
    scores = product(query, key)
    scores.view(-1, plan.group, len(key))[:, :, plan.before[index] :] += plan.masks[index]
    return torch.softmax(scores, -1)


def _summed(parts: list[Tensor], plan: Plan) -> Tensor:
    """[T,D]: gradients [D,L] of the blocks' keys added up where the keys came from."""
    gradients = torch.cat(parts, 1).T.contiguous()
    return torch.ops.aten.embedding_dense_backward(gradients, plan.keys, plan.tokens, -1, False)
