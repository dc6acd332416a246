"""The loop over real workers, in this process: what a step does, and the faults that would otherwise stay silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from deepscaler.config import Recipe, load_recipe
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.loop.build import open_run
from deepscaler.loop.experience import OnPolicy
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.loop.run import AlarmError, Run
from deepscaler.modeling.load import load_model
from deepscaler.observability.run_directory import read_metrics
from deepscaler.training.learner import TrainingDivergedError
from deepscaler.types import Rollout, SamplingParams
from tiny_run import write_model, write_recipe

Load = Callable[..., Recipe]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    model = write_model(tmp_path / "model")

    def build(*overrides: str, num_steps: int = 4) -> Recipe:
        return load_recipe(write_recipe(tmp_path, num_steps=num_steps, processes=1, model=model), list(overrides))

    return build


@contextmanager
def opened(recipe: Recipe, path: Path, stream: StringIO | None = None) -> Iterator[Run]:
    progress = Progress(stream or StringIO(), terminal=False)
    with open_run(recipe, Path(recipe.model.path or ""), path, progress) as run:
        yield run


def rows(path: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(path / "metrics.jsonl") if row["kind"] == kind]


def test_a_run_writes_what_its_directory_promises(load: Load, tmp_path: Path) -> None:
    path, out = tmp_path / "run", StringIO()
    with opened(load("checkpoint.every_steps=2"), path, out) as run:
        assert train(run) == 4
    steps = rows(path, "step")
    assert [(s["step"], s["stage"]) for s in steps] == [(1, "short"), (2, "short"), (3, "short"), (4, "long")]
    assert [e["step"] for e in rows(path, "evaluation")] == [0, 3, 4]
    assert [e["event"] for e in rows(path, "event")] == ["stage_change", "finished"]
    for step in steps:
        table = pq.read_table(path / "rollouts" / f"step-{step['step']:06d}.parquet").to_pylist()
        assert len(table) == step["num_completions"] == 16
        assert sum(r["num_tokens"] for r in table) == step["num_sampled_tokens"]
        assert max(r["num_tokens"] for r in table) <= step["max_completion_tokens"]
        assert {r["policy_version"] for r in table} == {step["step"] - 1}  # sampled by the newest weights
        # What the model saw, the template's own tokens among it, and not the bare problem.
        assert all(r["prompt"].startswith("<") and len(r["prompt"]) > 10 for r in table)
        assert step["mismatch_max"] < 1e-3
    # Stage ends stay, of the others the newest two.
    assert sorted(p.name for p in (path / "checkpoints").iterdir()) == ["step-000000", "step-000003", "step-000004"]
    lines = out.getvalue().splitlines()
    assert any("stage short -> long: scheduled after 3 steps" in line for line in lines)
    assert max(len(line) for line in lines if line.startswith(("eval", "short step", "long step"))) <= 100


def test_two_runs_of_one_recipe_are_bit_identical_and_another_seed_is_not(load: Load, tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        with opened(load(f"seed={seed}"), tmp_path / name) as run:
            train(run)
            digests.append(run.weights.digest("float32"))
    assert digests[0] == digests[1] != digests[2]


def test_a_longer_budget_never_begins_before_its_stage(load: Load, tmp_path: Path) -> None:
    with opened(load(num_steps=5), tmp_path / "run") as run:
        train(run)
    lengths = {
        step["step"]: max(
            pq.read_table(tmp_path / "run" / "rollouts" / f"step-{step['step']:06d}.parquet")["num_tokens"].to_pylist()
        )
        for step in rows(tmp_path / "run", "step")
    }
    assert all(lengths[s] <= 24 for s in (1, 2, 3))
    assert max(lengths[4], lengths[5]) > 24


def test_weights_that_never_reach_the_sampler_stop_the_run(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classic silent failure: publishing that does nothing. Here the engine keeps a copy of its own."""
    recipe = load("model.dtype=float32")
    with opened(recipe, tmp_path / "run") as run:
        engine = TorchEngine(load_model(Path(recipe.model.path or "")), stop_ids=frozenset({1}))
        monkeypatch.setattr(run.cluster.sampler, "generate", engine.generate)
        monkeypatch.setattr(run.cluster.sampler, "load_weights", lambda weights: engine.weights_info())
        with pytest.raises(RuntimeError, match=r"sampling would go on with stale weights"):
            train(run)
    assert rows(tmp_path / "run", "step") == []


def test_all_zero_rewards_stop_the_run_with_figures_and_remedy(load: Load, tmp_path: Path) -> None:
    recipe = load("alarms.stop=true", "alarms.window=2", "algorithm.truncated=train", "algorithm.soft_penalty_tokens=0")
    with opened(recipe, tmp_path / "run") as run, pytest.raises(AlarmError, match=r"stopped at step 2: .*"):
        train(run)
    alarms = [e for e in rows(tmp_path / "run", "event") if e["event"] == "alarm"]
    assert "reward_all_zero" in alarms[0]["reason"] or "gate_failed" in alarms[0]["reason"]


