"""Attention over the blocks of the cache, by the kernel and by its torch reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from decode_blocks import blocks_for
from deepscaler.cpu.decode_attention import DecodeAttention, FusedDecodeAttention
from deepscaler.engines.torch.kv_cache import KVCache

CPU = torch.device("cpu")
KINDS: list[type[DecodeAttention]] = [DecodeAttention, FusedDecodeAttention]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("heads", "width", "size"), [(4, 8, 4), (2, 32, 32), (6, 24, 16), (14, 16, 20), (8, 64, 64), (10, 128, 32)]
)
def test_attention_over_blocks_equals_attention_over_each_sequence(
    kind: type[DecodeAttention], heads: int, width: int, size: int
) -> None:
    """Against float64, for every way in which heads and widths fall into the processor's vectors."""
    torch.manual_seed(0)
    config = Qwen2Config(hidden_size=heads * width, num_attention_heads=heads, num_key_value_heads=2)
    config.num_hidden_layers = 2
    cache = KVCache(config, torch.float32, CPU, 2**26, block_tokens=size)
    lengths = [2 * size + 1, size - 1, 0, 5 * size + 2, size]
    table, counts = blocks_for(cache, lengths)
    keys, values = torch.randn(2, 7, 6 * size, 2, width).unbind()
    for row, length in enumerate(lengths):  # as decoding would have filled the blocks
        for position in range(length):
            block, offset = table[row, position // size], position % size
            cache.keys[1][block, :, :, offset] = keys[row, position]
            cache.values[1][block, :, offset] = values[row, position]
    query = 3 * torch.randn(7, heads, width) / width**0.5
    newest = torch.tensor(lengths)
    new_key, new_value = (x[torch.arange(7), torch.tensor([*lengths, 0, 0])] for x in (keys, values))
    attention = kind(table, counts, cache.keys, cache.values, padding=2)
    out = attention.step(newest).attend(1, query, new_key, new_value)
    assert out.shape == (7, heads * width) and not out[5:].any()
    for row, length in enumerate(lengths):
        key, value = (
            x[row, : length + 1].double().repeat_interleave(heads // 2, dim=1).transpose(0, 1) for x in (keys, values)
        )
        expected = torch.softmax(query[row].double().unsqueeze(1) @ key.transpose(1, 2), -1) @ value
        torch.testing.assert_close(out[row].double(), expected.reshape(-1), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_come_through(tiny_model: Callable[..., Any], bad: float) -> None:
    """The engine notices them in the logits; a compiled maximum must not swallow them."""
    cache = KVCache(tiny_model().config, torch.float32, CPU, 2**24, block_tokens=4)
    attention = FusedDecodeAttention(*blocks_for(cache, [9, 3]), cache.keys, cache.values, padding=0)
    query, key = torch.ones(2, 4, 8), torch.ones(2, 2, 8)
    query[1, 2, 3] = bad
    out = attention.step(torch.tensor([9, 3])).attend(0, query, key, key).view(2, 4, 8)
    assert out[0].isfinite().all() and out[1, [0, 1, 3]].isfinite().all() and not out[1, 2].isfinite().any()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_of_attention_reads_is_less_than_a_block_per_sequence(
    tiny_model: Callable[..., Any], kind: type[DecodeAttention]
) -> None:
    """Skewed lengths: one sequence of 500 tokens among 31 of 20 costs the others nothing."""
    cache = KVCache(tiny_model().config, torch.float32, CPU, 2**26, block_tokens=32)
    lengths = [500] + [20] * 31
    attention = kind(*blocks_for(cache, lengths), cache.keys, cache.values, padding=0)
    read = attention.num_blocks * cache.block_tokens
    assert read - sum(lengths) < 32 * len(lengths)
    assert read <= 0.1 * 500 * 32
    assert int(attention.step(torch.tensor(lengths)).visible_M.sum()) == sum(lengths) + len(lengths)
