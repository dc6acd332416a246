"""Paired differences: exact p-values by enumeration, Holm by hand, and what a design can resolve by simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from deepscaler.evaluation.paired import (
    EXACT_UP_TO,
    combine_differences,
    holm,
    paired_difference,
    sign_flip_p_value,
    smallest_resolvable,
)


def p_by_enumeration(values: list[float]) -> float:
    observed = abs(sum(values))
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((-1, 1), repeat=len(values))
    ]
    return sum(s >= observed - 1e-12 for s in sums) / len(sums)


@pytest.mark.parametrize("seed", range(6))
def test_small_p_values_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(0.2, 0.4, rng.integers(1, 11)) * 16) / 16
    assert sign_flip_p_value(values, 0) == pytest.approx(p_by_enumeration(values.tolist()))


def test_random_sign_flips_agree_with_all_of_them() -> None:
    values = np.random.default_rng(7).normal(0.25, 0.5, EXACT_UP_TO + 2)
    assert sign_flip_p_value(values, 0) == pytest.approx(p_by_enumeration(values.tolist()), abs=0.015)


def test_problems_that_did_not_change_do_not_move_the_p_value() -> None:
    values = np.random.default_rng(8).normal(0.25, 0.5, 10)
    assert sign_flip_p_value(np.concatenate([values, np.zeros(500)]), 0) == sign_flip_p_value(values, 0)


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


def test_identical_sides_differ_by_nothing_but_do_not_prove_that_no_problem_would() -> None:
    few, many = (paired_difference(np.full(n, 0.5), np.full(n, 0.5)) for n in (5, 500))
    assert (few.mean, few.p_value, few.smallest_resolvable) == (0.0, 1.0, math.inf)
    assert few.low == -few.high
    assert many.high == pytest.approx(0.0074, abs=1e-4)  # 1 - 0.025^(1/500) of the problems may differ
    assert combine_differences([few, few]).p_value == 1.0


def test_sides_of_different_length_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="cannot pair"):
        paired_difference(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="no problems"):
        paired_difference(np.zeros(0), np.zeros(0))


def test_clusters_flip_together() -> None:
    """Twelve sources of four problems each, all moving as one: the p-value is that of twelve values."""
    by_source = np.random.default_rng(9).normal(0.1, 0.2, 12)
    before, after = np.zeros(48), np.repeat(by_source, 4)
    d = paired_difference(before, after, clusters_P=np.repeat(np.arange(12), 4))
    assert d.p_value == pytest.approx(p_by_enumeration(by_source.tolist()))
    assert d.se == pytest.approx(by_source.std(ddof=1) / math.sqrt(12))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_a_false_finding() -> None:
    rng = np.random.default_rng(10)
    found = sum(min(holm(rng.random(5).tolist())) < 0.05 for _ in range(4000))
    assert 0.035 <= found / 4000 <= 0.065


def test_a_difference_of_the_smallest_resolvable_size_is_found_in_four_of_five_cases() -> None:
    rng = np.random.default_rng(11)
    effect = smallest_resolvable(0.2 / math.sqrt(40), 39)
    found = 0
    for _ in range(2000):
        values = rng.normal(effect, 0.2, 40)
        t = values.mean() / (values.std(ddof=1) / math.sqrt(40))
        found += abs(t) > 2.0227  # the 97.5% quantile of t with 39 degrees of freedom
    assert 0.77 <= found / 2000 <= 0.83


def test_the_interval_of_the_average_follows_all_its_sets_not_the_smallest() -> None:
    """Nothing differs in the five benchmarks: 11.6 points follow at 30 problems alone, 0.8 for the average."""
    sizes = (30, 83, 500, 272, 675)
    same = [paired_difference(np.zeros(n), np.zeros(n)) for n in sizes]
    average = combine_differences(same)
    worth = 25 / sum(1 / n for n in sizes)
    assert same[0].high == pytest.approx(1 - 0.025 ** (1 / 30)) == pytest.approx(0.116, abs=5e-4)
    assert average.high == -average.low == pytest.approx(1 - 0.025 ** (1 / worth)) == pytest.approx(0.008, abs=5e-4)
    assert combine_differences(same[:1]).high == same[0].high
