"""Faults planted in real runs of a few steps: what would be silent raises its alarm, and a sound run raises none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from deepscaler.model_directory import open_model
from safetensors.torch import load_file

from deepscaler.algorithms.kl import KL_ESTIMATORS, k3
from deepscaler.config import Recipe, load_recipe
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.loop.run import AlarmError, Run
from deepscaler.modeling.weights import LiveWeights
from deepscaler.observability.run_directory import read_metrics
from deepscaler.protocols import PublishedWeights
from deepscaler.training import gradients, optimizer_state
from deepscaler.training.checkpoint import CheckpointError
from deepscaler.training.learner import PolicyLearner
from deepscaler.training.logprobs import token_logprobs
from deepscaler.training.optimizer_state import OPTIMIZER_FILE
from deepscaler.training.replica import ModelReplica
from deepscaler.types import (
    GradeItem,
    Outcome,
    Request,
    Rollout,
    RunError,
    SamplingParams,
    Verdict,
    WeightsInfo,
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
Plant = Callable[[Run, pytest.MonkeyPatch], None]


class MadeGrader:
    """Verdicts as a function of a completion's text and place, about half of them right."""

    def __init__(self, verdict: Callable[[int], Verdict]) -> None:
        self._verdict = verdict

    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
        return [self._verdict(crc32(item.completion.encode()) + place) for place, item in enumerate(items)]


def half_right(number: int) -> Verdict:
    return Verdict(Outcome.CORRECT, 1.0) if number % 2 else Verdict(Outcome.WRONG, 0.0)


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


def own_engine(run: Run, patch: pytest.MonkeyPatch) -> TorchEngine:
    """An engine with a copy of the weights, as one in another process or of another precision has."""
    assert run.recipe.model.path
    files = open_model(run.recipe.model.path, "float32")
    engine = TorchEngine(files.load(longest=128), stop_ids=files.stop_ids(), max_active=16)
    patch.setattr(run.cluster.sampler, "generate", engine.generate)
    return engine


def replica_of(run: Run) -> ModelReplica:
    assert isinstance(run.cluster.learner, PolicyLearner)
    replica = run.cluster.learner.replica
    assert isinstance(replica, ModelReplica)
    return replica


def stale(run: Run, patch: pytest.MonkeyPatch) -> None:
    """Weights never arrive, and what the engine reports of itself is what was published."""
    engine = own_engine(run, patch)

    def load(weights: PublishedWeights) -> WeightsInfo:
        engine.version = weights.version
        return WeightsInfo(weights.version, weights.digest("float32"))

    patch.setattr(run.cluster.sampler, "load_weights", load)


def late(run: Run, patch: pytest.MonkeyPatch) -> None:
    """Weights arrive two steps late, under the newest version number."""
    engine, queue = own_engine(run, patch), []

    def load(weights: PublishedWeights) -> WeightsInfo:
        queue.append([(name, weight.detach().clone()) for name, weight in weights.tensors("float32")])
        old = queue[max(0, len(queue) - 3)]
        engine.load_weights(LiveWeights(weights.version, lambda: old))
        return WeightsInfo(weights.version, weights.digest("float32"))

    patch.setattr(run.cluster.sampler, "load_weights", load)


def old_version(run: Run, patch: pytest.MonkeyPatch) -> None:
    """The engine goes on with version 0, and says so in its rollouts."""
    generate = run.cluster.sampler.generate

    def generated(requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        for rollout in generate(requests, params):
            yield replace(rollout, policy_version=0)

    patch.setattr(run.cluster.sampler, "generate", generated)


def loss_temperature(run: Run, patch: pytest.MonkeyPatch) -> None:
    def warmer(*arguments: Any, **settings: Any) -> Any:
        return token_logprobs(*arguments, **settings | {"temperature": 0.7})

    patch.setattr(gradients, "token_logprobs", warmer)


def detached(run: Run, patch: pytest.MonkeyPatch) -> None:
    """Gradients are computed and lost."""
    replica = replica_of(run)
    accumulate = replica.accumulate

    def lost(*arguments: Any) -> Any:
        sums = accumulate(*arguments)
        for parameter in replica.computer.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return sums

    patch.setattr(replica, "accumulate", lost)


def no_learning_rate(run: Run, patch: pytest.MonkeyPatch) -> None:
    replica = replica_of(run)
    apply = replica.apply
    patch.setattr(replica, "apply", lambda rate, max_grad_norm: apply(0.0, max_grad_norm))


def no_step(run: Run, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.optim.AdamW, "step", lambda self: None)


def every_other_skipped(run: Run, patch: pytest.MonkeyPatch) -> None:
    norm, calls = torch.nn.utils.clip_grad_norm_, []

    def clip(parameters: Any, limit: float) -> torch.Tensor:
        calls.append(1)
        value = norm(parameters, limit)
        return value if len(calls) % 2 else torch.tensor(float("nan"))

    patch.setattr(torch.nn.utils, "clip_grad_norm_", clip)


def kl_of_the_wrong_sign(run: Run, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(KL_ESTIMATORS, "k3", lambda logprobs, ref: -k3(logprobs, ref))  # type: ignore[arg-type]


def reference_follows(run: Run, patch: pytest.MonkeyPatch) -> None:
    computer = replica_of(run).computer
    patch.setattr(computer, "reference", computer.model)


def same_problems(run: Run, patch: pytest.MonkeyPatch) -> None:
    first = run.stream.take(4)
    patch.setattr(type(run.stream), "take", lambda self, count: first[:count])


def same_draws(run: Run, patch: pytest.MonkeyPatch) -> None:
    """Random numbers that do not depend on the step."""
    generate = run.cluster.sampler.generate
    patch.setattr(run.cluster.sampler, "generate", lambda requests, params: generate(requests, replace(params, step=1)))


def flipped_reward(run: Run, patch: pytest.MonkeyPatch) -> None:
    def flipped(number: int) -> Verdict:
        return replace(half_right(number), reward=1.0 - half_right(number).reward)

    patch.setattr(run.cluster.grader, "grade", MadeGrader(flipped).grade)


def crashing_grader(run: Run, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run.cluster.grader, "grade", MadeGrader(lambda n: Verdict(Outcome.GRADER_FAILED, 0.0)).grade)


def no_difference(run: Run, patch: pytest.MonkeyPatch) -> None:
    """Half of the groups all right, half all wrong."""

    size = run.recipe.rollout.group_size

    class ByGroup(MadeGrader):
        def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
            return [self._verdict(place // size) for place in range(len(items))]

    patch.setattr(run.cluster.grader, "grade", ByGroup(half_right).grade)


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
