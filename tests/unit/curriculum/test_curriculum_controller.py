"""The curriculum on made-up streams of metrics: when it moves on, when it must not, and that it says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest

from deepscaler.config.sections.curriculum import CurriculumSection, StageSection
from deepscaler.curriculum.controller import Curriculum, StageChange, StepObservation

STAGES = (
    StageSection(name="8k", max_completion_tokens=8192, steps=5),
    StageSection(name="16k", max_completion_tokens=16384, steps=3),
    StageSection(name="24k", max_completion_tokens=24576),
)
MEASURED = CurriculumSection(kind="measured")
Stream = Callable[[int], tuple[float, float]]  # step -> truncated share, reward


def run(
    stream: Stream, steps: int, section: CurriculumSection = MEASURED, stages: Sequence[StageSection] = STAGES
) -> list[tuple[int, StageChange]]:
    """Every change with its step. The stream sees the steps since the last change."""
    curriculum, changes, start = Curriculum(stages, section), [], 0
    for step in range(1, steps + 1):
        truncated, reward = stream(step - start)
        change = curriculum.observe(StepObservation(step, truncated, reward, 3000.0, 7000.0))
        if change is not None:
            changes.append((step, change))
            start = step
    return changes


def noisy(truncated: Stream, seed: int = 1) -> Stream:
    rng = np.random.default_rng(seed)

    def stream(step: int) -> tuple[float, float]:
        cut, reward = truncated(step)
        return max(0.0, cut + rng.normal(0, 0.004)), reward + rng.normal(0, 0.01)

    return stream


def published(step: int) -> tuple[float, float]:
    """The first stage of the published run: 4.2% truncated falling, then rising to 6.5% with flat reward."""
    if step < 400:
        return 0.20 * np.exp(-step / 60) + 0.042, 0.46 + 0.10 * (1 - np.exp(-step / 100))
    return min(0.065, 0.042 + 0.023 * (step - 400) / 300), 0.56


def test_the_schedule_moves_after_its_steps_and_stays_in_the_last_stage() -> None:
    changes = run(lambda step: (0.5, 0.1), 50, CurriculumSection())
    assert [(step, c.from_stage, c.to_stage) for step, c in changes] == [(5, "8k", "16k"), (8, "16k", "24k")]
    assert "scheduled after 5 steps" in changes[0][1].reason


def test_the_published_signal_triggers_and_the_figures_say_why() -> None:
    changes = run(noisy(published), 750)
    assert changes, "the published run's own signal was missed"
    step, change = changes[0]
    assert 450 < step <= 720
    assert (change.from_stage, change.to_stage) == ("8k", "16k")
    assert "truncated share rose from" in change.reason and "reward was flat" in change.reason
    assert change.figures["truncated_frac"] - change.figures["truncated_frac_lowest"] >= MEASURED.truncation_rise
    assert change.figures["length_wrong_mean"] == 7000.0
    json.dumps(change.figures, allow_nan=False)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("still falling", lambda step: (0.3 * np.exp(-step / 200) + 0.03, 0.4 + 0.0003 * step)),
        ("settled and flat", lambda step: (0.042, 0.5)),
        ("rising while the reward rises", lambda step: (0.03 + 0.0002 * step, 0.3 + 0.002 * step)),
        ("high all along", lambda step: (0.4, 0.2)),
        ("short spikes", lambda step: (0.12 if step % 50 == 0 else 0.03, 0.5)),
    ],
)
def test_no_early_switch(name: str, stream: Stream, seed: int) -> None:
    assert run(noisy(stream, seed), 300) == []


def test_no_oscillation_and_no_skipping_of_the_minimum_stay() -> None:
    """The same signal over and over: each stage is left once, forward, and never before its minimum stay."""
    changes = run(lambda step: (0.02 if step < 25 else 0.06, 0.5), 1000)
    assert [c.to_stage for _, c in changes] == ["16k", "24k"]
    steps = [0, *(step for step, _ in changes)]
    assert all(b - a >= MEASURED.min_stay for a, b in pairwise(steps))


def test_a_stage_with_nothing_to_teach_is_skipped() -> None:
    section = CurriculumSection(kind="measured", skip_below_truncation=0.02)
    changes = run(lambda step: (0.005, 0.5), 50, section)
    assert [step for step, _ in changes] == [20, 40]
    assert "skipped: only 0.5%" in changes[0][1].reason


def test_a_budget_that_cuts_too_much_is_refused() -> None:
    section = CurriculumSection(kind="measured", refuse_above_truncation=0.6)
    (first, change), *_ = run(lambda step: (0.8, 0.1), 30, section)
    assert first == section.window
    assert "refused to shorten: 80.0% of completions are truncated at the budget of 8,192" in change.reason


@pytest.mark.parametrize("cut", [3, 30, 460, 640])
def test_a_restored_controller_decides_the_same(cut: int) -> None:
    whole, first = Curriculum(STAGES, MEASURED), Curriculum(STAGES, MEASURED)
    stream = noisy(published)
    observations = [StepObservation(s, *stream(s)) for s in range(1, 751)]
    expected = [whole.observe(o) for o in observations]
    got = [first.observe(o) for o in observations[:cut]]
    second = Curriculum(STAGES, MEASURED)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    got += [second.observe(o) for o in observations[cut:]]
    assert got == expected


def test_lengths_may_be_missing() -> None:
    curriculum = Curriculum(STAGES, CurriculumSection())
    changes = [curriculum.observe(StepObservation(s, 0.1, 0.0)) for s in range(1, 6)]
    assert changes[-1] is not None
    assert "length_correct_mean" not in changes[-1].figures
