"""Corrections for the difference between trainer and sampler: laws, bounds, and figures calculated by hand."""

from __future__ import annotations

import math

import pytest
import torch

from deepscaler.algorithms.importance import (
    icepop_weights,
    importance_weights,
    ratio_sums,
    sequence_mask,
    truncated_importance_weights,
)
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.types import TokenSums

# Ratios of completion 0, 2 and 1, in the order of a packed batch.
RATIOS = [1.0, 0.4, 4.0, 6.0, 1.001, 1.001, 0.9]
SEGMENTS = torch.tensor([0, 0, 0, 2, 1, 1, 1])
ROLLOUT = torch.tensor([-1.0, -0.5, -1.5, -3.0, -0.1, -2.0, -0.7])
OLD = ROLLOUT + torch.tensor([math.log(r) for r in RATIOS])
EVERY = [
    AlgorithmSection(importance_cap=2.0),
    AlgorithmSection(importance_mask="icepop"),
    AlgorithmSection(importance_mask="sequence"),
    AlgorithmSection(importance_cap=2.0, importance_mask="sequence"),
]


def weights(algorithm: AlgorithmSection, old: torch.Tensor = OLD) -> list[float]:
    found = importance_weights(old, ROLLOUT, SEGMENTS, algorithm)
    assert found is not None and not found.requires_grad
    return found.tolist()


def test_a_recipe_without_corrections_has_none() -> None:
    assert importance_weights(OLD, ROLLOUT, SEGMENTS, AlgorithmSection()) is None


@pytest.mark.parametrize("algorithm", EVERY)
def test_where_trainer_and_engine_agree_every_correction_is_exactly_one(algorithm: AlgorithmSection) -> None:
    assert weights(algorithm, ROLLOUT.clone().requires_grad_()) == [1.0] * len(RATIOS)


def test_truncated_weights_are_the_ratio_up_to_the_cap() -> None:
    expected = [min(ratio, 2.0) for ratio in RATIOS]
    assert weights(AlgorithmSection(importance_cap=2.0)) == pytest.approx(expected)
    far = truncated_importance_weights(torch.tensor([-0.1]), torch.tensor([-300.0]), cap=2.0)
    assert far.tolist() == pytest.approx([2.0])


def test_icepop_keeps_the_ratio_inside_its_bounds_and_drops_tokens_on_both_sides() -> None:
    algorithm = AlgorithmSection(importance_mask="icepop")  # 0.5 to 5
    assert weights(algorithm) == pytest.approx([1.0, 0.0, 4.0, 0.0, 1.001, 1.001, 0.9])
    wider = AlgorithmSection(importance_mask="icepop", importance_low=0.3, importance_high=7.0)
    assert weights(wider) == pytest.approx(RATIOS)
    far = icepop_weights(torch.tensor([-0.1, -300.0]), torch.tensor([-300.0, -0.1]), 0.5, 5.0)
    assert far.tolist() == [0.0, 0.0]


def test_the_sequence_mask_drops_whole_completions_by_the_geometric_mean_of_their_ratios() -> None:
    """1 * 0.4 * 4 = 1.6, cube root 1.17; 6; 1.001^2 * 0.9, cube root 0.966."""
    kept = {
        (0.9, 1.2): [1, 1, 1, 0, 1, 1, 1],
        (0.97, 1.2): [1, 1, 1, 0, 0, 0, 0],
        (0.9, 1.1): [0, 0, 0, 0, 1, 1, 1],
    }
    for (low, high), expected in kept.items():
        assert sequence_mask(OLD, ROLLOUT, SEGMENTS, low, high).tolist() == expected
    assert weights(AlgorithmSection(importance_mask="sequence")) == [0.0] * len(RATIOS)  # 0.999 to 1.002


def test_a_long_completion_with_the_same_small_mismatch_on_every_token_is_kept() -> None:
    """The product of the ratios would be 1.001^20000, beyond any bound."""
    rollout = torch.full((20_000,), -1.0, dtype=torch.float64)
    segments = torch.zeros(20_000, dtype=torch.int64)
    assert sequence_mask(rollout + math.log(1.001), rollout, segments, 0.999, 1.002).all()


def test_a_sequence_mask_beside_a_cap_is_their_product() -> None:
    algorithm = AlgorithmSection(
        importance_cap=2.0, importance_mask="sequence", importance_low=0.9, importance_high=1.2
    )
    assert weights(algorithm) == pytest.approx([1.0, 0.4, 2.0, 0.0, 1.001, 1.001, 0.9])


def test_masks_only_remove() -> None:
    ratios = torch.tensor(RATIOS)
    for mask in (icepop_weights(OLD, ROLLOUT, 0.5, 5.0) / ratios, sequence_mask(OLD, ROLLOUT, SEGMENTS, 0.9, 1.2)):
        assert all(value == pytest.approx(0) or value == pytest.approx(1) for value in mask.tolist())


def test_bounds_that_would_drop_tokens_on_which_both_agree_are_refused() -> None:
    zero = torch.zeros(1)
    with pytest.raises(ValueError, match="importance_cap"):
        truncated_importance_weights(zero, zero, cap=0.5)
    for low, high in ((1.1, 2.0), (0.5, 0.9), (0.0, 2.0)):
        with pytest.raises(ValueError, match=r"importance_low.*importance_high"):
            icepop_weights(zero, zero, low, high)
        with pytest.raises(ValueError, match=r"importance_low.*importance_high"):
            sequence_mask(zero, zero, zero.long(), low, high)


def effective(old: torch.Tensor, rollout: torch.Tensor) -> float | None:
    total, squares = ratio_sums(old, rollout)
    return TokenSums(num_tokens=len(old), ratio=total, ratio_squared=squares).effective_sample_size


def test_the_effective_sample_size_is_one_on_policy_and_falls_with_the_spread_of_the_ratios() -> None:
    assert effective(ROLLOUT, ROLLOUT) == 1.0
    squares = sum(r * r for r in RATIOS)
    assert effective(OLD, ROLLOUT) == pytest.approx(sum(RATIOS) ** 2 / (len(RATIOS) * squares), rel=1e-5)
    assert effective(ROLLOUT + math.log(3.0), ROLLOUT) == pytest.approx(1.0)  # weights that are all equal
    one_of_four = torch.tensor([0.0, -50.0, -50.0, -50.0])
    assert effective(one_of_four, torch.zeros(4)) == pytest.approx(0.25)
    assert effective(torch.empty(0), torch.empty(0)) is None


def test_sums_of_micro_batches_add_up_to_those_of_the_update() -> None:
    def sums(part: slice) -> TokenSums:
        total, squares = ratio_sums(OLD[part], ROLLOUT[part])
        return TokenSums(num_tokens=len(OLD[part]), ratio=total, ratio_squared=squares)

    parts = sums(slice(0, 3)) + sums(slice(3, None))
    assert parts.effective_sample_size == pytest.approx(sums(slice(None)).effective_sample_size)