def test_non_finite_gradients_are_skipped_and_then_stop_the_run(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm = torch.nn.utils.clip_grad_norm_

    def poisoned(parameters: Any, limit: float) -> torch.Tensor:
        norm(parameters, limit)
        return torch.tensor(float("nan"))

    with opened(load(num_steps=8), tmp_path / "run") as run:
        before = run.weights.digest("float32")
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", poisoned)
        with pytest.raises(TrainingDivergedError, match="5 updates in a row"):
            train(run)
        assert run.weights.digest("float32") == before
    assert rows(tmp_path / "run", "step")[-1]["skipped_updates"] > 0


def test_dynamic_sampling_refills_and_gives_up_after_its_rounds(load: Load, tmp_path: Path) -> None:
    """A random model gets nothing right, so every group is without signal and every round is used."""
    recipe = load(
        "algorithm.dynamic_sampling=true",
        "algorithm.max_refills=2",
        "algorithm.truncated=train",
        "algorithm.soft_penalty_tokens=0",
        num_steps=1,
    )
    with opened(recipe, tmp_path / "run") as run:
        train(run)
    (step,) = rows(tmp_path / "run", "step")
    assert (step["num_refills"], step["num_trained_groups"], step["num_completions"]) == (2, 0, 3 * 16)


def test_the_measured_controller_moves_on_inside_a_run(load: Load, tmp_path: Path) -> None:
    recipe = load("curriculum.kind=measured", "curriculum.window=2", "curriculum.skip_below_truncation=1.0")
    with opened(recipe, tmp_path / "run") as run:
        train(run)
    (event,) = [row for row in rows(tmp_path / "run", "event") if row["event"] == "stage_change"]
    assert event["step"] == 2
    assert event["reason"].startswith("skipped: only")
    assert event["figures"]["steps_in_stage"] == 2


def test_one_problem_twice_in_a_step_gets_different_draws(load: Load, tmp_path: Path) -> None:
    with opened(load(), tmp_path / "run") as run:
        (problem,) = run.stream.take(1)
        assert isinstance(run.experience, OnPolicy)
        params = SamplingParams(max_completion_tokens=16, seed=1)
        first, second = run.experience.sample([problem, problem], 4, params, {})
    texts = [tuple(r.completion_ids.tolist()) for g in (first, second) for r in g.rollouts]
    assert len(set(texts)) == 8


def test_refills_that_meet_a_problem_again_draw_new_completions(load: Load, tmp_path: Path) -> None:
    """Five problems, four rounds of four: every problem comes up again, and no completion is drawn twice."""
    recipe = load(
        "data.num_problems=5",
        "algorithm.dynamic_sampling=true",
        "algorithm.max_refills=3",
        "algorithm.truncated=train",
        "algorithm.soft_penalty_tokens=0",
        num_steps=1,
    )
    with opened(recipe, tmp_path / "run") as run:
        train(run)
    drawn = pq.read_table(tmp_path / "run" / "rollouts" / "step-000001.parquet").to_pylist()
    assert len(drawn) == 4 * 16
    assert len({(r["problem_id"], r["sample_index"]) for r in drawn}) == len(drawn)
    assert len({(r["problem_id"], r["completion"]) for r in drawn}) == len(drawn)


def test_the_engine_of_lower_precision_is_checked_against_cast_weights(load: Load, tmp_path: Path) -> None:
    with opened(load("model.dtype=bfloat16"), tmp_path / "run") as run:
        train(run)
        assert run.cluster.sampler.load_weights(run.weights).dtype == "bfloat16"
    assert 0 < rows(tmp_path / "run", "step")[0]["mismatch_mean"] < 0.1


def test_the_ids_trained_on_are_the_ids_sampled(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token ids end to end: decoding and encoding again need not give the same ids, so nothing may rely on it."""
    sampled, trained = [], []

    def note(self: Progress, rollout: Rollout) -> None:
        sampled.append(rollout.completion_ids.tolist())

    monkeypatch.setattr(Progress, "on_rollout", note)
    with opened(load(num_steps=1), tmp_path / "run") as run:
        update = run.cluster.learner.update

        def recording(mini_batches: Any) -> Any:
            trained.extend(s.completion_ids.tolist() for batch in mini_batches for s in batch)
            return update(mini_batches)

        monkeypatch.setattr(run.cluster.learner, "update", recording)
        train(run)
    assert len(trained) == 16
    assert sorted(trained) == sorted(sampled)
