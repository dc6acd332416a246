"""On a CUDA device: a captured step gives what the uncaptured one gives. Run with `make test ARGS="-m gpu"`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.rollout.pool import PoolStep
from deepscaler.rollout.torch_engine import TorchEngine
from deepscaler.types import Request, Rollout, SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PARAMS = SamplingParams(max_completion_tokens=100, temperature=0.9, seed=5)


def requests(count: int) -> list[Request]:
    rng = np.random.default_rng(1)
    return [Request(f"p{i}", rng.integers(2, 40, 4 + 5 * i).astype(np.int32), 4) for i in range(count)]


def run(engine: TorchEngine, count: int) -> dict[tuple[str, int], Rollout]:
    return {(r.problem_id, r.sample_index): r for r in engine.generate(requests(count), PARAMS)}


class _WithoutGraphs(PoolStep):
    def _captured(self, sizes: Any, inputs: Any, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
        return self._step(inputs, params)


@pytest.mark.parametrize("max_active", [3, 64])
def test_graphs_give_the_same_completions(tiny_model: Callable[..., Any], max_active: int) -> None:
    model = tiny_model().to("cuda")
    plain = TorchEngine(model, stop_ids=frozenset({1}), max_active=max_active, max_cache_bytes=2**26)
    plain._step = _WithoutGraphs(plain._decoder, plain._cache)
    captured = TorchEngine(model, stop_ids=frozenset({1}), max_active=max_active, max_cache_bytes=2**26)
    for count in (4, 2, 5):
        expected, found = run(plain, count), run(captured, count)
        assert found.keys() == expected.keys()
        for key, rollout in found.items():
            np.testing.assert_array_equal(rollout.completion_ids, expected[key].completion_ids)
            np.testing.assert_allclose(rollout.rollout_logprobs, expected[key].rollout_logprobs, atol=1e-5)


def test_graphs_are_kept_over_generations_and_see_new_weights(tiny_model: Callable[..., Any]) -> None:
    model, other = tiny_model().to("cuda"), tiny_model(seed=9).to("cuda")
    engine = TorchEngine(model, stop_ids=frozenset(), max_cache_bytes=2**26)
    run(engine, 3)
    graphs = dict(engine._step._graphs)
    assert graphs
    engine.load_weights(other.named_parameters(), version=1)
    after = run(engine, 3)
    assert all(engine._step._graphs[key] is graph for key, graph in graphs.items())
    expected = run(TorchEngine(other, stop_ids=frozenset(), max_cache_bytes=2**26), 3)
    for key, rollout in after.items():
        np.testing.assert_array_equal(rollout.completion_ids, expected[key].completion_ids)


def test_the_cache_keeps_to_its_limit(tiny_model: Callable[..., Any]) -> None:
    before = torch.cuda.memory_allocated()
    engine = TorchEngine(tiny_model().to("cuda"), stop_ids=frozenset(), max_cache_bytes=2**24)
    run(engine, 4)
    assert engine._cache.allocated_bytes <= 2**24
    assert torch.cuda.memory_allocated() - before < 2**26
