"""What alarms are told of a step, from rollouts and verdicts on: luck, signs, and draws that come again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from deepscaler.algorithms.batch import make_samples
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import AlarmSection
from deepscaler.observability.alarms import Alarms
from deepscaler.observability.draws import MAX_PROBLEMS, DrawMemory, Repeats
from deepscaler.observability.rollout_metrics import rollout_stats
from deepscaler.observability.step_stats import StepStats, correct_advantage, correct_by_chance, step_stats
from deepscaler.types import (
    FinishReason,
    Group,
    Outcome,
    Problem,
    Rollout,
    ScoredGroup,
    UpdateStats,
    Verdict,
    WeightsInfo,
)

Row = Sequence[tuple[Outcome, str | None]]


def scored(name: str, references: Sequence[str], row: Row, *, first: int = 0, ids: Any = None) -> ScoredGroup:
    ids = ids if ids is not None else [np.arange(5)] * len(row)
    rollouts = tuple(
        Rollout(
            name,
            first + i,
            np.zeros(3, np.int32),
            np.asarray(completion, np.int32),
            np.zeros(len(completion), np.float32),
            FinishReason.STOP,
            0,
        )
        for i, completion in enumerate(ids)
    )
    verdicts = tuple(Verdict(o, float(o is Outcome.CORRECT), answer) for o, answer in row)
    return ScoredGroup(Group(Problem(name, "?", tuple(references)), rollouts), ("",) * len(row), verdicts)


def stats_of(groups: list[ScoredGroup], *, step: int = 1) -> StepStats:
    """As the loop makes them, of a step with one update."""
    batches = make_samples(groups, AlgorithmSection(), max_completion_tokens=100, num_updates=1)
    return step_stats(
        stage="s",
        stats=rollout_stats(groups),
        sampled=groups,
        trained=groups,
        samples=[s for batch in batches for s in batch],
        update=UpdateStats(1, grad_norm=1.0, learning_rate=1e-6, mismatch_mean=1e-6, entropy_mean=0.3),
        repeats=Repeats(),
        num_prompts=len(groups),
        num_problems=10_000,
        weights=WeightsInfo(1, f"w{step}"),
    )


def graded(answer: int, reference: int) -> tuple[Outcome, str]:
    return Outcome.CORRECT if answer == reference else Outcome.WRONG, str(answer)


def asked(rng: np.random.Generator, step: int, skill: float, *, shifted: bool) -> list[ScoredGroup]:
    """32 problems with answers from 0 to 99, of which the policy knows its share; it guesses the others."""
    answers = rng.integers(0, 100, 32)
    references = np.roll(answers, 1) if shifted else answers
    known = rng.random((32, 8)) < skill
    given = np.where(known, answers[:, None], rng.integers(0, 100, (32, 8)))
    return [
        scored(f"{step}-{i}", [str(references[i])], [graded(int(a), int(references[i])) for a in given[i]])
        for i in range(32)
    ]


def fired(rng: np.random.Generator, skill: float, *, shifted: bool) -> set[str]:
    alarms = Alarms(AlarmSection(window=10))
    steps = [stats_of(asked(rng, step, skill, shifted=shifted), step=step) for step in range(1, 26)]
    return {a.name for stats in steps for a in alarms.observe(stats)}


@pytest.mark.parametrize("seed", range(3))
def test_references_of_the_neighbour_are_noticed_though_luck_earns_some_reward(seed: int) -> None:
    """A policy that solves 60% gets 1%; never a step of reward 0, which would be the other alarm."""
    assert fired(np.random.default_rng(seed), 0.6, shifted=True) == {"reward_by_chance"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("skill", [0.02, 0.1, 0.6])
def test_a_policy_that_solves_a_few_is_not_taken_for_lucky(seed: int, skill: float) -> None:
    assert fired(np.random.default_rng(seed), skill, shifted=False) == set()


def test_luck_is_the_rate_under_the_references_of_the_others() -> None:
    rng = np.random.default_rng(5)
    references = [["1"], ["2", " 3"], ["3"], ["1"], ["4"]]
    groups = [
        scored(str(i), refs, [(Outcome.WRONG, str(a)) for a in rng.integers(1, 5, 6)])
        for i, refs in enumerate(references)
    ]
    expected = 0.0
    for group, own in zip(groups, references, strict=True):
        others = [{r.strip() for r in refs} for refs in references if refs != own]
        expected += sum((v.answer in other) / len(others) for v in group.verdicts for other in others)
    assert correct_by_chance(groups) == pytest.approx(expected)
    assert correct_by_chance([scored("a", ["1"], [(Outcome.CORRECT, "1")] * 4)]) == 0.0


def test_the_sign_of_the_advantage_is_that_of_the_verdict() -> None:
    mixed = scored("a", ["1"], [(Outcome.CORRECT, "1"), (Outcome.WRONG, "2"), (Outcome.TIMEOUT, None)])
    easy = scored("b", ["1"], [(Outcome.CORRECT, "1")] * 3)
    (samples,) = make_samples([mixed, easy], AlgorithmSection(), max_completion_tokens=9, num_updates=1)
    lead = correct_advantage([mixed, easy], samples)
    assert lead == pytest.approx(2**0.5, rel=1e-5)
    assert correct_advantage([easy], samples[3:]) is None
    assert stats_of([mixed, easy]).num_signal == 2


@pytest.mark.parametrize(
    ("outcome", "alarm", "harmless", "too_many"),
    [
        (Outcome.TIMEOUT, {"grader_trouble"}, 0, 1),
        (Outcome.GRADER_FAILED, {"grader_trouble"}, 0, 1),
        (Outcome.BAD_REFERENCE, {"bad_references"}, 0, 1),
        (Outcome.GRADER_FAILED, {"grader_trouble", "no_verdicts"}, 0, 91),
        (Outcome.NO_ANSWER, {"gate_failed"}, 90, 91),
    ],
)
def test_verdicts_that_are_none_raise_their_alarm_above_a_share(
    outcome: Outcome, alarm: set[str], harmless: int, too_many: int
) -> None:
    """From the grader's verdicts through the figures of the step to the alarm."""

    def names(count: int) -> set[str]:
        alarms = Alarms(AlarmSection(window=10))
        row = [(outcome, None)] * count + [graded(i % 2, 1) for i in range(100 - count)]
        steps = [stats_of([scored(f"{step}", ["1"], row)], step=step) for step in range(1, 21)]
        return {a.name for stats in steps for a in alarms.observe(stats)}

    assert names(harmless) == set()
    assert names(too_many) == alarm


