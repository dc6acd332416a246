"""Faults for a run that is open: each function plants one, and `MadeGrader` makes verdicts for a random model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import pytest
import torch

from deepscaler.algorithms.kl import KL_ESTIMATORS, k3
from deepscaler.cluster.model_directory import open_model
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.loop.run import Run
from deepscaler.modeling.weights import LiveWeights
from deepscaler.protocols import PublishedWeights
from deepscaler.training import gradients
from deepscaler.training.learner import PolicyLearner
from deepscaler.training.logprobs import token_logprobs
from deepscaler.training.replica import ModelReplica
from deepscaler.types import (
    GradeItem,
    Outcome,
    Request,
    Rollout,
    SamplingParams,
    Verdict,
    WeightsInfo,
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
