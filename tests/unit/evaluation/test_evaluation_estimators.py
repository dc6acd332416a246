"""Estimates against brute force, intervals against simulation, paired tests against what they must find."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscaler.evaluation.estimators import (
    combine_differences,
    combine_sets,
    estimate,
    paired_difference,
    pass_at_k,
    t_quantile,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_all_draws_with_a_hit(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    outcomes = [1] * correct + [0] * (n - correct)
    draws = list(combinations(outcomes, k))
    expected = sum(any(draw) for draw in draws) / len(draws)
    assert pass_at_k(n, np.array([correct]), k)[0] == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_neither_overflows_nor_takes_more_samples_than_there_are() -> None:
    assert 0 < pass_at_k(100_000, np.array([1]), 50_000)[0] < 1
    for k in (0, 17):
        with pytest.raises(ValueError, match="needs at least"):
            pass_at_k(16, np.array([3]), k)


def test_mean_and_both_standard_errors_by_hand() -> None:
    rewards = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    e = estimate(rewards)
    assert e.mean == pytest.approx(0.5)
    assert e.se_problems == pytest.approx(0.5 / np.sqrt(3))  # sample deviation of (1, 1/2, 0)
    assert e.se_resampling == pytest.approx(0.5 / 3)  # only the middle one varies: sqrt(1/2 / 2) / 3
    assert (e.low, e.high) == (0.0, 1.0)
    assert (e.num_problems, e.num_samples, e.degrees_of_freedom) == (3, 2, 2)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_to_estimate_is_an_error(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        estimate(np.zeros(shape))


@pytest.mark.parametrize(("p", "freedom", "value"), [(0.975, 29, 2.04523), (0.975, 4, 2.77645), (0.95, 10, 1.81246)])
def test_quantiles_of_student_t(p: float, freedom: float, value: float) -> None:
    assert t_quantile(p, freedom) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("num_problems", [30, 500])
@pytest.mark.parametrize(("a", "b"), [(2.0, 2.0), (0.5, 0.5), (0.6, 1.4)])
def test_intervals_cover_the_truth_as_often_as_they_say(num_problems: int, a: float, b: float) -> None:
    """New problems every time, 16 samples each; 2000 repetitions put the noise of the rate at 0.5 points."""
    rng = np.random.default_rng(1)
    repetitions, hits = 2000, 0
    for _ in range(repetitions):
        rates = rng.beta(a, b, num_problems)
        rewards = (rng.random((num_problems, 16)) < rates[:, None]).astype(float)
        e = estimate(rewards)
        hits += e.low <= a / (a + b) <= e.high
    assert 0.93 <= hits / repetitions <= 0.97


def test_the_resampling_error_is_the_spread_of_repeated_runs() -> None:
    rng = np.random.default_rng(2)
    rates = rng.beta(0.7, 0.7, 40)
    runs = [(rng.random((40, 16)) < rates[:, None]).astype(float) for _ in range(1500)]
    spread = np.std([r.mean() for r in runs], ddof=1)
    assert np.mean([estimate(r).se_resampling for r in runs]) == pytest.approx(spread, rel=0.06)


def test_the_average_weighs_sets_equally() -> None:
    small, large = estimate(np.array([[1.0], [0.0]])), estimate(np.zeros((50, 1)))
    combined = combine_sets([small, large])
    assert combined.mean == pytest.approx(0.25)
    assert combined.se_problems == pytest.approx(small.se_problems / 2)
    assert combined.num_problems == 52
    with pytest.raises(ValueError, match="no sets"):
        combine_sets([])


def test_pairing_by_problem_is_sharper_than_comparing_means() -> None:
    rng = np.random.default_rng(3)
    before = rng.random(60)
    after = before + 0.05 + rng.normal(0, 0.03, 60)
    d = paired_difference(before, after)
    assert d.low < 0.05 < d.high
    assert d.high - d.low < 0.03
    assert d.p_value < 0.001


def test_without_a_difference_small_p_values_are_as_rare_as_they_should_be() -> None:
    rng = np.random.default_rng(4)
    p_values = [paired_difference(rng.random(12), rng.random(12), seed=i).p_value for i in range(300)]
    share = np.mean(np.array(p_values) < 0.05)
    assert 0.02 <= share <= 0.085


def test_swapping_the_sides_flips_the_sign_only() -> None:
    rng = np.random.default_rng(5)
    before, after = rng.random(20), rng.random(20)
    d, e = paired_difference(before, after), paired_difference(after, before)
    assert (d.mean, d.low, d.high, d.p_value) == (-e.mean, -e.high, -e.low, e.p_value)


def test_identical_sides_differ_by_exactly_nothing() -> None:
    d = paired_difference(np.full(5, 0.5), np.full(5, 0.5))
    assert (d.mean, d.low, d.high, d.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert combine_differences([d, d]).p_value == 1.0


def test_sides_of_different_length_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="cannot pair"):
        paired_difference(np.zeros(3), np.zeros(4))
