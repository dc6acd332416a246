"""Pass@k, its two uncertainties, intervals, and paired differences.

P problems, S samples per problem. Two standard errors are kept apart: over problems ("another set of problems like
these") and over re-sampling ("these problems again"). Intervals are Student t over problems, because benchmarks hold
as few as 30 of them (Miller 2024, "Adding error bars to evals", arXiv:2411.00640).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import mpmath
import numpy as np
from numpy.typing import NDArray

from deepscaler.randomness import generator

CONFIDENCE = 0.95
NUM_PERMUTATIONS = 10_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean as a fraction of 1 with its 95% interval over problems, clipped to [0, 1]."""

    mean: float
    low: float
    high: float
    se_problems: float
    se_resampling: float
    num_problems: int
    num_samples: int
    degrees_of_freedom: float


@dataclass(frozen=True, slots=True)
class Difference:
    """after - before, paired by problem, as a fraction of 1, with its 95% interval and two-sided p-value."""

    mean: float
    low: float
    high: float
    se: float
    p_value: float
    num_problems: int
    degrees_of_freedom: float


def pass_at_k(num_samples: int, num_correct: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Unbiased pass@k per problem from c correct of n samples (Chen et al. 2021, arXiv:2107.03374, eq. 1).

    num_correct [P] -> float64 [P]. Raises ValueError unless 1 <= k <= n.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {k} samples per problem, there are {num_samples}")
    wrong = num_samples - np.asarray(num_correct)
    # 1 - C(wrong, k) / C(n, k), as a product that neither overflows nor cancels.
    result = np.ones(len(wrong))
    for i, misses in enumerate(wrong):
        if misses >= k:
            factors = 1.0 - k / np.arange(misses + 1, num_samples + 1, dtype=np.float64)
            result[i] = 1.0 - float(np.prod(factors))
    return result


def estimate(rewards_PS: NDArray[np.float64]) -> Estimate:
    """Pass@1 of rewards in [0, 1]. Raises ValueError for no problems or no samples."""
    rewards = np.asarray(rewards_PS, dtype=np.float64)
    if rewards.ndim != 2 or 0 in rewards.shape:
        raise ValueError(f"expected rewards [problems, samples], both at least 1, got shape {rewards.shape}")
    num_problems, num_samples = rewards.shape
    per_problem = rewards.mean(axis=1)
    mean = float(per_problem.mean())
    se = _standard_error(per_problem)
    within = rewards.var(axis=1, ddof=1) / num_samples if num_samples > 1 else np.full(num_problems, np.nan)
    low, high = _interval(mean, se, num_problems - 1)
    return Estimate(
        mean=mean,
        low=max(0.0, low),
        high=min(1.0, high),
        se_problems=se,
        se_resampling=float(np.sqrt(within.sum()) / num_problems) if num_samples > 1 else 0.0,
        num_problems=num_problems,
        num_samples=num_samples,
        degrees_of_freedom=num_problems - 1,
    )


def combine_sets(estimates: Sequence[Estimate]) -> Estimate:
    """The average over sets, each with the same weight however many problems it holds."""
    mean, se, freedom = _combine([e.mean for e in estimates], [e.se_problems for e in estimates], estimates)
    low, high = _interval(mean, se, freedom)
    return Estimate(
        mean=mean,
        low=max(0.0, low),
        high=min(1.0, high),
        se_problems=se,
        se_resampling=math.sqrt(sum(e.se_resampling**2 for e in estimates)) / len(estimates),
        num_problems=sum(e.num_problems for e in estimates),
        num_samples=min(e.num_samples for e in estimates),
        degrees_of_freedom=freedom,
    )


def paired_difference(before_P: NDArray[np.float64], after_P: NDArray[np.float64], *, seed: int = 0) -> Difference:
    """Difference of per-problem means; the p-value is a sign-flip permutation test with a fixed seed.

    Raises ValueError when the two do not hold the same number of problems.
    """
    if before_P.shape != after_P.shape or before_P.ndim != 1:
        raise ValueError(f"cannot pair {before_P.shape} with {after_P.shape} per-problem means")
    differences = after_P - before_P
    mean, se = float(differences.mean()), _standard_error(differences)
    low, high = _interval(mean, se, len(differences) - 1)
    return Difference(
        mean, low, high, se, _sign_flip_p_value(differences, seed), len(differences), len(differences) - 1
    )


def combine_differences(differences: Sequence[Difference]) -> Difference:
    """The average difference over sets of equal weight; its p-value comes from its t statistic."""
    mean, se, freedom = _combine([d.mean for d in differences], [d.se for d in differences], differences)
    low, high = _interval(mean, se, freedom)
    p_value = 1.0 if se == 0 and mean == 0 else 0.0 if se == 0 else _two_sided_p(mean / se, freedom)
    return Difference(mean, low, high, se, p_value, sum(d.num_problems for d in differences), freedom)


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf


def _combine(
    means: Sequence[float], errors: Sequence[float], parts: Sequence[Estimate] | Sequence[Difference]
) -> tuple[float, float, float]:
    """(mean, standard error, Welch-Satterthwaite degrees of freedom) of an average of independent parts."""
    if not parts:
        raise ValueError("there are no sets to average")
    count = len(parts)
    variances = [(e / count) ** 2 for e in errors]
    total = sum(variances)
    if total == 0 or not math.isfinite(total):
        return sum(means) / count, math.sqrt(total), min(p.degrees_of_freedom for p in parts)
    freedom = total**2 / sum(v**2 / p.degrees_of_freedom for v, p in zip(variances, parts, strict=True))
    return sum(means) / count, math.sqrt(total), freedom


def _interval(mean: float, se: float, freedom: float) -> tuple[float, float]:
    if se == 0.0:
        return mean, mean
    if freedom <= 0 or not math.isfinite(se):
        return -math.inf, math.inf
    half = t_quantile(0.5 + CONFIDENCE / 2, freedom) * se
    return mean - half, mean + half


@lru_cache(maxsize=1024)
def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t for probability > 0.5, by bisection of its distribution function."""
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        if 1 - _two_sided_p(middle, freedom) / 2 < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _two_sided_p(t: float, freedom: float) -> float:
    """P(|T| >= |t|) through the regularised incomplete beta function."""
    x = freedom / (freedom + t * t)
    return float(mpmath.betainc(freedom / 2, 0.5, 0, x, regularized=True))


def _sign_flip_p_value(differences: NDArray[np.float64], seed: int) -> float:
    """Share of random sign assignments with a mean at least as far from 0, the observed one counted in."""
    observed = abs(differences.sum())
    signs = generator("sign-flip", seed).integers(0, 2, size=(NUM_PERMUTATIONS, len(differences))) * 2 - 1
    sums = np.abs(signs @ differences)
    return float((np.sum(sums >= observed - 1e-12) + 1) / (NUM_PERMUTATIONS + 1))
