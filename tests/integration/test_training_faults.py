"""Faults planted in real runs of a few steps: what would be silent raises its alarm, and a sound run raises none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from safetensors.torch import load_file

from deepscaler.config import Recipe, load_recipe
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.loop.run import AlarmError, Run
from deepscaler.observability.run_directory import read_metrics
from deepscaler.training import optimizer_state
from deepscaler.training.checkpoint import CheckpointError
from deepscaler.training.learner import PolicyLearner
from deepscaler.training.optimizer_state import OPTIMIZER_FILE
from deepscaler.types import RunError
from planted_faults import (
    MadeGrader,
    Plant,
    crashing_grader,
    detached,
    every_other_skipped,
    flipped_reward,
    half_right,
    kl_of_the_wrong_sign,
    late,
    loss_temperature,
    no_difference,
    no_learning_rate,
    no_step,
    old_version,
    reference_follows,
    same_draws,
    same_problems,
    stale,
)
from tiny_run import write_model, write_recipe

STEPS = 5
# A random model answers nothing right, so the length penalty is off and verdicts are made (`MadeGrader`).
SETTINGS = (
    "algorithm.truncated=train",
    "algorithm.soft_penalty_tokens=0",
    "optimizer.mini_batch_prompts=4",
    "evaluation.during_training_problems=1",
    "evaluation.during_training_samples=1",
    "alarms.window=2",
    "stages.0.steps=20",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("faults") / "model")


@contextmanager
def opened(path: Path, model: Path, *settings: str, num_steps: int = STEPS) -> Iterator[Run]:
    recipe: Recipe = load_recipe(
        write_recipe(path, num_steps=num_steps, every_steps=2, processes=1, model=model), [*SETTINGS, *settings]
    )
    with open_run(recipe, model, path / "run", Progress(StringIO(), terminal=False)) as run:
        run.cluster.grader.grade = MadeGrader(half_right).grade  # type: ignore[method-assign]
        run.validation = None
        yield run


def events(path: Path) -> list[tuple[int, str, str]]:
    rows = [r for r in read_metrics(path / "run" / "metrics.jsonl") if r["kind"] == "event"]
    return [(r["step"], r["event"], r["reason"]) for r in rows]


def alarms(path: Path) -> list[str]:
    return [reason.split(":")[0] for _, event, reason in events(path) if event == "alarm"]


# Steps of 1e-5, so that a visit's draws can be recognised at the next one: the policy is nearly the same.
SLOW = "optimizer.learning_rate=1e-5"
NON_FATAL: list[tuple[str, Plant, tuple[str, ...]]] = [
    ("mismatch", stale, ()),
    ("mismatch", late, ()),
    ("mismatch", loss_temperature, ()),
    ("policy_lag", old_version, ()),
    ("often_skipped", every_other_skipped, ("alarms.window=8", "num_steps=8")),
    ("kl_zero", reference_follows, ("num_steps=11",)),
    ("repeated_draws", same_draws, ("data.num_problems=4", SLOW)),
    ("no_signal", no_difference, ()),
]
FATAL: list[tuple[str, Plant, int]] = [
    ("zero_gradient", detached, 3),
    ("zero_learning_rate", no_learning_rate, 3),
    ("weights_unchanged", no_step, 4),
    ("kl_negative", kl_of_the_wrong_sign, 2),
    ("same_problems", same_problems, 4),
    ("reward_sign", flipped_reward, 1),
    ("no_verdicts", crashing_grader, 1),
]


def test_a_sound_run_raises_no_alarm(model: Path, tmp_path: Path) -> None:
    with opened(tmp_path, model, "data.num_problems=8", num_steps=6) as run:
        train(run)
    assert alarms(tmp_path) == []
    assert events(tmp_path)[-1][:2] == (6, "finished")


@pytest.mark.parametrize(("name", "plant", "settings"), NON_FATAL, ids=[plant.__name__ for _, plant, _ in NON_FATAL])
def test_a_planted_fault_raises_its_alarm(
    name: str, plant: Plant, settings: tuple[str, ...], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, model, *settings) as run:
        plant(run, monkeypatch)
        train(run)
    assert alarms(tmp_path) == [name]


@pytest.mark.parametrize(("name", "plant", "step"), FATAL, ids=[plant.__name__ for _, plant, _ in FATAL])
def test_where_nothing_can_be_right_the_run_stops_and_says_so(
    name: str, plant: Plant, step: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, model, "alarms.stop=true") as run, pytest.raises(AlarmError, match=f"stopped at step {step}"):
        plant(run, monkeypatch)
        train(run)
    assert name in alarms(tmp_path)
    last, event, reason = events(tmp_path)[-1]
    assert (last, event) == (step, "stop")
    assert reason.startswith(f"stopped at step {step}")


def test_a_resume_without_the_optimizers_moments_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, model, num_steps=2) as run:
        train(run)
    with monkeypatch.context() as patch:
        patch.setattr(optimizer_state, "load_file", lambda path: {} if path.name == OPTIMIZER_FILE else load_file(path))
        with pytest.raises(RunError, match="moments of 0 updates, but 2 have been applied"), opened(tmp_path, model):
            pass
    with opened(tmp_path, model) as run:
        assert run.step == 2


def test_a_resume_with_its_counters_at_zero_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new optimizer and counters that agree with it: only the run itself knows better."""
    with opened(tmp_path, model, num_steps=2) as run:
        train(run)
    load = PolicyLearner.load

    def forgetful(self: PolicyLearner, directory: Path) -> None:
        load(self, directory)
        self.begin_stage(reset_optimizer=True, reset_reference=False)

    monkeypatch.setattr(PolicyLearner, "load", forgetful)
    with pytest.raises(CheckpointError, match="num_updates = 0, the run was saved with 2"), opened(tmp_path, model):
        pass
