"""Learning-rate schedules agree with transformers', in supervised training and by reinforcement."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.optimization import (
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import OptimizerSection
from deepscaler.protocols import AppliedUpdate
from deepscaler.training.learner import PolicyLearner
from deepscaler.training.schedules import learning_rate_factor, warmup_factor
from deepscaler.types import TokenSums

TOTAL, WARMUP = 20, 4


def theirs(make: Any, **options: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = make(optimizer, num_warmup_steps=WARMUP, **options)
    rates = []
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "floor", "make", "options"),
    [
        ("constant", 0.0, get_constant_schedule_with_warmup, {}),
        ("linear", 0.0, get_linear_schedule_with_warmup, {"num_training_steps": TOTAL}),
        (
            "cosine",
            0.1,
            get_cosine_with_min_lr_schedule_with_warmup,
            {"num_training_steps": TOTAL, "min_lr_rate": 0.1},
        ),
    ],
)
def test_after_the_warmup_a_schedule_is_that_of_transformers(
    schedule: Any, floor: float, make: Any, options: Any
) -> None:
    ours = [
        learning_rate_factor(schedule, update=i, num_updates=TOTAL, warmup_updates=WARMUP, floor=floor)
        for i in range(TOTAL)
    ]
    assert ours[WARMUP:] == pytest.approx(theirs(make, **options)[WARMUP:])
    assert ours[:WARMUP] == [1.0] * WARMUP
    beyond = learning_rate_factor(schedule, update=99, num_updates=TOTAL, warmup_updates=WARMUP, floor=floor)
    assert beyond == (1.0 if schedule == "constant" else floor)


def test_a_warmup_rises_to_the_peak_at_its_last_update() -> None:
    assert [warmup_factor(i, 4) for i in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup_factor(0, 0) == 1.0


class _Replica:
    """Records rates; no model."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.asked: list[Any] = []

    def logprobs(self, samples: Any, *, of: str = "policy") -> list[Any]:
        return [f"{of} at {len(self.rates)}" for _ in samples]

    def accumulate(self, samples: Any, old: Any, ref: Any) -> TokenSums:
        self.asked.append(old)
        return TokenSums(num_tokens=1)

    def apply(self, learning_rate: float, max_grad_norm: float) -> AppliedUpdate:
        self.rates.append(learning_rate)
        return AppliedUpdate(1.0, learning_rate)


def policy(section: OptimizerSection) -> tuple[PolicyLearner, _Replica]:
    replica: Any = _Replica()
    return PolicyLearner(replica, AlgorithmSection(), section), replica


def test_a_run_decays_over_its_steps_whatever_the_updates_of_a_step(make_samples_of: Any) -> None:
    section = OptimizerSection(learning_rate=1.0, schedule="linear", decay_steps=4)
    for halves in (1, 2):
        learner, replica = policy(section)
        for _ in range(4):
            learner.update([make_samples_of([4, 5])] * halves)
        assert replica.rates[::halves] == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_several_passes_take_every_mini_batch_again_with_the_log_probabilities_of_the_start(
    make_samples_of: Any,
) -> None:
    learner, replica = policy(OptimizerSection(learning_rate=1.0, num_iterations=3))
    learner.update([make_samples_of([4, 5]), make_samples_of([4, 5])])
    assert len(replica.rates) == learner.num_updates == 6 and learner.version == 1
    assert {value for old in replica.asked for value in old} == {"policy at 0"}
    single, once = policy(OptimizerSection(learning_rate=1.0))
    single.update([make_samples_of([4, 5])])
    assert once.asked == [None]
