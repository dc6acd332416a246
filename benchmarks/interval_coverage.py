"""How often 95% intervals hold the truth: simulates benchmarks and writes the tables into docs/evaluation.md.

    python benchmarks/interval_coverage.py [--repetitions 10000] [--check]

Every repetition draws new problems from a distribution of rates, then 16 completions of each. `--check` only prints.
About a minute on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deepscaler.evaluation.intervals import freedom_of_variance, score_interval, t_interval, t_quantile
from deepscaler.evaluation.markdown import markdown
from deepscaler.observability.files import write_atomically

ROOT = Path(__file__).parents[1]
SAMPLES = 16
SIZES = (30, 83, 500)
Draw = Callable[[np.random.Generator, Any], np.ndarray]  # of a shape, or of the rates before


def beta(a: float, b: float) -> Draw:
    return lambda rng, size: rng.beta(a, b, size)


def mixture(share_of_zero: float, rest: Draw) -> Draw:
    return lambda rng, size: np.where(rng.random(size) < share_of_zero, 0.0, rest(rng, size))


def always(value: float) -> Draw:
    return lambda rng, size: np.full(size, value)


CASES: dict[str, tuple[Draw, float]] = {
    "Beta(2, 2), mean 50%": (beta(2, 2), 0.5),
    "Beta(0.5, 0.5), mean 50%": (beta(0.5, 0.5), 0.5),
    "Beta(0.6, 1.4), mean 30%": (beta(0.6, 1.4), 0.3),
    "Beta(0.2, 0.8), mean 20%": (beta(0.2, 0.8), 0.2),
    "Beta(0.1, 0.9), mean 10%": (beta(0.1, 0.9), 0.1),
    "Beta(0.5, 9.5), mean 5%": (beta(0.5, 9.5), 0.05),
    "Beta(0.15, 2.85), mean 5%": (beta(0.15, 2.85), 0.05),
    "Beta(0.9, 0.1), mean 90%": (beta(0.9, 0.1), 0.9),
    "Beta(20, 1), mean 95%": (beta(20, 1), 20 / 21),
    "80% never solved, else uniform": (mixture(0.8, beta(1, 1)), 0.1),
    "all problems at 10%": (always(0.1), 0.1),
    "70% never solved, 30% always": (mixture(0.7, always(1.0)), 0.3),
    "90% never solved, 10% always": (mixture(0.9, always(1.0)), 0.1),
}


def coverage(draw: Draw, truth: float, num_problems: int, repetitions: int) -> tuple[float, float]:
    """(of our interval, of Student's t): shares of intervals that hold the truth."""
    rng = np.random.default_rng(num_problems)
    means = rng.binomial(SAMPLES, draw(rng, (repetitions, num_problems))) / SAMPLES
    mean, se = means.mean(axis=1), means.std(axis=1, ddof=1) / np.sqrt(num_problems)
    low, high = score_interval(mean, se, freedom_of_variance(means), num_problems)
    assert (low >= 0).all() and (high <= 1).all()
    half = t_quantile(0.975, num_problems - 1) * se
    # Where all is 0 or all is 1 the ends meet the truth only by rounding; allow for it on both sides.
    ours = (low - 1e-12 <= truth) & (truth <= high + 1e-12)
    student = (mean - half - 1e-12 <= truth) & (truth <= mean + half + 1e-12)
    return float(ours.mean()), float(student.mean())


def moved(shift: float, spread: float) -> Draw:
    """Each problem's log-odds move by `shift` on average, with deviation `spread`."""

    def draw(rng: np.random.Generator, rates: np.ndarray) -> np.ndarray:
        inside = np.clip(rates, 1e-12, 1 - 1e-12)
        return 1 / (1 + (1 - inside) / inside * np.exp(-shift - spread * rng.normal(size=rates.shape)))

    return draw


def flipped(share: float) -> Draw:
    return lambda rng, rates: np.where(rng.random(rates.shape) < share, 1 - rates, rates)


PAIRS: dict[str, tuple[Draw, Draw]] = {
    "Beta(2, 2), same model again": (beta(2, 2), moved(0, 0)),
    "Beta(0.1, 0.9), same model again": (beta(0.1, 0.9), moved(0, 0)),
    "Beta(2, 2), all better by much": (beta(2, 2), moved(1, 1.5)),
    "Beta(0.3, 0.7), all better by much": (beta(0.3, 0.7), moved(1, 1.5)),
    "Beta(0.1, 0.9), all better by a little": (beta(0.1, 0.9), moved(0.5, 0.5)),
    "Beta(0.15, 2.85), all better by much": (beta(0.15, 2.85), moved(1, 1.5)),
    "Beta(20, 1), all better by much": (beta(20, 1), moved(1, 1.5)),
    "Beta(0.3, 0.7), 7% of problems flip": (beta(0.3, 0.7), flipped(0.07)),
    "50% never, 50% always, 7% flip": (mixture(0.5, always(1.0)), flipped(0.07)),
}


def coverage_of_difference(before: Draw, after: Draw, num_problems: int, repetitions: int) -> tuple[float, float]:
    """(of our interval, of Student's t with n - 1 degrees of freedom)."""
    rng = np.random.default_rng(num_problems)
    many = before(rng, (1000, 4000))
    truth = float((after(rng, many) - many).mean())
    first = before(rng, (repetitions, num_problems))
    second = after(rng, first)
    differences = (rng.binomial(SAMPLES, second) - rng.binomial(SAMPLES, first)) / SAMPLES
    mean, se = differences.mean(axis=1), differences.std(axis=1, ddof=1) / np.sqrt(num_problems)
    low, high = t_interval(mean, se, freedom_of_variance(differences), num_problems)
    half = t_quantile(0.975, num_problems - 1) * se
    return float(np.mean((low <= truth) & (truth <= high))), float(np.mean(np.abs(mean - truth) <= half))


def table(head: str, measure: dict[str, Callable[[int], tuple[float, float]]]) -> str:
    rows = []
    for name, coverage_at in measure.items():
        cells = [coverage_at(size) for size in SIZES]
        rows.append((name, *(f"{100 * ours:.1f} ({100 * student:.1f})" for ours, student in cells)))
    return markdown((head, *(f"{size} problems" for size in SIZES)), rows)


def replace_table(page: Path, name: str, text: str) -> None:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise ValueError(f"{page} has no markers {begin} and {end}")
    content = f"{head}{begin}\n{text}\n{end}{tail}"
    write_atomically(page, lambda part: part.write_text(content, encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10_000)
    parser.add_argument("--check", action="store_true", help="print, write nothing")
    options = parser.parse_args()
    scores = {
        name: lambda size, draw=draw, truth=truth: coverage(draw, truth, size, options.repetitions)
        for name, (draw, truth) in CASES.items()
    }
    differences = {
        name: lambda size, pair=pair: coverage_of_difference(pair[0], pair[1], size, options.repetitions)
        for name, pair in PAIRS.items()
    }
    tables = {
        "coverage": table("rates of problems", scores),
        "coverage of differences": table("rates before, and what changed", differences),
    }
    for name, text in tables.items():
        print(text, end="\n\n")
        if not options.check:
            replace_table(ROOT / "docs" / "evaluation.md", name, text)


if __name__ == "__main__":
    main()
