"""95% intervals hold the truth in 93-97% of simulated cases, for 30 and 500 problems and for skewed rates.

benchmarks/interval_coverage.py makes the whole table, also of cases where the rates are 0 or 1 only.
"""

from __future__ import annotations

import numpy as np
import pytest

from deepscaler.evaluation.estimators import combine_sets, estimate
from deepscaler.evaluation.intervals import freedom_of_variance, score_interval, t_interval, t_quantile, t_quantiles
from deepscaler.evaluation.paired import paired_difference

SAMPLES = 16
SKEWED = [(2.0, 2.0), (0.5, 0.5), (0.6, 1.4), (0.2, 0.8), (0.1, 0.9), (0.9, 0.1), (0.15, 2.85), (20.0, 1.0)]


def means_of_runs(rng: np.random.Generator, rates: np.ndarray) -> np.ndarray:
    return rng.binomial(SAMPLES, rates) / SAMPLES


def errors(values: np.ndarray) -> np.ndarray:
    return values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])


@pytest.mark.parametrize(("p", "freedom", "value"), [(0.975, 29, 2.04523), (0.975, 4, 2.77645), (0.95, 10, 1.81246)])
def test_quantiles_of_student_t(p: float, freedom: float, value: float) -> None:
    assert t_quantile(p, freedom) == pytest.approx(value, abs=1e-5)


def test_rounding_of_freedom_is_never_optimistic() -> None:
    freedom = np.array([3.04, 29.0, 99.97, 129.0, 4711.0, 1e9])
    exact = np.array([t_quantile(0.975, f) for f in freedom])
    rounded = t_quantiles(freedom)
    assert (rounded >= exact - 1e-9).all()
    assert rounded == pytest.approx(exact, rel=8e-3)
    assert t_quantiles(0.0) == np.inf


@pytest.mark.parametrize(("num_problems", "repetitions"), [(30, 8000), (500, 3000)])
@pytest.mark.parametrize(("a", "b"), SKEWED)
def test_intervals_over_problems_cover_the_truth(num_problems: int, repetitions: int, a: float, b: float) -> None:
    """New problems every time, 16 samples each; the noise of the rate is 0.25 to 0.4 points."""
    rng = np.random.default_rng(1)
    means = means_of_runs(rng, rng.beta(a, b, (repetitions, num_problems)))
    low, high = score_interval(means.mean(axis=1), errors(means), freedom_of_variance(means), num_problems)
    assert (low >= 0).all()
    assert (high <= 1).all()
    truth = a / (a + b)
    assert 0.93 <= np.mean((low <= truth) & (truth <= high)) <= 0.97


def test_what_is_simulated_is_what_estimate_computes() -> None:
    rng = np.random.default_rng(2)
    rewards = (rng.random((30, SAMPLES)) < rng.beta(0.5, 0.5, (30, 1))).astype(float)
    means = rewards.mean(axis=1)
    low, high = score_interval(means.mean(), errors(means), freedom_of_variance(means), 30)
    e = estimate(rewards)
    assert (e.low, e.high) == pytest.approx((float(low), float(high)))


@pytest.mark.parametrize(("a", "b"), [(2.0, 2.0), (0.5, 0.5), (0.2, 0.8), (0.9, 0.1)])
def test_intervals_over_sampling_again_cover_the_truth(a: float, b: float) -> None:
    """The same 30 problems every time: what is estimated is the mean of their own rates."""
    rng = np.random.default_rng(3)
    rates = rng.beta(a, b, 30)
    hits = 0
    for _ in range(1000):
        e = estimate((rng.random((30, SAMPLES)) < rates[:, None]).astype(float))
        hits += e.low_resampling <= rates.mean() <= e.high_resampling
    assert 0.93 <= hits / 1000 <= 0.97


@pytest.mark.parametrize(("a", "b"), [(2.0, 2.0), (0.3, 0.7), (0.1, 0.9), (0.15, 2.85), (20.0, 1.0)])
def test_intervals_of_differences_cover_the_truth(a: float, b: float) -> None:
    """Each problem's log-odds move by 1 on average, with deviation 1.5; 30 problems."""
    rng = np.random.default_rng(4)

    def improved(rates: np.ndarray) -> np.ndarray:
        inside = np.clip(rates, 1e-12, 1 - 1e-12)
        return 1 / (1 + (1 - inside) / inside * np.exp(-1 - 1.5 * rng.normal(size=rates.shape)))

    many = rng.beta(a, b, 2_000_000)
    truth = float((improved(many) - many).mean())
    before = rng.beta(a, b, (8000, 30))
    differences = means_of_runs(rng, improved(before)) - means_of_runs(rng, before)
    freedom = freedom_of_variance(differences)
    low, high = t_interval(differences.mean(axis=1), errors(differences), freedom, 30)
    assert 0.93 <= np.mean((low <= truth) & (truth <= high)) <= 0.97


def test_clusters_keep_the_coverage() -> None:
    """Twenty sources of one to nine problems, whose rates move together."""
    rng = np.random.default_rng(5)
    sizes = 1 + np.arange(20) % 9
    clusters = np.repeat(np.arange(20), sizes)
    hits = {"clustered": 0, "alone": 0}
    for _ in range(1000):
        logits = rng.normal(0, 1.5, 20)[clusters] + rng.normal(0, 0.7, len(clusters))
        rewards = (rng.random((len(clusters), 4)) < (1 / (1 + np.exp(-logits)))[:, None]).astype(float)
        for name, used in (("clustered", clusters), ("alone", None)):
            e = estimate(rewards, used)
            hits[name] += e.low <= 0.5 <= e.high
    assert 0.93 <= hits["clustered"] / 1000 <= 0.97
    assert hits["alone"] / 1000 < 0.85  # the fault that clustering repairs


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_wrong_or_all_right_is_no_proof(value: float) -> None:
    e = estimate(np.full((30, 16), value))
    assert (e.low, e.high) == pytest.approx((0.0, 0.122) if value == 0 else (0.878, 1.0), abs=1e-3)
    assert e.high_resampling - e.low_resampling == pytest.approx(4 / (30 * 16), rel=0.1)


def test_a_single_problem_leaves_everything_open() -> None:
    e = estimate(np.array([[1.0, 0.0]]))
    assert (e.low, e.high) == (0.0, 1.0)
    d = paired_difference(np.array([0.2]), np.array([0.9]))
    assert (d.low, d.high) == (-1.0, 1.0)


def test_the_average_over_sets_covers_the_truth() -> None:
    rng = np.random.default_rng(6)
    shapes, sizes = [(0.3, 0.7), (4.0, 1.0), (0.1, 0.9)], (30, 80, 40)
    truth = np.mean([a / (a + b) for a, b in shapes])
    hits = 0
    for _ in range(1000):
        sets = [means_of_runs(rng, rng.beta(*shape, size))[:, None] for shape, size in zip(shapes, sizes, strict=True)]
        e = combine_sets([estimate(s) for s in sets])
        hits += e.low <= truth <= e.high
    assert 0.93 <= hits / 1000 <= 0.97
