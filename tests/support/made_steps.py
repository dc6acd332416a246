"""Steps of a healthy run with faults planted, and the alarms that they raise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from deepscaler.config.sections.training import AlarmSection
from deepscaler.observability.alarms import Alarms
from deepscaler.observability.step_stats import StepStats

WINDOW = 10
HEALTHY = StepStats(
    stage="one",
    reward_mean=0.4,
    truncated_frac=0.1,
    length_mean=100.0,
    no_answer_frac=0.02,
    num_completions=100,
    num_asked=90,
    num_failed_gradings=0,
    num_bad_references=0,
    num_rewarded=40,
    chance_correct=2.0,
    num_signal=60,
    correct_advantage=1.9,
    problems="",
    problems_left=500,
    num_compared=0,
    num_repeated=0,
    repeats_by_chance=0.0,
    policy_lag=0,
    num_updates=1,
    skipped_updates=0,
    entropy_mean=0.3,
    mismatch_mean=2e-6,
    kl_mean=0.001,
    grad_norm=0.1,
    learning_rate=1e-6,
    weights="",
    solved_frac=0.4,
)
Fault = dict[str, Any]
NOTHING: Fault = {}


def steps_of(*faults: Fault, start: int = 1) -> list[StepStats]:
    """One step per fault; problems and weights change from step to step unless the fault says otherwise."""
    return [
        replace(HEALTHY, **{"problems": f"p{step}", "weights": f"w{step}", **fault})
        for step, fault in enumerate(faults, start=start)
    ]


def fired(*faults: Fault, dtype: str = "float32", kl: str = "k3") -> list[tuple[int, str]]:
    alarms = Alarms(AlarmSection(window=WINDOW), dtype=dtype, kl_estimator=kl)
    return [(step, a.name) for step, stats in enumerate(steps_of(*faults), start=1) for a in alarms.observe(stats)]
