"""What decoding on a GPU does, tried on CPU: exactness, fixed addresses, few transfers, memory given back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from deepscaler.config.models import AlgorithmSection, TrainingSection
from deepscaler.cpu.matmul import Matmul
from deepscaler.rollout import flash_attention
from deepscaler.rollout.batch import Sequence
from deepscaler.rollout.decoder import Decoder
from deepscaler.rollout.pool import PoolStep
from deepscaler.rollout.pool_cache import FlashCache, PoolCache
from deepscaler.rollout.torch_engine import TorchEngine
from deepscaler.training.gradients import GradientComputer
from deepscaler.types import Request, Rollout, TrainSample
from rollout_runs import PARAMS, assert_equal, requests, run

NEVER: frozenset[int] = frozenset()
CPU = torch.device("cpu")
BLOCK_BYTES = 64 * 2 * 2 * 2 * 8 * 4  # of the tiny model in float32


def as_on_gpu(engine: TorchEngine, kind: type[PoolCache] = PoolCache, max_bytes: int = 2**24) -> TorchEngine:
    """The engine with the cache and the step that it would take on a GPU."""
    engine._cache = kind(engine._model.config, engine.dtype, CPU, max_bytes)
    engine._max_cache_bytes = max_bytes
    engine._step = PoolStep(engine._decoder, engine._cache)
    return engine


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash attention as torch describes it, in plain arithmetic."""

    def reference(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        query, keys, _, first, used = arguments
        assert first.dtype == used.dtype == torch.int32 and query.dtype == keys.dtype
        assert used.min() >= 1 and used.max() <= keys.shape[1] and first.max() < keys.shape[0] * keys.shape[1]
        out, lse = flash_attention.plain_blocks(*arguments)
        return out.to(query.dtype), lse

    monkeypatch.setattr(flash_attention, "flash_blocks", reference)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("blocks", [100, 9])
def test_flash_attention_over_blocks_gives_the_same_completions(
    tiny_model: Callable[..., Any], flash: None, family: str, blocks: int
) -> None:
    """Prompts of more than a block, which is shared; in 9 blocks of 128 not all find room at once."""
    model = tiny_model(family)
    model.config.max_position_embeddings = 512
    wanted = [replace(r, prompt_ids=np.tile(r.prompt_ids, 8)) for r in requests(2)]  # 160 and 216 tokens
    params = replace(PARAMS, max_completion_tokens=70)
    expected = run(TorchEngine(model, stop_ids=NEVER), wanted, params)
    engine = as_on_gpu(TorchEngine(model, stop_ids=NEVER), FlashCache, 2 * BLOCK_BYTES * blocks)
    assert_equal(run(engine, wanted, params), expected)
    assert engine._cache.allocator.num_used == engine._cache.num_idle
    assert engine._cache.allocator.highest <= 1 + 2 * 2 + 8 * 2, "full blocks of a prompt are there once"


def test_the_flash_operator_of_this_torch_has_the_parameters_it_is_called_with() -> None:
    schema = str(torch.ops.aten._flash_attention_forward.default._schema)
    names = ["query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal"]
    parameters = [part.split()[-1].split("=")[0] for part in schema.split("(", 1)[1].split(")")[0].split(", ")]
    assert parameters[:10] == [*names, "return_debug_mask"] and {"scale", "seqused_k"} <= set(parameters)
    assert not flash_attention.flash_works(CPU, torch.bfloat16, 12, 2, 128)


def test_rows_that_leave_do_not_leave_gaps_to_read(
    tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long sequence after 40 short ones: a step soon reads its blocks, not those that the others had."""
    monkeypatch.setattr("deepscaler.rollout.pool_cache.SLACK", 2)
    engine = as_on_gpu(TorchEngine(tiny_model(), stop_ids=NEVER, max_active=64))
    expected = TorchEngine(tiny_model(), stop_ids=NEVER, max_active=64)
    spans, limits = [], [10] * 40 + [90]
    found = []
    for each in (engine, expected):
        batch = each.open_batch(128)
        sequences = [
            Sequence(Request(f"p{i}", np.arange(2, 9, dtype=np.int32), 1), 0, replace(PARAMS, max_completion_tokens=n))
            for i, n in enumerate(limits)
        ]
        for sequence in sequences:
            batch.add(sequence)
        while not batch.is_empty:
            batch.step()
            spans.append(each._cache.allocator.span)
        found.append([s.tokens for s in sequences])
    assert found[0] == found[1]
    assert max(spans[:90]) > 40 and spans[15] <= 4


def test_memory_is_given_back_and_taken_again(tiny_model: Callable[..., Any]) -> None:
    model, wanted = tiny_model(), requests(3)
    engine = as_on_gpu(TorchEngine(model, stop_ids=NEVER))
    expected = run(TorchEngine(model, stop_ids=NEVER), wanted)
    assert_equal(run(engine, wanted), expected)
    assert engine._cache.allocated_bytes > 0 and engine._step._inputs
    engine.release_memory()
    assert engine._cache.allocated_bytes == 0 and not engine._step._inputs
    engine.release_memory()
    assert_equal(run(engine, wanted), expected)


def test_an_unfinished_generation_ends_when_its_memory_is_wanted(tiny_model: Callable[..., Any]) -> None:
    engine = as_on_gpu(TorchEngine(tiny_model(), stop_ids=NEVER, max_active=3))
    next(engine.generate(requests(2), PARAMS))
    engine.release_memory()
    assert engine._cache.allocated_bytes == 0 and engine._cache.allocator.num_used == engine._cache.num_idle


def test_padded_rows_stay_inside_blocks_of_another_size(tiny_model: Callable[..., Any]) -> None:
    """Many rows in blocks of 64, then few in blocks of 8 with the same padded sizes."""
    model = tiny_model()
    engine, expected = (TorchEngine(model, stop_ids=NEVER) for _ in range(2))
    as_on_gpu(engine)
    run(engine, requests(4, 2))
    engine._cache.reform(8)
    engine._cache.suitable_block_tokens = lambda longest: 8  # type: ignore[method-assign]
    assert_equal(run(engine, requests(3, 2)), run(expected, requests(3, 2)))


def test_everything_a_captured_step_reads_stays_where_it_is(tiny_model: Callable[..., Any]) -> None:
    decoder = Decoder(tiny_model("qwen3"), Matmul())

    def addresses() -> list[int]:
        decoder.refresh(64)
        norms = [n for x in decoder._layers for n in (x.attention_norm, x.mlp_norm, x.query_norm, x.key_norm)]
        weights = [w for x in decoder._layers for w in (x.joined, x.out, x.gate, x.up, x.down)]
        tensors = [t for n in (*norms, decoder._norm) if n is not None for t in (n.weight, n.root_eps)]
        tensors += [t for w in (*weights, decoder._head) for t in w]
        tensors += [decoder._rotation, decoder._query_scale]
        return [t.data_ptr() for t in tensors if t is not None]

    before = addresses()
    kept = [torch.empty(1) for _ in range(64)]  # would take the place of what was freed
    assert addresses() == before and kept


class _Copies(TorchDispatchMode):
    """Counts what would be transfers on a GPU: copies between tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.__name__.startswith("copy_")
        return function(*args, **(kwargs or {}))


def test_a_step_sends_one_piece_and_two_when_blocks_change(tiny_model: Callable[..., Any]) -> None:
    engine = as_on_gpu(TorchEngine(tiny_model(), stop_ids=NEVER))
    batch = engine.open_batch(128)
    for request in requests(3, 1):
        batch.add(Sequence(request, 0, PARAMS))
    batch.step()
    sent = []
    for _ in range(60):
        with _Copies() as copies:
            batch.step()
        sent.append(copies.count)
    assert set(sent) == {1, 2} and sent.count(2) <= 3
    batch.close()


def as_samples(rollouts: list[Rollout]) -> list[TrainSample]:
    return [
        TrainSample(r.prompt_ids, r.completion_ids, r.rollout_logprobs, 1.0, np.ones(r.num_tokens, np.float32), 0)
        for r in rollouts
    ]


def difference(tiny_model: Callable[..., Any], *, float32_head: bool, kind: type[PoolCache] = PoolCache) -> np.ndarray:
    """Learner minus engine log-probabilities: bfloat16 against float32 weights with mixed precision."""
    half = tiny_model("qwen3").to(torch.bfloat16)
    engine = as_on_gpu(TorchEngine(half, stop_ids=NEVER, float32_head=float32_head), kind)
    rollouts = list(run(engine, requests(4)).values())
    computer = GradientComputer(
        tiny_model("qwen3"),
        None,
        AlgorithmSection(),
        TrainingSection(),
        temperature=PARAMS.temperature,
        autocast=True,
        float32_head=float32_head,
    )
    pairs = zip(computer.logprobs(as_samples(rollouts)), rollouts, strict=True)
    return np.concatenate([values - r.rollout_logprobs for values, r in pairs])


@pytest.mark.parametrize("float32_head", [False, True])
def test_in_bfloat16_engine_and_learner_differ_by_rounding(tiny_model: Callable[..., Any], float32_head: bool) -> None:
    """Weights eight times as large as usual make rounding visible: logits reach 40."""
    found = np.abs(difference(tiny_model, float32_head=float32_head))
    assert 0 < found.mean() < 0.011 and np.quantile(found, 0.99) < 0.05


def test_flash_attention_in_bfloat16_is_as_close(tiny_model: Callable[..., Any], flash: None) -> None:
    assert np.abs(difference(tiny_model, float32_head=True, kind=FlashCache)).mean() < 0.011
