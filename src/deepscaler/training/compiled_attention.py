"""Causal attention of packed segments by the compiled functions of `attention_kernels`, for tensors that `suit` them.

T tokens of the row, H query heads, K key-value heads, D head width, S segments.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepscaler.attention import PackedAttention


def segments_once(attention: PackedAttention) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every segment of the row once: the tokens before it that all of its tokens see, and its own, as rows."""
    starts = np.cumsum([0, *attention.lengths])
    rows = [np.arange(a, b) for a, b in pairwise(starts)]
    seen: set[int] = set()
    for members in attention.sequences:
        for place, segment in enumerate(members):
            if segment not in seen:
                seen.add(segment)
                yield np.concatenate([np.empty(0, np.int64), *(rows[i] for i in members[:place])]), rows[segment]


class SegmentKeys:
    """Which tokens each segment's queries see; made once per micro-batch.

    keys: int64 [sum of L], the tokens of all segments one after the other, own ones last; ends: int64 [S+1] in it.
    before: int64 [S], how many of its tokens are not its own.
    """

    def __init__(self, attention: PackedAttention) -> None:
        segments = list(segments_once(attention))
        self.keys = np.concatenate([x for pair in segments for x in pair])
        self.ends = np.cumsum([0, *(len(prefix) + len(own) for prefix, own in segments)])
        self.most = int(np.diff(self.ends).max(initial=0))
        self.before = np.array([len(prefix) for prefix, _ in segments], np.int64)

    @property
    def arguments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """As the compiled functions take them."""
        return self.keys, self.ends, self.before, self.most


class CompiledAttention(torch.autograd.Function):
    """query [T,H,D], key and value [T,K,D], rotary embedding applied, views as they are; returns [T,H,D].

    Output and gradients are contiguous, so that products read them as [T,H*D].
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, plan: SegmentKeys) -> Tensor:
        from deepscaler.training import attention_kernels  # compiled when first used

        out, statistics = query.new_empty(query.shape), query.new_empty(query.shape[0] * query.shape[1], 2)
        inputs = [_rows(x) for x in (query, key, value)]
        attention_kernels.forward(
            *(x.numpy() for x in inputs), *plan.arguments, scaling, out.numpy(), statistics.numpy()
        )
        ctx.save_for_backward(*inputs, out, statistics)
        ctx.scaling, ctx.plan = scaling, plan
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from deepscaler.training import attention_kernels  # compiled when first used

        saved = ctx.saved_tensors  # once: under checkpointing a second reading is an error
        query, key = saved[:2]
        results = query.new_empty(query.shape), key.new_zeros(key.shape), key.new_zeros(key.shape)
        arrays = [x.detach().numpy() for x in (_rows(grads[0]), *saved)]
        attention_kernels.backward(*arrays, *ctx.plan.arguments, ctx.scaling, *(x.numpy() for x in results))
        return *results, None, None


def _rows(x: Tensor) -> Tensor:
    """x [T,H,D] with every row in one piece."""
    return x.detach() if x.stride(2) == 1 else x.detach().contiguous()
