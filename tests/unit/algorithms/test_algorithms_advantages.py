"""Advantages against plain-Python arithmetic in float64, and the cases where rounding would go wrong."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest
import torch

from deepscaler.algorithms.advantages import ADVANTAGES, all_equal
from deepscaler.config.sections.algorithm import ADVANTAGE_NAMES

REWARDS = [[1.0, 0.0, 0.0, 0.5], [1.0, 1.0, 0.0, 1.0], [0.25, -0.5, 0.75, 0.1], [1.0, 1.0, 1.0, 1.0]]


def group_normalized(rewards: list[list[float]]) -> list[list[float]]:
    return [[(r - statistics.mean(g)) / (statistics.stdev(g) + 1e-6) for r in g] for g in rewards]


def mean_baseline(rewards: list[list[float]]) -> list[list[float]]:
    return [[r - statistics.mean(g) for r in g] for g in rewards]


def leave_one_out(rewards: list[list[float]]) -> list[list[float]]:
    return [[r - statistics.mean(g[:i] + g[i + 1 :]) for i, r in enumerate(g)] for g in rewards]


def batch_normalized(rewards: list[list[float]]) -> list[list[float]]:
    centred = mean_baseline(rewards)
    std = statistics.stdev([a for g in centred for a in g])
    return [[a / (std + 1e-6) for a in g] for g in centred]


@pytest.mark.parametrize("reference", [group_normalized, mean_baseline, leave_one_out, batch_normalized])
def test_advantages_equal_the_plain_python_formula(
    reference: Callable[[list[list[float]]], list[list[float]]],
) -> None:
    got = ADVANTAGES[reference.__name__](torch.tensor(REWARDS, dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor(reference(REWARDS), dtype=torch.float64))


def test_every_advantage_of_a_recipe_exists_and_nothing_else() -> None:
    assert set(ADVANTAGES) == set(ADVANTAGE_NAMES)


def test_one_right_of_eight_is_the_published_number() -> None:
    rewards = torch.tensor([[1.0] + [0.0] * 7], dtype=torch.float64)
    advantages = ADVANTAGES["group_normalized"](rewards)
    assert advantages[0, 0].item() == pytest.approx((7 / 8) / (math.sqrt(1 / 8) + 1e-6), rel=1e-12)


@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_whose_mean_rounds_give_exactly_zero(name: str, dtype: torch.dtype) -> None:
    reward = torch.tensor(0.1, dtype=dtype)
    sizes = [g for g in range(2, 65) if reward.expand(g).mean() != reward]
    assert sizes, "no group size at which the mean of equal rewards is off by rounding"
    for size in sizes:
        rewards = torch.stack([reward.expand(size), torch.arange(size, dtype=dtype)])
        advantages = ADVANTAGES[name](rewards)
        assert (advantages[0] == 0).all()
        assert advantages.dtype == dtype


def test_all_equal_tells_groups_without_signal() -> None:
    assert all_equal(torch.tensor([[0.1, 0.1], [0.1, 0.2], [0.0, 0.0]])).tolist() == [True, False, True]


@pytest.mark.parametrize("name", ["group_normalized", "leave_one_out"])
def test_a_group_of_one_is_refused_with_the_setting_to_change(name: str) -> None:
    with pytest.raises(ValueError, match=r"rollout\.group_size"):
        ADVANTAGES[name](torch.ones(3, 1))


def test_a_batch_of_one_reward_has_no_scale() -> None:
    with pytest.raises(ValueError, match="at least 2 rewards"):
        ADVANTAGES["batch_normalized"](torch.ones(1, 1))


@pytest.mark.parametrize("name", ADVANTAGES)
def test_completions_without_a_verdict_change_no_other_advantage(name: str) -> None:
    """As if the gradings that crashed had never been asked for, whatever number stands in their place."""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 7.0], [-3.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    graded = torch.tensor([[True, True, True, False], [False, True, True, True]])
    without = torch.stack([rewards[0, :3], rewards[1, 1:]])
    advantages = ADVANTAGES[name](rewards, graded)
    torch.testing.assert_close(torch.stack([advantages[0, :3], advantages[1, 1:]]), ADVANTAGES[name](without, None))
    assert advantages[0, 3] == advantages[1, 0] == 0


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_group_with_one_verdict_or_none_has_nothing_to_compare(name: str) -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    graded = torch.tensor([[True, False, False], [False, False, False], [True, True, True]])
    advantages = ADVANTAGES[name](rewards, graded)
    assert (advantages[:2] == 0).all()
    assert (advantages[2] != 0).all()


def test_all_equal_looks_at_graded_rewards_only() -> None:
    rewards = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    graded = torch.tensor([[True, True, False], [True, True, False], [False, False, False]])
    assert all_equal(rewards, graded).tolist() == [True, False, True]
