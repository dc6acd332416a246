"""The cache holds what is used, frees at once, queues what does not fit, and reads no padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.cpu.matmul import Matmul, OneDnnMatmul, has_onednn
from deepscaler.engines.torch import engine as engine_module
from deepscaler.engines.torch.block_allocator import BlockAllocator
from deepscaler.engines.torch.decode_state import Sequence
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.paged_attention import padded_size
from deepscaler.types import Request, RunError
from engine_runs import PARAMS, assert_equal, requests, run

NEVER: frozenset[int] = frozenset()
MATMULS = [Matmul()] + ([OneDnnMatmul()] if has_onednn() else [])


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
    assert small.cache.allocator.num_blocks * small.cache.block_bytes <= 9 * 8192
    assert_equal(run(small, wanted), expected)
    assert small.cache.allocator.num_blocks == 9 and small.cache.allocator.peak <= 9
    assert small.cache.allocator.num_used == 0


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
    assert engine.cache.allocator.num_used == 0


def test_a_mixture_of_parameters_is_what_each_gives_alone(tiny_model: Callable[..., Any]) -> None:
    kinds = [PARAMS, replace(PARAMS, temperature=0.0), replace(PARAMS, top_k=3, max_completion_tokens=40)]
    request = requests(1)[0]
    engine = TorchEngine(tiny_model(), stop_ids=NEVER)
    alone = [run(engine, [request], params)["p0", 2] for params in kinds]
    scheduler = engine.open_scheduler(capacity=120)
    sequences = [Sequence(request, 2, params) for params in kinds]
    for sequence in sequences:
        scheduler.add(sequence)
    while scheduler.has_unfinished:
        scheduler.step()
    for sequence, rollout in zip(sequences, alone, strict=True):
        np.testing.assert_array_equal(sequence.tokens, rollout.completion_ids)
        np.testing.assert_allclose(sequence.logprobs, rollout.rollout_logprobs, atol=2e-5)


@pytest.mark.perf
def test_memory_is_what_the_longest_moment_needs(tiny_model: Callable[..., Any]) -> None:
    """8 samples of 90 tokens on a prompt of one full block: blocks of 32, the prompt held once."""
    engine = TorchEngine(tiny_model(), stop_ids=NEVER, max_active=8)
    prompt = np.arange(2, 34).astype(np.int32)
    run(engine, [Request("p", prompt, 8)])
    cache = engine.cache
    assert cache.block_tokens == 32
    assert cache.allocator.peak == 1 + 8 * 3  # 89 tokens after the prompt: three blocks each
    assert cache.allocated_bytes <= 1.5 * cache.allocator.peak * cache.block_bytes
    run(engine, [Request("p", prompt, 8)])
    assert cache.allocator.peak == 1 + 8 * 3


def test_blocks_are_free_when_their_last_holder_leaves() -> None:
    allocator = BlockAllocator(4)
    first, second = allocator.allocate(2)
    allocator.add_references([first], 2)
    allocator.free([first, second])
    assert allocator.num_free == 3 and allocator.allocate(1) == [second]
    allocator.free([first])
    allocator.free([first])
    assert sorted(allocator.allocate(3)) == [first, 2, 3] and allocator.num_free == 0


@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize("matmul", MATMULS, ids=lambda x: type(x).__name__)
def test_all_ways_of_computing_a_step_give_the_same_completions(
    tiny_model: Callable[..., Any],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    matmul: Matmul,
    accelerated: bool,
) -> None:
    model = tiny_model("qwen3")
    expected = run(TorchEngine(model, stop_ids=NEVER), requests(3))
    if not accelerated:
        request.getfixturevalue("without_acceleration")
    monkeypatch.setattr(engine_module, "make_decoder", partial(Decoder, matmul=matmul))
    assert_equal(run(TorchEngine(model, stop_ids=NEVER), requests(3)), expected)


def test_completions_do_not_depend_on_where_their_blocks_lie(tiny_model: Callable[..., Any]) -> None:
    """A resumed run has a fresh cache, the original one a used cache: not a bit may differ."""
    engine, wanted = TorchEngine(tiny_model(), stop_ids=NEVER, max_active=12), requests(3)
    fresh = run(engine, wanted)
    with torch.inference_mode():
        held = engine.cache.allocate(40)
    engine.cache.allocator.free(held[::3] + held[1::3])  # from now on blocks come in another order
    for key, rollout in run(engine, wanted).items():
        np.testing.assert_array_equal(rollout.rollout_logprobs, fresh[key].rollout_logprobs)


@pytest.mark.parametrize("blocks", [100, 14])
def test_the_step_for_gpus_gives_the_same_completions(tiny_model: Callable[..., Any], blocks: int) -> None:
    """Static shapes and one owner per block, here without graphs; in 14 blocks of 64 not all find room at once."""
    model, wanted = tiny_model("qwen3"), requests(4)
    expected = run(TorchEngine(model, stop_ids=NEVER), wanted)
    limit = blocks * 64 * 2 * 2 * 2 * 8 * 4
    engine = TorchEngine(model, stop_ids=NEVER, attention_backend="paged", max_cache_bytes=limit)
    assert_equal(run(engine, wanted), expected)
    assert_equal(run(engine, wanted[1:]), {k: v for k, v in expected.items() if k[0] != "p0"})
    assert engine.cache.allocator.num_used == engine.cache.num_reserved


@pytest.mark.parametrize("steps", [2, 8])
def test_padded_sizes_are_few_and_close(steps: int) -> None:
    sizes = {n: padded_size(n, steps) for n in range(1, 2000)}
    assert all(n <= size <= (1 + 1 / steps) * n for n, size in sizes.items())
    assert len(set(sizes.values())) <= steps * 11
