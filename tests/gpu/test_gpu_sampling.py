"""On a CUDA device: a captured step gives what the uncaptured one gives, and memory is shared and given back.

Run with `make test ARGS="-m gpu"`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deepscaler.engines.torch import cuda_graph_step
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.flash_attention import flash_works
from deepscaler.modeling.families.registry import FAMILIES
from deepscaler.modeling.positions import cast_parameters
from deepscaler.modeling.weights import LiveWeights
from deepscaler.types import Request, Rollout, SamplingParams

DEVICE = torch.device("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PARAMS = SamplingParams(max_completion_tokens=100, temperature=0.9, seed=5)
LIMIT = 2**26


def requests(count: int) -> list[Request]:
    rng = np.random.default_rng(1)
    return [Request(f"p{i}", rng.integers(2, 40, 4 + 5 * (i % 5)).astype(np.int32), 4) for i in range(count)]


def run(engine: TorchEngine, count: int) -> dict[tuple[str, int], Rollout]:
    return {(r.problem_id, r.sample_index): r for r in engine.generate(requests(count), PARAMS)}


def engine_of(model: Any, *, max_active: int = 64, backend: str | None = None) -> TorchEngine:
    return TorchEngine(
        model, stop_ids=frozenset({1}), max_active=max_active, max_cache_bytes=LIMIT, attention_backend=backend
    )


class Uncaptured:
    """In place of `CudaGraphs`: every step is computed anew."""

    def run(self, key: Hashable, step: Callable[[], Tensor]) -> Tensor:
        return step()

    def clear(self) -> None:
        pass


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Gets an entry for every CUDA graph that is captured."""
    captured: list[Any] = []
    graph = torch.cuda.graph

    def counting(*arguments: Any, **named: Any) -> Any:
        captured.append(arguments[0])
        return graph(*arguments, **named)

    monkeypatch.setattr(torch.cuda, "graph", counting)
    return captured


def assert_equal(found: dict[Any, Rollout], expected: dict[Any, Rollout], atol: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for key, rollout in found.items():
        np.testing.assert_array_equal(rollout.completion_ids, expected[key].completion_ids)
        np.testing.assert_allclose(rollout.rollout_logprobs, expected[key].rollout_logprobs, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_active", [3, 64])
def test_graphs_give_the_same_completions(
    tiny_model: Callable[..., Any],
    captures: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    max_active: int,
    dtype: torch.dtype,
) -> None:
    model = cast_parameters(tiny_model().to(DEVICE), dtype)
    captured = engine_of(model, max_active=max_active)
    monkeypatch.setattr(cuda_graph_step, "CudaGraphs", Uncaptured)
    plain = engine_of(model, max_active=max_active)
    for count in (4, 2, 5):
        assert_equal(run(captured, count), run(plain, count))
    assert captures


def test_graphs_are_kept_over_generations_and_see_new_weights(
    tiny_model: Callable[..., Any], captures: list[Any]
) -> None:
    model, same, other = (tiny_model(seed=seed).to(DEVICE) for seed in (0, 0, 9))
    engine = engine_of(model)
    first = run(engine, 3)
    before = len(captures)
    assert before
    engine.load_weights(LiveWeights(1, other.named_parameters))
    # What earlier generations freed is overwritten, so that a graph that still reads it shows.
    rubbish = [torch.full((n,), float("nan"), device=DEVICE) for n in (1, 8, 32, 128) for _ in range(50)]
    assert_equal(run(engine, 3), run(engine_of(other), 3))
    engine.load_weights(LiveWeights(2, same.named_parameters))
    num_graphs = len(captures)
    assert_equal(run(engine, 3), first)  # the same lengths as at first, so every size has its graph already
    assert rubbish and len(captures) == num_graphs


def test_graphs_of_all_sizes_share_their_memory(tiny_model: Callable[..., Any], captures: list[Any]) -> None:
    engine = engine_of(tiny_model().to(DEVICE))
    run(engine, 1)
    torch.cuda.empty_cache()
    before, graphs = torch.cuda.memory_reserved(), len(captures)
    for count in range(2, 9):
        run(engine, count)
    torch.cuda.empty_cache()
    assert len(captures) >= graphs + 4
    assert torch.cuda.memory_reserved() - before < 100 * 2**20


def test_the_cache_keeps_to_its_limit_and_gives_its_memory_back(tiny_model: Callable[..., Any]) -> None:
    engine = engine_of(tiny_model().to(DEVICE))
    first = run(engine, 4)
    engine.release_memory()
    before = torch.cuda.memory_allocated()  # with the workspaces that cuBLAS keeps for each stream, 32 MiB on Hopper
    assert_equal(run(engine, 4), first)
    assert LIMIT // 2 < engine.cache.allocated_bytes <= LIMIT
    assert torch.cuda.memory_allocated() - before < 2 * LIMIT
    engine.release_memory()
    assert torch.cuda.memory_allocated() - before < LIMIT // 4
    assert_equal(run(engine, 4), first)


def test_without_a_limit_the_cache_takes_a_share_of_what_is_free(tiny_model: Callable[..., Any]) -> None:
    engine = TorchEngine(tiny_model().to(DEVICE), stop_ids=frozenset())
    run(engine, 1)
    free = torch.cuda.mem_get_info()[0]
    assert free > 0.1 * (free + engine.cache.allocated_bytes)
    engine.release_memory()


@pytest.mark.parametrize("shape", [(12, 2, 128), (28, 4, 128), (4, 2, 8)])
def test_flash_attention_over_blocks_works_on_this_device(shape: tuple[int, int, int]) -> None:
    """If this fails, sampling still works, more slowly: look at why the operator is refused or differs."""
    assert flash_works(DEVICE, torch.bfloat16, *shape)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_kinds_of_attention_agree(tiny_model: Callable[..., Any], family: str) -> None:
    model = cast_parameters(tiny_model(family).to(DEVICE), torch.bfloat16)
    shape = (model.config.num_attention_heads, model.config.num_key_value_heads, model.config.head_dim)
    if not flash_works(DEVICE, torch.bfloat16, *shape):
        pytest.skip("no flash attention here for these shapes")
    flash, pool = (run(engine_of(model, backend=name), 4) for name in ("flash", "paged"))
    agreeing = []
    for key, rollout in flash.items():  # roundings differ, so a draw may; logprobs agree up to there
        other = pool[key]
        length = min(len(rollout.completion_ids), len(other.completion_ids))
        same = rollout.completion_ids[:length] == other.completion_ids[:length]
        first = int(np.argmin(same)) if not same.all() else length
        agreeing.append(np.abs(rollout.rollout_logprobs[:first] - other.rollout_logprobs[:first]))
    differences = np.concatenate(agreeing)
    assert len(differences) > 100 and differences.mean() < 0.015
