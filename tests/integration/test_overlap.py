"""Real processes sample ahead: from a copy of the weights, interrupted at any token, and a run learns with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.cluster.helper import EngineSettings
from deepscaler.cluster.weight_copy import CopySampler, open_copy_sampler
from deepscaler.config import load_recipe
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.modeling.weights import LiveWeights, weights_digest
from deepscaler.observability.run_directory import read_metrics, read_rollouts
from deepscaler.types import FinishReason, Request, Rollout, SamplingParams
from tiny_models import make_model
from tiny_run import write_recipe

STOP = frozenset({1})
PARAMS = SamplingParams(max_completion_tokens=100, seed=5)
REQUESTS = [Request(f"p{i}", np.arange(2, 6 + i, dtype=np.int32), 4) for i in range(6)]


@pytest.fixture(scope="module")
def two() -> Iterator[CopySampler]:
    """Two processes over a copy of a model."""
    with open_copy_sampler(make_model(), EngineSettings(STOP, 4), 2) as sampler:
        yield sampler


def sampled_by(model: Any) -> dict[tuple[str, int], Rollout]:
    return by_key(TorchEngine(model, stop_ids=STOP).generate(REQUESTS, PARAMS))


def by_key(rollouts: Iterator[Rollout]) -> dict[tuple[str, int], Rollout]:
    return {(r.problem_id, r.sample_index): r for r in rollouts}


def test_it_samples_from_what_was_loaded_while_the_learner_changes_its_weights(
    two: CopySampler, tiny_model: Callable[..., Any]
) -> None:
    learner = tiny_model(seed=3)
    held = two.load_weights(LiveWeights(1, learner.named_parameters))
    assert (held.version, held.digest) == (1, weights_digest(learner.named_parameters()))
    expected = sampled_by(learner)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
    for key, rollout in by_key(two.generate(REQUESTS, PARAMS)).items():
        np.testing.assert_array_equal(rollout.completion_ids, expected[key].completion_ids)
        assert rollout.policy_version == 1


def test_interrupted_completions_go_on_where_they_were(two: CopySampler, tiny_model: Callable[..., Any]) -> None:
    learner = tiny_model(seed=4)
    expected = sampled_by(learner)
    two.load_weights(LiveWeights(2, learner.named_parameters))
    rollouts = two.generate(REQUESTS, PARAMS)
    first = next(rollouts)
    two.interrupt()
    found = by_key(iter([first, *rollouts]))
    assert found.keys() == expected.keys()
    interrupted = {key: r for key, r in found.items() if r.finish_reason is FinishReason.CANCELLED}
    assert any(r.num_tokens for r in interrupted.values())
    two.load_weights(LiveWeights(3, learner.named_parameters))
    again = [Request(r.problem_id, r.prompt_ids, 1, r.sample_index, begun=r) for r in interrupted.values()]
    found |= by_key(two.generate(again, PARAMS))
    for key, rollout in expected.items():
        np.testing.assert_array_equal(found[key].completion_ids, rollout.completion_ids)
        assert found[key].finish_reason is rollout.finish_reason
        assert found[key].policy_version == (3 if key in interrupted else 2)


def test_a_run_that_samples_ahead_learns(tmp_path: Path) -> None:
    """Completions become shorter, as the soft penalty wants them."""
    recipe = load_recipe(
        write_recipe(tmp_path, num_steps=12, every_steps=100, processes=1),
        ["rollout.max_policy_lag=1", "algorithm.importance_cap=2", "optimizer.learning_rate=4e-3"],
    )
    with open_run(recipe, tmp_path / "model", tmp_path / "run", Progress(StringIO(), terminal=False)) as run:
        run.validation = None
        assert train(run) == 12
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "step"]
    assert [row["policy_lag"] for row in rows] == [0, 1, 1, 0, *[1] * 8]  # the fourth begins a stage
    sizes = [row["effective_sample_size"] for row in rows]
    assert sizes[0] == pytest.approx(1) and all(0.5 < size <= 1 for size in sizes)
    lengths = [row["length_mean"] for row in rows if row["stage"] == "long"]
    assert np.mean(lengths[-3:]) < 0.75 * np.mean(lengths[:3])
    last = read_rollouts(tmp_path / "run" / "rollouts" / "step-000012.parquet")
    versions = {row["policy_version"] for row in last.to_pylist()}
    assert versions == {10}
