"""Laws of composed rewards: sums, what says nothing, what failed, and what counts as solved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.algorithms.advantages import ADVANTAGES
from deepscaler.algorithms.batch import make_samples
from deepscaler.algorithms.signal import select_groups
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.observability.part_metrics import num_failed_rewards, part_failures, part_metrics
from deepscaler.observability.rollout_metrics import rollout_stats
from deepscaler.observability.step_stats import correct_advantage
from deepscaler.rewards.composition import composed, verdict_value
from deepscaler.types import (
    CompletionReward,
    FinishReason,
    Group,
    Outcome,
    PartOutcome,
    PartValue,
    Problem,
    Rollout,
    ScoredGroup,
    Verdict,
)

RIGHT, WRONG = Verdict(Outcome.CORRECT, 1.0), Verdict(Outcome.WRONG, 0.0)
WEIGHTS = {"a": 1.0, "b": 0.5}
NOTHING = PartValue("b", PartOutcome.NO_SIGNAL)
FAILED = PartValue("b", PartOutcome.EXCEPTION, detail="ValueError: no", metrics=(("tokens", 2.0),))


def value(name: str, number: float, **metrics: float) -> PartValue:
    return PartValue(name, PartOutcome.VALUE, number, seconds=0.5, metrics=tuple(metrics.items()))


def group_of(*rewards: CompletionReward, verdict: Verdict = WRONG) -> ScoredGroup:
    ids = np.array([1, 2], np.int32)
    logprobs = np.zeros(2, np.float32)
    rollouts = tuple(Rollout("p", i, ids, ids, logprobs, FinishReason.STOP, 0) for i in range(len(rewards)))
    group = Group(Problem("p", "q", ("1",)), rollouts)
    return ScoredGroup(group, ("text",) * len(rewards), (verdict,) * len(rewards), rewards)


@pytest.mark.parametrize(
    ("parts", "total"),
    [
        ([value("a", 1.0), value("b", -3.0)], -0.5),
        ([value("a", 1.0), NOTHING], 1.0),
        ([NOTHING], None),
        ([value("a", 1.0), FAILED], None),
    ],
)
def test_the_reward_is_the_weighted_sum_of_what_the_parts_say(parts: list[PartValue], total: float | None) -> None:
    assert composed(parts, WEIGHTS, RIGHT, None) == CompletionReward(total, True, tuple(parts))


@pytest.mark.parametrize(("threshold", "solved"), [(None, False), (0.5, True), (1.0, True), (1.1, False)])
def test_solved_is_what_the_recipe_says(threshold: float | None, solved: bool) -> None:
    assert composed([value("a", 1.0)], WEIGHTS, WRONG, threshold).solved is solved
    assert composed([NOTHING], WEIGHTS, RIGHT, threshold).solved is (threshold is None)


@pytest.mark.parametrize("outcome", Outcome)
def test_the_part_of_a_profile_is_its_verdict_and_no_verdict_is_a_failure(outcome: Outcome) -> None:
    part = verdict_value("right", Verdict(outcome, float(outcome is Outcome.CORRECT)))
    assert part.outcome.failed is not outcome.graded
    assert part.value == (float(outcome is Outcome.CORRECT) if outcome.graded else None)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_completion_without_a_reward_is_not_in_the_baseline_and_is_not_trained_on(name: str) -> None:
    """The others get what they would get in a group without it."""
    some = [CompletionReward(v, False) for v in (5.0, -1.0, 2.0)]
    without = CompletionReward(None, True)
    algorithm = AlgorithmSection(advantage=name)
    (with_it,) = make_samples([group_of(*some, without)], algorithm, max_completion_tokens=9, num_updates=1)
    (alone,) = make_samples([group_of(*some)], algorithm, max_completion_tokens=9, num_updates=1)
    assert [s.advantage for s in with_it[:3]] == pytest.approx([s.advantage for s in alone])
    assert with_it[0].advantage > 0 > with_it[1].advantage
    assert with_it[3].advantage == 0 and not with_it[3].token_weights.any()


def test_signal_is_a_difference_of_rewards_whatever_their_range() -> None:
    same = group_of(CompletionReward(0.3, True), CompletionReward(0.3, False), CompletionReward(None, True))
    apart = group_of(CompletionReward(-7.0, False), CompletionReward(-7.5, False))
    assert select_groups([same, apart], needs_signal=True, accuracy_band=None) == [apart]


def test_solved_and_not_the_reward_decides_what_counts_as_right() -> None:
    group = group_of(CompletionReward(-2.0, True), CompletionReward(9.0, False), CompletionReward(None, True))
    stats = rollout_stats([group])
    assert (stats.solved_frac, stats.reward_mean) == (0.5, 3.5)
    assert (stats.num_correct, stats.num_graded, stats.outcome_frac[Outcome.WRONG]) == (1, 2, 1.0)
    assert not group.solved
    assert group_of(CompletionReward(-2.0, True), CompletionReward(None, False)).solved


def test_the_sign_of_advantages_is_checked_against_the_reward() -> None:
    group = group_of(CompletionReward(3.0, False), CompletionReward(-1.0, True), CompletionReward(0.0, True))
    (samples,) = make_samples([group], AlgorithmSection(), max_completion_tokens=9, num_updates=1)
    flipped = [replace(sample, advantage=-sample.advantage) for sample in samples]
    assert (correct_advantage([group], samples) or 0) > 0 > (correct_advantage([group], flipped) or 0)


def test_every_part_has_its_metrics_and_every_kind_of_failure_one_traceback() -> None:
    first = CompletionReward(1.0, True, (value("a", 2.0, tokens=3.0), NOTHING))
    second = CompletionReward(None, True, (value("a", 1.0, tokens=4.0), FAILED))
    groups = [group_of(first, second), group_of(second, first)]
    found: dict[str, Any] = part_metrics(groups)
    assert found == {
        **{"reward/a/mean": 1.5, "reward/a/none_frac": 0.0, "reward/a/failed_frac": 0.0, "reward/a/seconds": 0.5},
        **{"reward/a/sum_tokens": 14.0, "reward/b/none_frac": 0.5, "reward/b/failed_frac": 0.5},
        **{"reward/b/seconds": 0.0, "reward/b/exception": 2.0, "reward/b/sum_tokens": 4.0},
    }
    (failure,) = part_failures(groups)
    assert (failure.part, failure.sample_index, failure.count, failure.trace) == ("b", 1, 2, "ValueError: no")
    assert num_failed_rewards(groups) == 2
    assert part_metrics([group_of()]) == {}


def test_verdicts_alone_are_rewards_as_they_always_were() -> None:
    verdicts = (RIGHT, WRONG, Verdict(Outcome.TIMEOUT, 0.0))
    group = replace(group_of(*[CompletionReward(0.0, True)] * 3), verdicts=verdicts, composed=())
    assert group.rewards.tolist() == [1.0, 0.0, 0.0] and group.graded.tolist() == [True, True, False]
    assert not group.solved and torch.tensor(group.rewards).dtype == torch.float32
