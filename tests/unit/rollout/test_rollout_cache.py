"""The cache holds what is used, frees at once, queues what does not fit, and reads no padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deepscaler.rollout.block_attention import BlockAttention, BlockLayout, BlockStep
from deepscaler.rollout.blocks import BlockAllocator
from deepscaler.rollout.cache import BlockCache
from deepscaler.rollout.decoder import Decoder
from deepscaler.rollout.pool import PoolStep
from deepscaler.rollout.pool_attention import padded
from deepscaler.rollout.pool_cache import PoolCache
from deepscaler.rollout.products import OneDnnProducts, Products, TorchProducts, has_packing
from deepscaler.rollout.rows import Sequence
from deepscaler.rollout.torch_engine import TorchEngine
from deepscaler.types import Request, RunError
from rollout_runs import PARAMS, assert_equal, requests, run

NEVER: frozenset[int] = frozenset()


def test_logprobs_over_several_blocks_equal_a_full_forward(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("qwen3")
    rollouts = run(TorchEngine(model, stop_ids=NEVER, max_active=5), requests(3))
    model.set_attn_implementation("eager")
    for rollout in rollouts.values():
        ids = torch.tensor(np.concatenate([rollout.prompt_ids, rollout.completion_ids]), dtype=torch.int64)
        with torch.no_grad():
            logits = model(ids.unsqueeze(0)).logits[0].float() / PARAMS.temperature
        predicted = torch.log_softmax(logits, -1)[len(rollout.prompt_ids) - 1 : -1]
        expected = predicted.gather(1, ids[len(rollout.prompt_ids) :].unsqueeze(1)).squeeze(1)
        np.testing.assert_allclose(rollout.rollout_logprobs, expected.numpy(), atol=3e-5)


def test_a_cache_too_small_for_all_gives_the_same_completions(tiny_model: Callable[..., Any]) -> None:
    model, wanted = tiny_model(), requests(4)
    expected = run(TorchEngine(model, stop_ids=NEVER), wanted)
    small = TorchEngine(model, stop_ids=NEVER, max_cache_bytes=9 * 32 * 2 * 2 * 2 * 8 * 4)  # 9 blocks
    assert small._cache.allocator.limit * small._cache.block_bytes <= 9 * 8192
    assert_equal(run(small, wanted), expected)
    assert small._cache.allocator.limit == 9 and small._cache.allocator.highest <= 9
    assert small._cache.allocator.num_used == 0


def test_what_can_never_fit_is_refused_with_a_remedy(tiny_model: Callable[..., Any]) -> None:
    engine = TorchEngine(tiny_model(), stop_ids=NEVER, max_cache_bytes=5 * 8192)
    with pytest.raises(ValueError, match=r"room for 96 tokens; lower max_completion_tokens or give the cache more"):
        run(engine, requests(1))


def test_a_new_generation_ends_an_unfinished_one(tiny_model: Callable[..., Any]) -> None:
    engine = TorchEngine(tiny_model(), stop_ids=NEVER, max_active=3)
    expected = run(engine, requests(2))
    started = engine.generate(requests(2), PARAMS)
    next(started)
    assert_equal(run(engine, requests(2)), expected)
    with pytest.raises(RunError, match="ended by a newer one"):
        list(started)
    assert engine._cache.allocator.num_used == 0


def test_a_mixture_of_parameters_is_what_each_gives_alone(tiny_model: Callable[..., Any]) -> None:
    kinds = [PARAMS, replace(PARAMS, temperature=0.0), replace(PARAMS, top_k=3, max_completion_tokens=40)]
    request = requests(1)[0]
    engine = TorchEngine(tiny_model(), stop_ids=NEVER)
    alone = [run(engine, [request], params)["p0", 2] for params in kinds]
    batch = engine.open_batch(capacity=120)
    sequences = [Sequence(request, 2, params) for params in kinds]
    for sequence in sequences:
        batch.add(sequence)
    while not batch.is_empty:
        batch.step()
    for sequence, rollout in zip(sequences, alone, strict=True):
        np.testing.assert_array_equal(sequence.tokens, rollout.completion_ids)
        np.testing.assert_allclose(sequence.logprobs, rollout.rollout_logprobs, atol=2e-5)


def test_memory_is_what_the_longest_moment_needs(tiny_model: Callable[..., Any]) -> None:
    """8 samples of 90 tokens on a prompt of one full block: blocks of 32, the prompt held once."""
    engine = TorchEngine(tiny_model(), stop_ids=NEVER, max_active=8)
    prompt = np.arange(2, 34).astype(np.int32)
    run(engine, [Request("p", prompt, 8)])
    cache = engine._cache
    assert cache.block_tokens == 32
    assert cache.allocator.highest == 1 + 8 * 3  # 89 tokens after the prompt: three blocks each
    assert cache.allocated_bytes <= 1.5 * cache.allocator.highest * cache.block_bytes
    run(engine, [Request("p", prompt, 8)])
    assert cache.allocator.highest == 1 + 8 * 3


def test_blocks_are_free_when_their_last_holder_leaves() -> None:
    allocator = BlockAllocator(4)
    first, second = allocator.take(2)
    allocator.share([first], 2)
    allocator.release([first, second])
    assert allocator.num_free == 3 and allocator.take(1) == [second]
    allocator.release([first])
    allocator.release([first])
    assert sorted(allocator.take(3)) == [first, 2, 3] and allocator.num_free == 0


def layout_of(cache: BlockCache, lengths: list[int], heads: int) -> BlockLayout:
    size = cache.block_tokens
    counts = np.array([n // size + 1 for n in lengths])
    table = np.zeros((len(lengths), counts.max()), np.int64)
    for row, count in enumerate(counts):
        table[row, :count] = cache.take(count)
    return BlockLayout(table, counts, np.array(lengths), cache, heads, padding=2)


def test_attention_over_blocks_equals_attention_over_each_sequence(tiny_model: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    cache = BlockCache(tiny_model().config, torch.float32, torch.device("cpu"), 2**24, block_tokens=4)
    lengths, heads = [9, 3, 0, 21, 8], 4
    layout = layout_of(cache, lengths, heads)
    keys, values = torch.randn(2, 5, 22, 2, 8).unbind()
    queries = torch.randn(7, heads, 8)
    for position in range(22):  # fill the blocks as decoding would
        for row, length in enumerate(lengths):
            if position < length:
                block = int(layout.written_N[row]) if position // 4 == length // 4 else None
                block = block if block is not None else int(table_of(layout, row)[position // 4])
                cache.keys[1][block, :, :, position % 4] = keys[row, position]
                cache.values[1][block, :, position % 4] = values[row, position]
    newest = torch.tensor(lengths)
    new_key, new_value = (torch.cat([x[torch.arange(5), newest], torch.zeros(2, 2, 8)]) for x in (keys, values))
    out = BlockAttention(cache, layout, newest).attend(1, queries, new_key, new_value)
    assert out.shape == (7, heads * 8) and not out[5:].any()
    for row, length in enumerate(lengths):
        key, value = (x[row, : length + 1].repeat_interleave(2, dim=1).transpose(0, 1) for x in (keys, values))
        expected = torch.softmax(queries[row].unsqueeze(1) @ key.transpose(1, 2), -1) @ value
        torch.testing.assert_close(out[row], expected.reshape(-1), atol=1e-5, rtol=1e-5)


def table_of(layout: BlockLayout, row: int) -> list[int]:
    """The blocks of a row, in order of position, read back from the rows of its value bags."""
    assert layout.parts is not None
    places = layout.parts.blocks.view(layout.num_sequences, -1)[row]
    size = len(layout.value_rows) // layout.num_blocks // layout.heads
    first = layout.value_rows.view(layout.num_blocks, -1)[:, 0]
    return [int(first[p]) // (2 * size) for p in places if p < layout.num_blocks]


def test_padding_of_attention_reads_is_less_than_a_block_per_sequence(tiny_model: Callable[..., Any]) -> None:
    """Skewed lengths: one sequence of 500 tokens among 31 of 20 costs the others nothing."""
    cache = BlockCache(tiny_model().config, torch.float32, torch.device("cpu"), 2**26, block_tokens=32)
    lengths = [500] + [20] * 31
    layout = layout_of(cache, lengths, heads=4)
    read = len(layout.value_rows) // layout.heads
    assert read - sum(lengths) < 32 * len(lengths)
    assert read <= 0.1 * 500 * 32


class _Count(TorchDispatchMode):
    """Counts the kernels called, views aside."""

    VIEWS = ("view", "reshape", "slice", "select", "unsqueeze", "expand", "transpose", "unbind", "to", "lift_fresh")

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.split(".")[0].strip("_")
        if name not in self.VIEWS:
            self.kernels.append(name)
        return function(*args, **(kwargs or {}))


PRODUCTS = [TorchProducts()] + ([OneDnnProducts()] if has_packing() else [])


@pytest.mark.parametrize("products", PRODUCTS, ids=lambda p: type(p).__name__)
def test_a_decoding_step_calls_few_kernels(tiny_model: Callable[..., Any], products: Products) -> None:
    model = tiny_model()
    decoder = Decoder(model, products)
    cache = BlockCache(model.config, torch.float32, torch.device("cpu"), 2**24, block_tokens=4)
    lengths = [9, 3, 0, 21, 8]
    layout = layout_of(cache, lengths, heads=4)
    decoder.refresh(longest=64)
    positions = torch.tensor([*lengths, 0, 0])
    with torch.inference_mode(), _Count() as count:
        decoder.logits(torch.tensor([3, 4, 5, 6, 7, 0, 0]), positions, BlockAttention(cache, layout, positions[:5]))
    # Of each layer: attention over several blocks 16, rotation 3, products 5, norms 6; without oneDNN also the weights
    # of norms and what it does inside the products. Once a step: mask, embedding, rotation tables, last norm, head.
    assert len(count.kernels) <= (68 if products.copies else 86), sorted(count.kernels)


@pytest.mark.skipif(not has_packing(), reason="this build of torch has no oneDNN products")
def test_both_kinds_of_products_give_the_same_completions(tiny_model: Callable[..., Any]) -> None:
    found = []
    for products in PRODUCTS:
        engine = TorchEngine(tiny_model("qwen3"), stop_ids=NEVER)
        engine._decoder = Decoder(engine._model, products)
        engine._step = BlockStep(engine._decoder, engine._cache)
        found.append(run(engine, requests(3)))
    assert_equal(*found)


@pytest.mark.parametrize("blocks", [100, 14])
def test_the_step_for_gpus_gives_the_same_completions(tiny_model: Callable[..., Any], blocks: int) -> None:
    """Static shapes and one owner per block, here without graphs; in 14 blocks of 64 not all find room at once."""
    model, wanted = tiny_model("qwen3"), requests(4)
    expected = run(TorchEngine(model, stop_ids=NEVER), wanted)
    engine = TorchEngine(model, stop_ids=NEVER)
    engine._cache = PoolCache(model.config, torch.float32, torch.device("cpu"), blocks * 64 * 2 * 2 * 2 * 8 * 4)
    engine._step = PoolStep(engine._decoder, engine._cache)
    assert_equal(run(engine, wanted), expected)
    assert_equal(run(engine, wanted[1:]), {k: v for k, v in expected.items() if k[0] != "p0"})
    assert engine._cache.allocator.num_used == 1


@pytest.mark.parametrize("steps", [2, 8])
def test_padded_sizes_are_few_and_close(steps: int) -> None:
    sizes = {n: padded(n, steps) for n in range(1, 2000)}
    assert all(n <= size <= (1 + 1 / steps) * n for n, size in sizes.items())
    assert len(set(sizes.values())) <= steps * 11
