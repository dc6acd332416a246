"""Attention over the ranks of a sequence: each has a shard of the tokens, and in attention all tokens of some heads.

Ulysses (DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv:2309.14509, section 3): one all-to-all before attention turns
shards of tokens into shards of heads, one after it turns them back. In between the row is whole, so what attends to
what, and the kernel, are those of one rank. Why not ring attention: docs/decisions/0018.

T tokens of the row, t of this rank's shard, R ranks, H query heads, K key-value heads, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepscaler.modeling.attention import AttentionContext, cast_to_value_dtype


class UlyssesAttention:
    """An attention context for a shard of a row that `inner` computes whole, for a part of the heads.

    group: the R ranks of the row. lengths: the tokens of each, in the order of ranks; may differ, and be 0. The number
    of query heads must be a multiple of R. Key-value heads are repeated where theirs is not.
    """

    def __init__(self, inner: AttentionContext, group: dist.ProcessGroup, lengths: Sequence[int]) -> None:
        assert len(lengths) == group.size()
        self._inner, self._group = inner, group
        self._lengths = list(lengths)
        self._own = [self._lengths[group.rank()]] * group.size()

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        """query [1,H,t,D], key and value [1,K,t,D], rotary embedding applied; returns [1,H,t,D]."""
        query, key = cast_to_value_dtype(query, key, value)
        key, value = (repeated(x, self._group.size()) for x in (key, value))
        query, key, value = self._whole_rows(query, key, value)
        return self._own_rows(self._inner.attend(layer, query, key, value, scaling, window))

    def _whole_rows(self, *shards: Tensor) -> list[Tensor]:
        """[1,heads,t,D] each to [1,heads/R,T,D], in one exchange."""
        ranks, width = self._group.size(), shards[0].shape[3]
        heads = [x.shape[1] // ranks for x in shards]
        # [R,t,heads/R,D] each: what goes to a rank lies together, its tokens in order.
        parts = [x[0].unflatten(0, (ranks, -1)).transpose(1, 2) for x in shards]
        rows = torch.cat(parts, dim=2).flatten(0, 1).flatten(1)
        received = _exchange(rows, self._own, self._lengths, self._group)
        whole = received.unflatten(1, (-1, width)).split(heads, dim=1)  # [T,heads/R,D] each
        return [x.transpose(0, 1).unsqueeze(0) for x in whole]

    def _own_rows(self, whole: Tensor) -> Tensor:
        """[1,H/R,T,D] to [1,H,t,D]."""
        ranks, heads, width = self._group.size(), whole.shape[1], whole.shape[3]
        rows = whole[0].transpose(0, 1).flatten(1)
        received = _exchange(rows, self._lengths, self._own, self._group)
        shard = received.view(ranks, self._own[0], heads, width).transpose(0, 1).flatten(1, 2)  # [t,H,D]
        return shard.transpose(0, 1).unsqueeze(0)


def repeated(heads: Tensor, num_ranks: int) -> Tensor:
    """[1,K,t,D] to [1,K',t,D]: every key-value head several times, so that R divides K', as seldom as possible.

    K' is the least common multiple of K and R; query head h uses key-value head h // (H / K') of the result. Gradients
    of the copies add up.
    """
    copies = math.lcm(heads.shape[1], num_ranks) // heads.shape[1]
    return heads if copies == 1 else heads.repeat_interleave(copies, dim=1)


class _Exchange(torch.autograd.Function):
    """Rows to other ranks; the gradients of the rows come back the same way."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _all_to_all(rows, sent, received, group)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator hides the names of the parameters
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        return _all_to_all(grad, ctx.received, ctx.sent, ctx.group), None, None, None


def _exchange(rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    """[sum(sent),W] to [sum(received),W]: how many rows go to each rank and come from it, in the order of ranks."""
    result = _Exchange.apply(rows, sent, received, group)
    assert isinstance(result, Tensor)
    return result


def _all_to_all(rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    result = rows.new_empty(sum(received), rows.shape[1])
    dist.all_to_all_single(result, rows.contiguous(), received, sent, group=group)
    return result
