"""Causal attention of packed segments, forward and backward, by kernels: float32 on CPU.

torch's own CPU kernel computes a shared prompt anew for each of its completions and is slow at short segments and
narrow heads (measured side by side in docs/experiments.md). Here every segment of the row is attended once, over its
own keys and those before it; gradients of shared keys add up in the order of segments, so that a run repeats its bits.
The torch reference is `attention.PackedAttention`, which also computes on other devices and in other dtypes.

T tokens of the row, H query heads, K key-value heads, D head width, S segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class SegmentKeys:
    """The tokens that the queries of each segment see; made once per micro-batch.

    keys: int64 [sum of L], the tokens of all segments one after the other, own ones last; ends: int64 [S+1] in it.
    before: int64 [S], how many of its tokens are not its own; most: of any segment's tokens.
    """

    def __init__(self, lengths: Sequence[int], sequences: Sequence[tuple[int, ...]]) -> None:
        segments = list(_segments_once(lengths, sequences))
        self.keys = np.concatenate([np.empty(0, np.int64), *(x for pair in segments for x in pair)])
        self.before = np.array([len(prefix) for prefix, _ in segments], np.int64)
        self.ends = np.cumsum([0, *(len(prefix) + len(own) for prefix, own in segments)])
        self.most = int(np.diff(self.ends).max(initial=0))

    @property
    def arguments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """In the order of the kernels' parameters."""
        return self.keys, self.ends, self.before, self.most


def _segments_once(
    lengths: Sequence[int], sequences: Sequence[tuple[int, ...]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every segment of the row once: the tokens before it in its sequence, and its own, as places in the row."""
    places = [np.arange(a, b) for a, b in pairwise(np.cumsum([0, *lengths]))]
    seen: set[int] = set()
    for members in sequences:
        for index, segment in enumerate(members):
            if segment not in seen:
                seen.add(segment)
                yield np.concatenate([np.empty(0, np.int64), *(places[i] for i in members[:index])]), places[segment]


def packed_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, segments: SegmentKeys) -> Tensor:
    """query [1,H,T,D], key and value [1,K,T,D], rotary embedding applied; returns [1,H,T,D]."""
    rows = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))  # a view both ways, unlike x[0]
    out: Any = FusedAttention.apply(*rows, scaling, segments)
    return out.transpose(0, 1).unsqueeze(0)


class FusedAttention(torch.autograd.Function):
    """query [T,H,D], key and value [T,K,D], rotary embedding applied, any strides; returns [T,H,D].

    Output and gradients are contiguous, so that matrix products read them as [T,H*D].
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, segments: SegmentKeys) -> Tensor:
        from deepscaler.cpu.kernels import packed_attention  # loads numba; compiled when first used

        out, statistics = query.new_empty(query.shape), query.new_empty(query.shape[0] * query.shape[1], 2)
        inputs = [_rows(x) for x in (query, key, value)]
        arrays = [x.numpy() for x in inputs]
        packed_attention.forward(*arrays, *segments.arguments, scaling, out.numpy(), statistics.numpy())
        ctx.save_for_backward(*inputs, out, statistics)
        ctx.scaling, ctx.segments = scaling, segments
        return out

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator hides the names of the parameters
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        from deepscaler.cpu.kernels import packed_attention

        saved = ctx.saved_tensors  # once: under checkpointing a second reading is an error
        query, key = saved[:2]
        results = query.new_empty(query.shape), key.new_zeros(key.shape), key.new_zeros(key.shape)
        arrays = [x.numpy() for x in (_rows(grads[0]), *(x.detach() for x in saved))]
        packed_attention.backward(*arrays, *ctx.segments.arguments, ctx.scaling, *(x.numpy() for x in results))
        return *results, None, None


def _rows(x: Tensor) -> Tensor:
    """x [T,H,D] with every row in one piece."""
    return x.detach() if x.stride(2) == 1 else x.detach().contiguous()
