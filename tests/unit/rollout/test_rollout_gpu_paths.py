"""What decoding on a GPU does, tried on CPU: exactness, fixed addresses, few transfers, memory given back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode

from deepscaler.config.models import AlgorithmSection, TrainingSection
from deepscaler.rollout.batch import Sequence
from deepscaler.rollout.decoder import Decoder
from deepscaler.rollout.paged_attention import paged_attention_works
from deepscaler.rollout.pool import PoolStep
from deepscaler.rollout.pool_cache import PagedCache, PoolCache
from deepscaler.rollout.products import TorchProducts
from deepscaler.rollout.torch_engine import TorchEngine
from deepscaler.training.gradients import GradientComputer
from deepscaler.types import Request, Rollout, SamplingParams, TrainSample

NEVER: frozenset[int] = frozenset()
CPU = torch.device("cpu")
PARAMS = SamplingParams(max_completion_tokens=90, temperature=0.9, seed=5)
BLOCK_BYTES = 64 * 2 * 2 * 2 * 8 * 4  # of the tiny model in float32


def requests(count: int, samples: int = 4) -> list[Request]:
    rng = np.random.default_rng(1)
    return [Request(f"p{i}", rng.integers(2, 40, 20 + 7 * (i % 3)).astype(np.int32), samples) for i in range(count)]


def as_on_gpu(engine: TorchEngine, kind: type[PoolCache] = PoolCache, max_bytes: int = 2**24) -> TorchEngine:
    """The engine with the cache and the step that it would take on a GPU."""
    engine._cache = kind(engine._model.config, engine.dtype, CPU, max_bytes)
    engine._max_cache_bytes = max_bytes
    engine._step = PoolStep(engine._decoder, engine._cache)
    return engine


def run(engine: TorchEngine, wanted: list[Request], params: SamplingParams = PARAMS) -> dict[tuple, Rollout]:
    return {(r.problem_id, r.sample_index): r for r in engine.generate(wanted, params)}


def assert_equal(found: dict[tuple, Rollout], expected: dict[tuple, Rollout]) -> None:
    assert found.keys() == expected.keys()
    for key, rollout in found.items():
        np.testing.assert_array_equal(rollout.completion_ids, expected[key].completion_ids)
        np.testing.assert_allclose(rollout.rollout_logprobs, expected[key].rollout_logprobs, atol=2e-5)


def paged_reference(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    begins: Tensor,
    no_begins: None,
    longest_query: int,
    longest: int,
    *,
    scale: float,
    enable_gqa: bool,
    seqused_k: Tensor,
    block_table: Tensor,
) -> Tensor:
    """What torch's documentation says of `varlen_attn` with a block table, one row after the other."""
    assert begins.dtype == seqused_k.dtype == block_table.dtype == torch.int32 and longest_query == 1
    assert no_begins is None and keys.shape[1] % 256 == 0 and seqused_k.max() <= longest
    groups = query.shape[1] // keys.shape[2]
    assert enable_gqa == (groups > 1)
    rows = []
    for n, used in enumerate(seqused_k.tolist()):
        pages = block_table[n].long()
        key, value = (x[pages].flatten(0, 1)[:used].repeat_interleave(groups, dim=1) for x in (keys, values))
        probs = torch.softmax(scale * torch.einsum("hd,thd->ht", query[n].float(), key.float()), -1)
        rows.append(torch.einsum("ht,thd->hd", probs, value.float()).to(query.dtype))
    return torch.stack(rows)


@pytest.fixture
def paged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(varlen, "varlen_attn", paged_reference)
    yield


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_paged_attention_gives_the_same_completions(tiny_model: Callable[..., Any], paged: None, family: str) -> None:
    model = tiny_model(family)
    model.config.max_position_embeddings = 512
    wanted = [replace(r, prompt_ids=np.tile(r.prompt_ids, 11)) for r in requests(2)]  # 220 tokens: two blocks
    params = replace(PARAMS, max_completion_tokens=70)
    expected = run(TorchEngine(model, stop_ids=NEVER), wanted, params)
    engine = as_on_gpu(TorchEngine(model, stop_ids=NEVER, max_active=5), PagedCache)
    assert_equal(run(engine, wanted, params), expected)
    assert engine._cache.allocator.num_used == engine._cache.num_idle


def test_the_parameters_of_the_paged_kernel_are_those_of_this_torch_or_it_is_not_used() -> None:
    """Where torch has them, they are called by the names it has."""
    parameters = inspect.signature(varlen.varlen_attn).parameters
    ours = {"scale", "enable_gqa", "seqused_k", "block_table"}
    if "block_table" in parameters:
        assert ours <= parameters.keys()
        assert list(parameters)[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert not paged_attention_works(CPU, torch.bfloat16, 12, 2, 128)


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
    decoder = Decoder(tiny_model("qwen3"), TorchProducts())

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


def test_paged_attention_in_bfloat16_is_as_close(tiny_model: Callable[..., Any], paged: None) -> None:
    assert np.abs(difference(tiny_model, float32_head=True, kind=PagedCache)).mean() < 0.011
