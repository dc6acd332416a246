"""Scored groups to training samples: which rewards, which weights, which slices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.algorithms.batch import make_samples
from deepscaler.algorithms.overlong import soft_overlong_penalty
from deepscaler.algorithms.signal import select_groups
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.types import (
    FinishReason,
    Group,
    Outcome,
    Problem,
    Rollout,
    ScoredGroup,
    TrainSample,
    Verdict,
)

BUDGET = 10


def scored(name: str, rewards: list[float], lengths: list[int], finish: FinishReason | None = None) -> ScoredGroup:
    """A group whose completions of BUDGET tokens were cut; ids and logprobs tell the completions apart."""
    rollouts = tuple(
        Rollout(
            problem_id=name,
            sample_index=i,
            prompt_ids=np.array([1, 2], dtype=np.int32),
            completion_ids=np.full(n, i, dtype=np.int32),
            rollout_logprobs=np.full(n, -0.5 - i, dtype=np.float32),
            finish_reason=finish or (FinishReason.LENGTH if n == BUDGET else FinishReason.STOP),
            policy_version=7,
        )
        for i, n in enumerate(lengths)
    )
    verdicts = tuple(Verdict(Outcome.CORRECT if r > 0 else Outcome.WRONG, r) for r in rewards)
    return ScoredGroup(Group(Problem(name, "?", ("1",)), rollouts), ("",) * len(rewards), verdicts)


def ungraded(group: ScoredGroup, outcomes: dict[int, Outcome]) -> ScoredGroup:
    """The group with other outcomes at some places, reward 0 as the grader gives them."""
    verdicts = [Verdict(outcomes[i], 0.0) if i in outcomes else v for i, v in enumerate(group.verdicts)]
    return replace(group, verdicts=tuple(verdicts))


def make(groups: list[ScoredGroup], num_updates: int = 1, **algorithm: Any) -> list[list[TrainSample]]:
    section = AlgorithmSection(**algorithm)
    return make_samples(groups, section, max_completion_tokens=BUDGET, num_updates=num_updates)


MIXED = scored("a", [1, 0, 0, 1], [3, 10, 5, 2])
EASY = scored("b", [1, 1, 1, 1], [4, 4, 2, 6])
HARD = scored("c", [0, 0, 0, 0], [10, 10, 9, 10])


def test_samples_are_the_rollouts_with_advantage_and_weights() -> None:
    (samples,) = make([MIXED])
    expected = (np.array([1, 0, 0, 1]) - 0.5) / (np.std([1, 0, 0, 1], ddof=1) + 1e-6)
    for sample, rollout, advantage in zip(samples, MIXED.group.rollouts, expected, strict=True):
        assert sample.completion_ids is rollout.completion_ids
        assert sample.prompt_ids is rollout.prompt_ids
        assert sample.rollout_logprobs is rollout.rollout_logprobs
        assert sample.policy_version == 7
        assert sample.advantage == pytest.approx(advantage, rel=1e-12)
        assert sample.token_weights.dtype == np.float32
        assert sample.token_weights.tolist() == [np.float32(1 / 20)] * rollout.num_tokens


def test_truncated_completions_are_trained_on_by_default() -> None:
    (samples,) = make([MIXED], truncated="train")
    assert samples[1].advantage < 0
    assert (samples[1].token_weights > 0).all()


def test_masked_completions_count_in_the_advantage_and_not_in_the_weights() -> None:
    (trained,), (masked,) = make([MIXED], truncated="train"), make([MIXED], truncated="mask")
    assert [s.advantage for s in masked] == [s.advantage for s in trained]
    assert [float(s.token_weights[0]) for s in masked] == pytest.approx([0.1, 0.0, 0.1, 0.1])


def test_the_soft_penalty_is_added_before_the_advantage() -> None:
    (samples,) = make([MIXED], truncated="soft_penalty", soft_penalty_tokens=6, advantage="mean_baseline")
    rewards = np.array([1, 0 - 1, 0 - 1 / 6, 1])
    assert [s.advantage for s in samples] == pytest.approx((rewards - rewards.mean()).tolist())
    assert all((s.token_weights > 0).all() for s in samples)


def test_a_stage_with_a_longer_budget_moves_penalty_and_fixed_length() -> None:
    section = AlgorithmSection(
        truncated="soft_penalty", soft_penalty_tokens=6, reduction="fixed_length", advantage="mean_baseline"
    )
    (samples,) = make_samples([MIXED], section, max_completion_tokens=20, num_updates=1)
    assert [s.advantage for s in samples] == [0.5, -0.5, -0.5, 0.5]
    assert samples[0].token_weights[0] == pytest.approx(1 / (4 * 20))


def test_groups_split_by_whether_their_rewards_differ() -> None:
    assert with_signal([EASY, MIXED, HARD]) == [MIXED]
    assert select_groups([EASY, MIXED, HARD], needs_signal=False, accuracy_band=None) == [EASY, MIXED, HARD]


def with_signal(groups: list[ScoredGroup]) -> list[ScoredGroup]:
    return select_groups(groups, needs_signal=True, accuracy_band=None)


def test_a_band_keeps_groups_by_the_share_that_is_solved_ends_included() -> None:
    thirds = [scored("a", [1, 0, 0], [3, 4, 5]), scored("b", [1, 1, 0], [3, 4, 5]), scored("c", [1, 1, 1], [3, 4, 5])]

    def kept(low: float, high: float) -> list[int]:
        found = select_groups(thirds, needs_signal=False, accuracy_band=(low, high))
        return [thirds.index(group) for group in found]

    assert kept(0.0, 0.5) == [0] and kept(0.5, 1.0) == [1, 2] and kept(1.0, 1.0) == [2] and kept(0.4, 0.5) == []
    lost = ungraded(MIXED, dict.fromkeys(range(4), Outcome.GRADER_FAILED))
    assert select_groups([lost], needs_signal=False, accuracy_band=(0.0, 1.0)) == []


def test_equal_rewards_are_without_signal_though_lengths_differ() -> None:
    """As in DAPO: accuracy decides, the length penalty alone keeps no group."""
    assert with_signal([EASY]) == []


def test_groups_without_signal_that_are_kept_share_the_denominator() -> None:
    (alone,), (with_easy,) = make([MIXED]), make([MIXED, EASY])
    assert alone[0].token_weights[0] == pytest.approx(1 / 20)
    assert with_easy[0].token_weights[0] == pytest.approx(1 / 36)
    assert [s.advantage for s in with_easy[4:]] == [0.0] * 4


@pytest.mark.parametrize(
    ("num_groups", "num_updates", "sizes"),
    [(4, 2, [2, 2]), (5, 2, [3, 2]), (7, 3, [3, 2, 2]), (2, 4, [1, 1]), (3, 1, [3])],
)
def test_updates_take_consecutive_slices_of_prompts(num_groups: int, num_updates: int, sizes: list[int]) -> None:
    groups = [scored(str(i), [1, 0], [i + 1, 1]) for i in range(num_groups)]
    updates = make(groups, num_updates)
    assert [len(u) for u in updates] == [2 * n for n in sizes]
    assert [len(s.completion_ids) for u in updates for s in u] == [n for i in range(num_groups) for n in (i + 1, 1)]


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "prompt_mean"])
def test_weights_are_normalised_inside_every_update(reduction: str) -> None:
    groups = [scored(str(i), [1, 0], [i + 1, 2 * i + 1]) for i in range(5)]
    for update in make(groups, 2, reduction=reduction):
        assert sum(s.token_weights.sum() for s in update) == pytest.approx(1.0, rel=1e-6)


def test_advantages_come_from_the_whole_step_before_it_is_cut() -> None:
    groups = [MIXED, EASY, scored("d", [1, 0, 0, 0], [1, 2, 3, 4])]
    one, three = make(groups, 1, advantage="batch_normalized"), make(groups, 3, advantage="batch_normalized")
    assert [s.advantage for u in one for s in u] == [s.advantage for u in three for s in u]


def test_no_groups_make_no_updates() -> None:
    assert make([], 2) == []


def test_groups_of_different_sizes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="problem 'short'"):
        make([MIXED, scored("short", [1, 0], [1, 1])])


def test_a_reward_that_is_not_finite_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'nan' has a reward that is not finite"):
        make([scored("nan", [1, float("nan")], [1, 1])])


def test_a_cancelled_completion_is_refused() -> None:
    with pytest.raises(ValueError, match="cancelled"):
        make([scored("x", [1, 0], [1, 1], FinishReason.CANCELLED)])


def test_an_update_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        make([MIXED], 0)


def test_the_soft_penalty_has_the_published_shape() -> None:
    """DAPO: budget 16384 + 4096, nothing up to 16384, -1 at and beyond the end."""
    lengths = torch.tensor([[1, 16384, 16385, 18432, 20480, 30000]])
    penalty = soft_overlong_penalty(lengths, max_tokens=20480, soft_tokens=4096)
    assert penalty[0].tolist() == pytest.approx([0, 0, -1 / 4096, -0.5, -1, -1])


@pytest.mark.parametrize("soft_tokens", [0, -1, 11])
def test_a_soft_penalty_that_does_not_fit_the_budget_is_refused(soft_tokens: int) -> None:
    with pytest.raises(ValueError, match="soft_penalty_tokens"):
        soft_overlong_penalty(torch.ones(1, 1), max_tokens=10, soft_tokens=soft_tokens)


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.GRADER_FAILED, Outcome.BAD_REFERENCE])
def test_a_grading_without_a_verdict_is_no_wrong_answer(outcome: Outcome) -> None:
    """Right, wrong, wrong and one that crashed: the loss of the three, to the last bit."""
    broken = ungraded(scored("a", [1, 0, 0, 1], [3, 4, 5, 2]), {3: outcome})
    (samples,), (three,) = make([broken]), make([scored("a", [1, 0, 0], [3, 4, 5])])
    assert [s.advantage for s in samples] == [*(s.advantage for s in three), 0.0]
    assert [s.token_weights.tolist() for s in samples[:3]] == [s.token_weights.tolist() for s in three]
    assert samples[3].token_weights.tolist() == [0.0, 0.0]


def test_wrong_and_truncated_are_verdicts() -> None:
    group = ungraded(scored("a", [1, 1, 1, 1], [3, 4, 5, 2]), {1: Outcome.TRUNCATED, 2: Outcome.NO_ANSWER})
    (samples,) = make([group])
    assert [s.advantage > 0 for s in samples] == [True, False, False, True]
    assert all((s.token_weights > 0).all() for s in samples)


def test_a_crashed_grading_makes_no_signal_and_takes_none_away() -> None:
    """All right but one that crashed: nothing to learn. One right, one wrong, two crashed: something."""
    easy, mixed = ungraded(EASY, {2: Outcome.TIMEOUT}), ungraded(MIXED, {0: Outcome.TIMEOUT, 1: Outcome.GRADER_FAILED})
    lost = ungraded(MIXED, dict.fromkeys(range(4), Outcome.GRADER_FAILED))
    assert with_signal([easy, mixed, lost]) == [mixed]
    assert (easy.solved, mixed.solved, lost.solved) == (True, False, False)
    (samples,) = make([easy])
    assert [s.advantage for s in samples] == [0.0] * 4


def test_a_group_where_every_grading_crashed_leaves_every_denominator() -> None:
    lost = ungraded(MIXED, dict.fromkeys(range(4), Outcome.GRADER_FAILED))
    for reduction in ("token_mean", "sequence_mean", "prompt_mean"):
        (alone,), (with_lost,) = make([MIXED], reduction=reduction), make([MIXED, lost], reduction=reduction)
        assert [s.token_weights.tolist() for s in with_lost[:4]] == [s.token_weights.tolist() for s in alone]
