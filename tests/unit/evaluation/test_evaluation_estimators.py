"""Estimates against brute force and by hand; their intervals stand in test_evaluation_intervals.py."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscaler.evaluation.estimators import all_correct_at_k, combine_sets, estimate, pass_at_k, source_clusters


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_all_draws_with_a_hit(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    outcomes = [1] * correct + [0] * (n - correct)
    draws = list(combinations(outcomes, k))
    number = np.array([correct])
    assert pass_at_k(n, number, k)[0] == pytest.approx(sum(any(d) for d in draws) / len(draws), abs=1e-12)
    assert all_correct_at_k(n, number, k)[0] == pytest.approx(sum(all(d) for d in draws) / len(draws), abs=1e-12)


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
    assert (e.num_problems, e.num_samples, e.num_clusters, e.floor) == (3, 2, None, 3)
    assert all(0 <= low < 0.5 < high <= 1 for low, high in ((e.low, e.high), (e.low_resampling, e.high_resampling)))


def test_problems_with_fewer_samples_weigh_the_same() -> None:
    whole = np.array([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    partly = np.array([[1.0, 0.0, np.nan, np.nan], [1.0, 1.0, 1.0, 1.0]])
    assert estimate(partly).mean == estimate(whole).mean == 0.75
    assert estimate(partly).num_samples == 2
    assert estimate(partly).se_resampling == pytest.approx(math.sqrt(0.5 / 2) / 2)


def test_one_sample_per_problem_says_nothing_about_sampling_again() -> None:
    e = estimate(np.array([[1.0], [0.0]]))
    assert all(map(math.isnan, (e.se_resampling, e.low_resampling, e.high_resampling)))
    assert math.isnan(combine_sets([e, e]).se_resampling)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_to_estimate_is_an_error(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        estimate(np.zeros(shape))
    with pytest.raises(ValueError, match="problem 1 has no sample"):
        estimate(np.array([[1.0], [np.nan]]))


def test_problems_of_one_source_count_as_one_draw() -> None:
    """Ten sources of five problems that are all right or all wrong: the error is that of ten values."""
    by_source = np.array([1.0, 0.0] * 5)
    e = estimate(np.repeat(by_source, 5)[:, None], np.repeat(np.arange(10), 5))
    alone = estimate(by_source[:, None])
    assert (e.se_problems, e.low, e.high) == pytest.approx((alone.se_problems, alone.low, alone.high))
    assert (e.num_clusters, e.floor) == (10, 10)


def test_sources_are_clusters_only_where_they_can_tell_something() -> None:
    many = [f"s{i // 2}" for i in range(20)]
    clusters = source_clusters(many)
    assert clusters is not None
    assert len(set(clusters.tolist())) == 10
    assert source_clusters(["I", "II"] * 15) is None  # two papers: no spread can be measured
    assert source_clusters([f"s{i}" for i in range(20)]) is None  # nothing shared
    assert source_clusters([None] * 20) is None
    mixed = source_clusters([*many, None, None])
    assert mixed is not None
    assert len(set(mixed.tolist())) == 12  # a problem without source is on its own


def test_the_resampling_error_is_the_spread_of_repeated_runs() -> None:
    rng = np.random.default_rng(2)
    rates = rng.beta(0.7, 0.7, 40)
    runs = [(rng.random((40, 16)) < rates[:, None]).astype(float) for _ in range(1500)]
    spread = np.std([r.mean() for r in runs], ddof=1)
    assert np.mean([estimate(r).se_resampling for r in runs[:300]]) == pytest.approx(spread, rel=0.06)


def test_the_average_weighs_sets_equally() -> None:
    small, large = estimate(np.array([[1.0], [0.0]])), estimate(np.zeros((50, 1)))
    combined = combine_sets([small, large])
    assert combined.mean == pytest.approx(0.25)
    assert combined.se_problems == pytest.approx(small.se_problems / 2)
    assert combined.num_problems == 52
    with pytest.raises(ValueError, match="no sets"):
        combine_sets([])


def test_the_average_of_one_set_is_that_set() -> None:
    e = estimate((np.random.default_rng(3).random((30, 4)) < 0.3).astype(float))
    assert (combine_sets([e]).low, combine_sets([e]).high) == pytest.approx((e.low, e.high))
