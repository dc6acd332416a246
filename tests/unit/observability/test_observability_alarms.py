"""Each alarm fires on the fault it is for, and none fires on a healthy run."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from deepscaler.config.models import AlarmSection
from deepscaler.observability.alarms import Alarms
from deepscaler.observability.rollout_metrics import rollout_metrics
from deepscaler.types import FinishReason, Group, Outcome, Problem, Rollout, ScoredGroup, Verdict

WINDOW = 10
HEALTHY = {
    "reward_mean": 0.4,
    "truncated_frac": 0.1,
    "length_mean": 100.0,
    "outcome_no_answer_frac": 0.02,
    "outcome_timeout_frac": 0.0,
    "outcome_grader_failed_frac": 0.0,
    "outcome_bad_reference_frac": 0.0,
    "entropy_mean": 0.3,
    "mismatch_mean": 0.001,
    "skipped_updates": 0,
}


def fired(*metrics: dict[str, Any]) -> list[tuple[int, str]]:
    alarms = Alarms(AlarmSection(window=WINDOW))
    return [(step, a.name) for step, m in enumerate(metrics, start=1) for a in alarms.observe(step, m)]


@pytest.mark.parametrize(
    ("name", "fault", "after"),
    [
        ("reward_all_zero", {"reward_mean": 0.0}, 10),
        ("reward_all_one", {"reward_mean": 1.0}, 10),
        ("gate_failed", {"outcome_no_answer_frac": 0.95}, 5),
        ("truncation", {"truncated_frac": 0.95}, 10),
        ("grader_trouble", {"outcome_timeout_frac": 0.04, "outcome_grader_failed_frac": 0.04}, 10),
        ("grader_trouble", {"outcome_timeout_frac": 0.06}, 10),
        ("grader_trouble", {"outcome_grader_failed_frac": 0.06}, 10),
        ("bad_references", {"outcome_bad_reference_frac": 0.1}, 10),
        ("mismatch", {"mismatch_mean": 0.5}, 5),
        ("skipped_updates", {"skipped_updates": 1}, 5),
        ("entropy_low", {"entropy_mean": 0.001}, 10),
        ("entropy_high", {"entropy_mean": 9.0}, 10),
    ],
)
def test_a_planted_fault_raises_its_alarm_once_and_only_it(name: str, fault: dict[str, float], after: int) -> None:
    assert fired(*[HEALTHY | fault] * 40) == [(after, name)]
    assert fired(*[HEALTHY | fault] * (after - 1), HEALTHY, *[HEALTHY | fault] * (after - 1)) == []


def verdicts_of_a_step(**counts: int) -> dict[str, float]:
    """Metrics of a step of 100 completions as the loop computes them, the rest half correct, half wrong."""
    rest = 100 - sum(counts.values())
    counts = {"correct": rest - rest // 2, "wrong": rest // 2, **counts}
    ids = np.zeros(10, np.int32)
    rollout = Rollout("p", 0, ids, ids, np.zeros(10, np.float32), FinishReason.STOP, 0)
    verdicts = [Verdict(Outcome(o), float(o == "correct")) for o, count in counts.items() for _ in range(count)]
    group = Group(Problem("p", "?", ("1",)), (rollout,) * 100)
    return {"entropy_mean": 0.3} | rollout_metrics([ScoredGroup(group, ("text",) * 100, tuple(verdicts))])


@pytest.mark.parametrize(
    ("outcome", "alarm", "harmless", "too_many"),
    [
        (Outcome.TIMEOUT, "grader_trouble", 5, 6),
        (Outcome.GRADER_FAILED, "grader_trouble", 5, 6),
        (Outcome.BAD_REFERENCE, "bad_references", 5, 6),
        (Outcome.NO_ANSWER, "gate_failed", 90, 91),
    ],
)
def test_verdicts_that_are_no_verdicts_raise_their_alarm_above_a_share(
    outcome: Outcome, alarm: str, harmless: int, too_many: int
) -> None:
    """From the grader's verdicts through the metrics of the step to the alarm."""
    assert fired(*[verdicts_of_a_step(**{outcome.value: harmless})] * 20) == []
    assert [name for _, name in fired(*[verdicts_of_a_step(**{outcome.value: too_many})] * 20)] == [alarm]


def test_an_alarm_comes_back_after_the_condition_was_gone() -> None:
    bad = HEALTHY | {"reward_mean": 0.0}
    assert fired(*[bad] * 10, HEALTHY, *[bad] * 10) == [(10, "reward_all_zero"), (21, "reward_all_zero")]


def test_the_collapse_of_length_truncation_and_reward_is_seen() -> None:
    def metrics(step: int) -> dict[str, float]:
        grown = max(0, step - 20) / 30
        return HEALTHY | {
            "reward_mean": 0.4 - 0.3 * grown,
            "truncated_frac": min(0.8, 0.1 + 0.5 * grown),
            "length_mean": 100 + 80 * grown,
        }

    names = [name for _, name in fired(*map(metrics, range(60)))]
    assert names == ["collapse"]


def test_growing_length_with_growing_reward_is_no_collapse() -> None:
    stream = [
        HEALTHY | {"reward_mean": 0.3 + 0.01 * s, "length_mean": 80 + 3 * s, "truncated_frac": 0.01 * s}
        for s in range(50)
    ]
    assert fired(*stream) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_run_raises_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stream = [
        HEALTHY
        | {
            "reward_mean": float(np.clip(0.2 + 0.002 * s + rng.normal(0, 0.05), 0.01, 0.99)),
            "truncated_frac": float(np.clip(0.5 * np.exp(-s / 20) + rng.normal(0, 0.02), 0, 1)),
            "length_mean": float(100 - 30 * np.exp(-s / 20) + rng.normal(0, 3)),
            "entropy_mean": float(0.3 * np.exp(-s / 200)),
        }
        for s in range(200)
    ]
    assert fired(*stream) == []


def test_a_new_stage_starts_trends_anew() -> None:
    """A longer budget raises length and cut share at once, and the reward may dip: that is no collapse."""
    alarms = Alarms(AlarmSection(window=WINDOW))
    before = HEALTHY
    after = HEALTHY | {"reward_mean": 0.2, "length_mean": 200.0, "truncated_frac": 0.4}
    assert not [a for s in range(40) for a in alarms.observe(s, before)]
    alarms.forget_trend()
    assert not [a for s in range(40, 80) for a in alarms.observe(s, after)]


def test_restored_alarms_go_on_counting() -> None:
    bad = HEALTHY | {"reward_mean": 0.0}
    first = Alarms(AlarmSection(window=WINDOW))
    assert not [a for s in range(6) for a in first.observe(s, bad)]
    second = Alarms(AlarmSection(window=WINDOW))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    names = [(s, a.name) for s in range(6, 15) for a in second.observe(s, bad)]
    assert names == [(9, "reward_all_zero")]


def test_fatal_alarms_say_what_to_do() -> None:
    alarms = Alarms(AlarmSection(window=1))
    (alarm,) = alarms.observe(1, HEALTHY | {"reward_mean": 0.0})
    assert alarm.fatal
    assert "nothing is learned" in alarm.reason and "deepscaler report" in alarm.remedy
    (gate,) = alarms.observe(2, HEALTHY | {"outcome_no_answer_frac": 0.95})
    assert gate.reason.startswith("95% of the completions")
