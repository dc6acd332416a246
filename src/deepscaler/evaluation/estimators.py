"""Pass@1 with its two uncertainties, and pass@k.

P problems, S samples per problem; a sample that is missing is NaN. Two standard errors are kept apart: over problems
("another set of problems like these") and over re-sampling ("these problems again"); Miller 2024, "Adding error bars to
evals", arXiv:2411.00640. Intervals: see intervals.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepscaler.evaluation.intervals import freedom_of_variance, score_interval
from deepscaler.observability.counts import counted

MIN_CLUSTERS = 10  # with fewer, the spread between them is not measurable


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean as a fraction of 1 with two 95% intervals in [0, 1].

    low, high: over problems, for another set of problems like these. low_resampling, high_resampling: these problems
    sampled again; NaN, as se_resampling, where every problem has one sample. num_samples: the fewest any problem has.
    num_clusters: sources of problems treated as one draw each; None where every problem is. floor: the effective
    sample size if all rates were 0 or 1.
    """

    mean: float
    low: float
    high: float
    se_problems: float
    se_resampling: float
    low_resampling: float
    high_resampling: float
    num_problems: int
    num_samples: int
    num_clusters: int | None
    degrees_of_freedom: float
    floor: float


def pass_at_k(num_samples: int, num_correct: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Unbiased pass@k per problem from c correct of n samples (Chen et al. 2021, arXiv:2107.03374, eq. 1).

    num_correct [P] -> float64 [P]. Raises ValueError unless 1 <= k <= n.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {counted(k, 'sample')} per problem, there are {num_samples}")
    wrong = num_samples - np.asarray(num_correct)
    # 1 - C(wrong, k) / C(n, k), as a product that neither overflows nor cancels.
    misses = np.arange(num_samples + 1, dtype=np.float64)
    fails = np.zeros(num_samples + 1)
    factors = 1.0 - k / misses[k + 1 :]  # entry j leads from j to j + 1 wrong samples, seen backwards
    fails[k:] = np.append(np.cumprod(factors[::-1])[::-1], 1.0)
    return 1.0 - fails[wrong]


def all_correct_at_k(num_samples: int, num_correct: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Unbiased chance that all of k samples are right, per problem: 1 - (chance that one of k is wrong)."""
    return 1.0 - pass_at_k(num_samples, num_samples - np.asarray(num_correct), k)


def estimate(rewards_PS: NDArray[np.float64], clusters_P: NDArray[np.int64] | None = None) -> Estimate:
    """Pass@1 of rewards in [0, 1], NaN where a sample is missing. clusters_P: numbers from 0, see `source_clusters`.

    Raises ValueError for no problems, no samples, or a problem without any.
    """
    rewards = np.asarray(rewards_PS, dtype=np.float64)
    if rewards.ndim != 2 or 0 in rewards.shape:
        raise ValueError(f"expected rewards [problems, samples], both at least 1, got shape {rewards.shape}")
    counts = np.isfinite(rewards).sum(axis=1)
    if not counts.all():
        raise ValueError(f"problem {int(np.argmin(counts))} has no sample; leave it out or sample it")
    per_problem = np.nanmean(rewards, axis=1)
    mean = float(per_problem.mean())
    se, freedom, floor = mean_error(per_problem, clusters_P)
    low, high = score_interval(mean, se, freedom, floor)
    se_again, freedom_again = _resampling_error(rewards, per_problem, counts)
    again = score_interval(mean, se_again, freedom_again, counts.sum()) if freedom_again else (math.nan, math.nan)
    return Estimate(
        mean=mean,
        low=float(low),
        high=float(high),
        se_problems=se,
        se_resampling=se_again,
        low_resampling=float(again[0]),
        high_resampling=float(again[1]),
        num_problems=len(per_problem),
        num_samples=int(counts.min()),
        num_clusters=None if clusters_P is None else len(np.unique(clusters_P)),
        degrees_of_freedom=freedom,
        floor=floor,
    )


def mean_error(
    values_P: NDArray[np.float64], clusters_P: NDArray[np.int64] | None = None
) -> tuple[float, float, float]:
    """(standard error of the mean, its degrees of freedom, effective number of independent values), by clusters.

    Cluster-robust: the clusters' summed deviations are the independent values. The last is n^2 / sum of squared cluster
    sizes, which is n without clusters. The error of a single value is infinite, with 0 degrees of freedom.
    """
    clusters = np.arange(len(values_P)) if clusters_P is None else clusters_P
    sums = np.bincount(clusters, weights=values_P - values_P.mean())
    sizes = np.bincount(clusters)
    n, groups = len(values_P), len(sizes)
    floor = n**2 / float((sizes.astype(np.float64) ** 2).sum())
    if groups == 1:
        return math.inf, 0.0, floor
    se = math.sqrt(groups / (groups - 1) * float((sums**2).sum())) / n
    # Rounding leaves 1e-17 where all values are the same; that is no spread.
    return (se if se > 1e-12 else 0.0), float(freedom_of_variance(sums)), floor


def _resampling_error(
    rewards: NDArray[np.float64], per_problem: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[float, float]:
    """Error of the mean over new samples of the same problems, and its degrees of freedom (Satterthwaite).

    Problems with one sample get the mean variance of the others; (NaN, 0) when all have one.
    """
    several = counts > 1
    if not several.any():
        return math.nan, 0.0
    squares = np.nansum((rewards - per_problem[:, None]) ** 2, axis=1)
    variances = np.divide(squares, counts - 1, out=np.zeros_like(squares), where=several)
    variances = np.where(several, variances, variances[several].mean()) / counts
    total = float(variances.sum())
    freedom = np.maximum(counts - 1, 1)
    spread = float((variances**2 / freedom).sum())
    return math.sqrt(total) / len(counts), total**2 / spread if spread else float(freedom.sum())


def source_clusters(sources: Sequence[str | None]) -> NDArray[np.int64] | None:
    """Cluster numbers of problems that share a source; None where sources say nothing about the error.

    That is: fewer than MIN_CLUSTERS clusters, or no source shared. A problem without source is its own cluster.
    """
    names = [f"source {s}" if s else f"problem {i}" for i, s in enumerate(sources)]
    distinct, numbers = np.unique(names, return_inverse=True)
    return numbers.astype(np.int64) if MIN_CLUSTERS <= len(distinct) < len(names) else None


def combine_sets(estimates: Sequence[Estimate]) -> Estimate:
    """The average over sets, each with the same weight however many problems it holds."""
    means = [e.mean for e in estimates]
    mean, se, freedom = combine(means, [e.se_problems for e in estimates], [e.degrees_of_freedom for e in estimates])
    floor = len(estimates) ** 2 / sum(1 / e.floor for e in estimates)
    low, high = score_interval(mean, se, freedom, floor)
    se_again = math.sqrt(sum(e.se_resampling**2 for e in estimates)) / len(estimates)
    samples = sum(1 / (e.num_problems * e.num_samples) for e in estimates)
    again = score_interval(mean, se_again, 1e6, len(estimates) ** 2 / samples)
    unknown = math.isnan(se_again)
    return Estimate(
        mean=mean,
        low=float(low),
        high=float(high),
        se_problems=se,
        se_resampling=se_again,
        low_resampling=math.nan if unknown else float(again[0]),
        high_resampling=math.nan if unknown else float(again[1]),
        num_problems=sum(e.num_problems for e in estimates),
        num_samples=min(e.num_samples for e in estimates),
        num_clusters=None,
        degrees_of_freedom=freedom,
        floor=floor,
    )


def combine(means: Sequence[float], errors: Sequence[float], freedoms: Sequence[float]) -> tuple[float, float, float]:
    """(mean, standard error, Welch-Satterthwaite degrees of freedom) of an average of independent parts."""
    if not means:
        raise ValueError("there are no sets to average")
    count = len(means)
    variances = [(e / count) ** 2 for e in errors]
    total = sum(variances)
    if total == 0 or not math.isfinite(total):
        return sum(means) / count, math.sqrt(total), min(freedoms)
    freedom = total**2 / sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    return sum(means) / count, math.sqrt(total), freedom