def drawn(rng: np.random.Generator, *, num_problems: int = 40, certain: float = 0.0) -> list[ScoredGroup]:
    """Groups of 8 completions of 20 random tokens; some problems have one certain beginning for all."""
    groups = []
    for i in range(num_problems):
        ids = [rng.integers(0, 50, 20) for _ in range(8)]
        if i < certain * num_problems:
            ids = [np.arange(40) for _ in range(8)]
        groups.append(scored(f"p{i}", ["1"], [(Outcome.WRONG, None)] * 8, ids=ids))
    return groups


def test_draws_that_come_again_are_counted() -> None:
    memory, seen = DrawMemory(), drawn(np.random.default_rng(1))
    assert memory.compare(seen) == Repeats(0, 0, 0.0)
    assert memory.compare(seen) == Repeats(320, 320, 0.0)
    assert memory.compare(drawn(np.random.default_rng(2))) == Repeats(320, 0, 0.0)


def test_beginnings_that_are_certain_are_counted_as_luck() -> None:
    memory = DrawMemory()
    memory.compare(drawn(np.random.default_rng(1), certain=0.5))
    repeats = memory.compare(drawn(np.random.default_rng(2), certain=0.5))
    assert (repeats.num_repeated, repeats.by_chance) == (160, 160.0)


def test_a_second_group_of_a_step_is_no_visit() -> None:
    memory = DrawMemory()
    row: Row = [(Outcome.WRONG, None)] * 4
    assert memory.compare([scored("p", ["1"], row), scored("p", ["1"], row, first=4)]) == Repeats()


def test_memory_is_bounded_and_survives_a_restart() -> None:
    memory, seen = DrawMemory(), drawn(np.random.default_rng(1), num_problems=MAX_PROBLEMS + 9)
    memory.compare(seen)
    restored = DrawMemory()
    restored.load_state_dict(json.loads(json.dumps(memory.state_dict())))
    assert restored.compare(seen) == memory.compare(seen) == Repeats(8 * MAX_PROBLEMS, 8 * MAX_PROBLEMS, 0.0)


def test_figures_of_a_step_leave_out_gradings_that_reached_no_verdict() -> None:
    lost = [(Outcome.GRADER_FAILED, None)] * 2
    groups = [
        scored("a", ["1"], [graded(1, 1), graded(1, 1), *lost]),
        scored("b", ["1"], [graded(1, 1), graded(2, 1), *lost]),
        scored("c", ["1"], lost * 2),
    ]
    stats = rollout_stats(groups)
    assert (stats.num_completions, stats.num_graded, stats.num_correct) == (12, 4, 3)
    assert stats.reward_mean == 0.75
    assert (stats.groups_all_correct_frac, stats.groups_all_wrong_frac) == (1 / 3, 0.0)
    nothing = rollout_stats([groups[2]])
    assert nothing.reward_mean is None and "reward_mean" not in nothing.metrics()
