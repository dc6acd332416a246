"""Differences of two evaluations of the same problems, paired by problem."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepscaler.evaluation.estimators import combine, mean_error
from deepscaler.evaluation.intervals import CONFIDENCE, t_interval, t_quantile, two_sided_p
from deepscaler.randomness import generator

NUM_PERMUTATIONS = 10_000
EXACT_UP_TO = 14  # values that are not 0: all 2^14 sign assignments are cheaper than 10,000 random ones
PERMUTATIONS_AT_ONCE = 2_000
POWER = 0.8


@dataclass(frozen=True, slots=True)
class Difference:
    """after - before, paired by problem, as a fraction of 1, with its 95% interval in [-1, 1] and two-sided p-value.

    smallest_resolvable: the difference that this design would have found at the 5% level with 80% probability; infinite
    where the data show no spread to judge by. floor: the number of independent values that the mean is worth, which
    carries the interval where no problem differs.
    """

    mean: float
    low: float
    high: float
    se: float
    p_value: float
    num_problems: int
    degrees_of_freedom: float
    smallest_resolvable: float
    floor: float


def paired_difference(
    before_P: NDArray[np.float64],
    after_P: NDArray[np.float64],
    *,
    clusters_P: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Difference:
    """Difference of per-problem means; the p-value is a sign-flip permutation test, by cluster where there are any.

    Raises ValueError when the two do not hold the same number of problems.
    """
    if before_P.shape != after_P.shape or before_P.ndim != 1:
        raise ValueError(f"cannot pair {before_P.shape} with {after_P.shape} per-problem means")
    if not len(before_P):
        raise ValueError("there are no problems to compare")
    differences = after_P - before_P
    mean = float(differences.mean())
    se, freedom, floor = mean_error(differences, clusters_P)
    low, high = t_interval(mean, se, freedom, floor)
    flipped = differences if clusters_P is None else np.bincount(clusters_P, weights=differences).astype(np.float64)
    return Difference(
        mean=mean,
        low=float(low),
        high=float(high),
        se=se,
        p_value=sign_flip_p_value(flipped, seed),
        num_problems=len(differences),
        degrees_of_freedom=freedom,
        smallest_resolvable=smallest_resolvable(se, freedom),
        floor=floor,
    )


def combine_differences(differences: Sequence[Difference]) -> Difference:
    """The average difference over sets, each with the same weight; its p-value comes from its t statistic."""
    mean, se, freedom = combine(
        [d.mean for d in differences], [d.se for d in differences], [d.degrees_of_freedom for d in differences]
    )
    floor = len(differences) ** 2 / sum(1 / d.floor for d in differences)  # as of `estimators.combine_sets`
    low, high = t_interval(mean, se, freedom, floor)
    certain = se == 0 and mean != 0
    p_value = two_sided_p(mean / se, freedom) if 0 < se < math.inf else float(not certain)
    count = sum(d.num_problems for d in differences)
    resolves = smallest_resolvable(se, freedom)
    return Difference(mean, float(low), float(high), se, p_value, count, freedom, resolves, floor)


def smallest_resolvable(se: float, freedom: float) -> float:
    """(t_0.975 + t_0.8) standard errors: the true difference that a two-sided 5% test finds in 80% of cases."""
    if freedom <= 0 or not 0 < se < math.inf:
        return math.inf
    return (t_quantile(0.5 + CONFIDENCE / 2, freedom) + t_quantile(POWER, freedom)) * se


def sign_flip_p_value(differences: NDArray[np.float64], seed: int) -> float:
    """Share of sign assignments whose sum is at least as far from 0 as the one observed.

    All assignments are counted for up to EXACT_UP_TO values other than 0 (a 0 changes nothing); else NUM_PERMUTATIONS
    random ones, with a fixed seed and the observed one counted in, so that p is never below 1 / 10,001.
    """
    moving = differences[np.abs(differences) > 1e-12]
    if not len(moving):
        return 1.0
    observed = abs(float(moving.sum())) - 1e-12
    if len(moving) <= EXACT_UP_TO:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(moving))))
        return float(np.mean(np.abs(signs @ moving) >= observed))
    draws, hits = generator("sign-flip", seed), 0
    for start in range(0, NUM_PERMUTATIONS, PERMUTATIONS_AT_ONCE):
        size = (min(PERMUTATIONS_AT_ONCE, NUM_PERMUTATIONS - start), len(moving))
        signs = draws.integers(0, 2, size=size, dtype=np.int8) * 2.0 - 1.0
        hits += int(np.sum(np.abs(signs @ moving) >= observed))
    return (hits + 1) / (NUM_PERMUTATIONS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979): the chance of one false finding among all stays below each, in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
