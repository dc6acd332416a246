"""Ulysses attention equals attention on one rank, whatever the shards, forward and backward."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from deepscaler.modeling.attention import PackedAttention
from deepscaler.modeling.ulysses import UlyssesAttention
from rank_threads import on_ranks

WIDTH = 8
SEGMENTS = [5, 9, 3, 1, 6]
SEQUENCES = [(0, 1), (0, 2), (3,), (4,)]  # the first two share a prompt
CPU = torch.device("cpu")


def packed() -> PackedAttention:
    return PackedAttention(SEGMENTS, CPU, SEQUENCES)


def made(query_heads: int, kv_heads: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, heads, sum(SEGMENTS), WIDTH) for heads in (query_heads, kv_heads, kv_heads, query_heads)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def whole(query_heads: int, kv_heads: int) -> list[Tensor]:
    *inputs, gradient = made(query_heads, kv_heads)
    leaves = [x.requires_grad_() for x in inputs]
    out = packed().attend(0, leaves[0], leaves[1], leaves[2], 0.3)
    out.backward(gradient)
    return [out.detach(), *(x.grad for x in leaves if x.grad is not None)]


def sharded(query_heads: int, kv_heads: int, lengths: list[int]) -> list[Tensor]:
    """Output and gradients of query, key and value, the shards joined."""
    bounds = [0, *np.cumsum(lengths).tolist()]

    def work(group: torch.distributed.ProcessGroup) -> list[Tensor]:
        start, end = list(pairwise(bounds))[group.rank()]
        *inputs, gradient = (x[:, :, start:end] for x in made(query_heads, kv_heads))
        leaves = [x.detach().requires_grad_() for x in inputs]
        attention = UlyssesAttention(packed(), group, lengths)
        out = attention.attend(0, leaves[0], leaves[1], leaves[2], 0.3)
        out.backward(gradient)
        return [out.detach(), *(x.grad for x in leaves if x.grad is not None)]

    return [torch.cat(parts, dim=2) for parts in zip(*on_ranks(len(lengths), work), strict=True)]


SHARDS = {
    "even": [12, 12],
    "inside of a document": [7, 17],
    "one token": [1, 23],
    "none": [24, 0],
    "longer documents than shards": [6, 6, 6, 6],
    "some empty": [0, 20, 0, 4],
}


@pytest.mark.parametrize("lengths", SHARDS.values(), ids=SHARDS.keys())
def test_shards_of_any_length_change_nothing(lengths):
    for joined, expected in zip(sharded(4, 2, lengths), whole(4, 2), strict=True):
        torch.testing.assert_close(joined, expected, atol=1e-6, rtol=1e-6)


def test_plain_torch_agrees_as_well(without_acceleration):
    for joined, expected in zip(sharded(4, 2, [7, 17]), whole(4, 2), strict=True):
        torch.testing.assert_close(joined, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("heads", "kv_heads", "ranks"), [(12, 2, 4), (12, 2, 3), (12, 2, 6), (4, 1, 4), (6, 6, 3)])
def test_key_value_heads_need_not_divide(heads, kv_heads, ranks):
    lengths = [sum(SEGMENTS) // ranks] * ranks
    for joined, expected in zip(sharded(heads, kv_heads, lengths), whole(heads, kv_heads), strict=True):
        torch.testing.assert_close(joined, expected, atol=2e-6, rtol=1e-6)


def test_half_precision_exchanges_what_one_rank_attends_to():
    query, key, value, _ = made(4, 2, torch.bfloat16)
    expected = packed().attend(0, query, key, value, 0.3)

    def work(group: torch.distributed.ProcessGroup) -> Tensor:
        q, k, v = (x[:, :, 12 * group.rank() :][:, :, :12] for x in (query, key, value))
        # as under autocast, which leaves queries and keys in float32
        return UlyssesAttention(packed(), group, [12, 12]).attend(0, q.float(), k.float(), v, 0.3)

    torch.testing.assert_close(torch.cat(on_ranks(2, work), dim=2), expected, atol=0, rtol=0)
