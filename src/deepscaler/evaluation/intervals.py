"""95% intervals for means of few, bounded, skewed values. Every function works along the last axis of its arrays.

Benchmarks have as few as 30 problems, with rates that pile up at 0 and 1. Student's t over problems then covers the
truth in 87-92% of cases, not 95%, and leaves [0, 1]. Two corrections repair that (docs/evaluation.md has the table,
benchmarks/interval_coverage.py makes it):

- Wilson's score interval (1927) at the effective sample size n_eff = m(1 - m) / se^2, as in survey sampling: the
  variance follows the candidate mean towards the border, and the interval stays within [0, 1].
- Degrees of freedom that suit the spread of the variance estimate (Satterthwaite 1946), from the sample's own
  kurtosis: a mean that hangs on few problems gets a wider interval.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import mpmath
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
MIN_FREEDOM = 3.0  # kurtosis of a small sample is too rough to go below


def freedom_of_variance(values: ArrayLike) -> Floats:
    """Degrees of freedom of the sample variance of values [..., n], between MIN_FREEDOM and n - 1.

    Var(s^2) is about sigma^4 (excess kurtosis / n + 2 / (n - 1)); a chi-squared variable with f degrees of freedom has
    relative variance 2 / f. 0 for n = 1.
    """
    x = np.asarray(values, dtype=np.float64)
    n = x.shape[-1]
    if n == 1:
        return np.zeros(x.shape[:-1])
    deviations = x - x.mean(axis=-1, keepdims=True)
    second = (deviations**2).mean(axis=-1)
    fourth = (deviations**4).mean(axis=-1)
    spread = second > 1e-12
    kurtosis = np.divide(fourth, second**2, out=np.full_like(second, 3.0), where=spread) - 3.0
    freedom = 2.0 / np.maximum(kurtosis / n + 2.0 / (n - 1), 1e-9)
    return np.clip(freedom, min(MIN_FREEDOM, n - 1), n - 1)


def score_interval(mean: ArrayLike, se: ArrayLike, freedom: ArrayLike, floor: ArrayLike) -> tuple[Floats, Floats]:
    """Ends of the interval of a mean in [0, 1]; they never leave it.

    floor: the effective sample size when the values are all 0 or 1, the most extreme they can be; n for n independent
    ones. It carries the interval where the sample shows no spread at all. freedom 0: nothing is known, (0, 1).
    """
    m, error, least = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (mean, se, floor)))
    bernoulli = m * (1.0 - m)
    effective = np.divide(bernoulli, error**2, out=np.full(m.shape, np.inf), where=error > 0)
    effective = np.where((error > 0) & (bernoulli > 0), np.maximum(effective, least), least)
    t = t_quantiles(freedom)
    known = np.isfinite(t) & np.isfinite(error)
    ratio = np.where(known, t, 0.0) ** 2 / effective
    centre = (m + ratio / 2) / (1 + ratio)
    half = np.sqrt(ratio * (bernoulli + ratio / 4)) / (1 + ratio)
    low, high = np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)
    return np.where(known, low, 0.0), np.where(known, high, 1.0)


def t_interval(mean: ArrayLike, se: ArrayLike, freedom: ArrayLike, num_values: float) -> tuple[Floats, Floats]:
    """Ends of the interval of a mean of values in [-1, 1], clipped to it.

    Where all values agree (se 0) the data only bound the share r of others, (1 - r)^n = 2.5%; the interval holds every
    mean that such a share allows.
    """
    m, error = np.broadcast_arrays(np.asarray(mean, dtype=np.float64), np.asarray(se, dtype=np.float64))
    t = t_quantiles(freedom)
    known = np.isfinite(t) & np.isfinite(error)
    half = np.where(known, t, 0.0) * np.where(known, error, 0.0)
    others = 1.0 - ((1 - CONFIDENCE) / 2) ** (1.0 / num_values)
    agree = known & (error == 0)
    low = np.where(agree, m - others * (1 + m), m - half)
    high = np.where(agree, m + others * (1 - m), m + half)
    return np.where(known, np.maximum(low, -1.0), -1.0), np.where(known, np.minimum(high, 1.0), 1.0)


def t_quantiles(freedom: ArrayLike) -> Floats:
    """The two-sided 95% quantile for every entry; infinite for 0.

    Freedom is rounded down, to a tenth or above 100 to two digits, so that few quantiles are ever computed.
    """
    exact = np.minimum(np.asarray(freedom, dtype=np.float64), 1e6)
    step = np.where(exact < 100, 0.1, 10.0 ** (np.floor(np.log10(np.maximum(exact, 1.0))) - 1))
    rounded = np.floor(exact / step + 1e-6) * step
    distinct, place = np.unique(np.round(rounded, 1), return_inverse=True)
    quantiles = [t_quantile(0.5 + CONFIDENCE / 2, f) if f > 0 else math.inf for f in distinct.tolist()]
    return np.array(quantiles)[place].reshape(exact.shape)


@lru_cache(maxsize=4096)
def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t for probability > 0.5 by Newton's method on its distribution function."""
    z = NormalDist().inv_cdf(probability)
    t = z + (z**3 + z) / (4 * freedom)  # first terms of the Cornish-Fisher series
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    for _ in range(60):
        density = math.exp(log_scale - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (1 - two_sided_p(t, freedom) / 2 - probability) / density
        t = max(t - step, t / 2)
        if abs(step) < 1e-10 * t:
            break
    return t


def two_sided_p(t: float, freedom: float) -> float:
    """P(|T| >= |t|) through the regularised incomplete beta function."""
    x = freedom / (freedom + t * t)
    return float(mpmath.betainc(freedom / 2, 0.5, 0, x, regularized=True))
