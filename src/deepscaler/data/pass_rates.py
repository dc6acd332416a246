"""Pass rates of problems under a model: columns that `deepscaler data score` writes, and bands of them.

pass_rate             share of the graded samples that are right; absent where none was graded
pass_rate_low, _high  its 95% interval (Wilson 1927)
pass_rate_samples     graded samples
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from deepscaler.config.sections.data import DataSection
from deepscaler.observability.counts import counted
from deepscaler.types import Problem

RATE, LOW, HIGH, SAMPLES = "pass_rate", "pass_rate_low", "pass_rate_high", "pass_rate_samples"
_Z = NormalDist().inv_cdf(0.975)
_BAR = 30  # characters of the longest bar


def wilson_interval(num_right: int, num_samples: int) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927); (0, 1) without samples."""
    if not num_samples:
        return 0.0, 1.0
    rate, spread = num_right / num_samples, _Z**2 / num_samples
    centre = (rate + spread / 2) / (1 + spread)
    half = _Z * math.sqrt((rate * (1 - rate) + spread / 4) / num_samples) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def pass_rate_columns(num_right: int, num_samples: int) -> dict[str, object]:
    low, high = wilson_interval(num_right, num_samples)
    rate = num_right / num_samples if num_samples else None
    return {RATE: rate, LOW: round(low, 4), HIGH: round(high, 4), SAMPLES: num_samples}


def in_band(problems: Sequence[Problem], data: DataSection) -> list[bool]:
    """Which problems `data.min_pass_rate` and `max_pass_rate` keep; all without these.

    A problem without a pass rate is outside. Raises ValueError where no problem is inside, with the distribution.
    """
    if data.min_pass_rate is None and data.max_pass_rate is None:
        return [True] * len(problems)
    low, high = data.min_pass_rate or 0.0, 1.0 if data.max_pass_rate is None else data.max_pass_rate
    rates = [problem.pass_rate for problem in problems]
    kept = [rate is not None and low <= rate <= high for rate in rates]
    if any(kept):
        return kept
    known = [rate for rate in rates if rate is not None]
    if not known:
        raise ValueError(
            f"data.min_pass_rate and data.max_pass_rate read the column {RATE!r}, which no row of {data.source} has; "
            "write it with `deepscaler data score DATA MODEL --to FILE`, or remove the band"
        )
    raise ValueError(
        f"no problem of {data.source} has a pass rate from {low:g} to {high:g} (data.min_pass_rate, "
        f"data.max_pass_rate); widen the band, or score with another model. Pass rates of its "
        f"{counted(len(known), 'scored problem')}:\n" + "\n".join(histogram(known))
    )


def histogram(rates: Sequence[float]) -> list[str]:
    """One line per tenth with its count and a bar; all wrong and all right have lines of their own."""
    names = ["0", *(f"up to {tenth / 10:.1f}" for tenth in range(1, 10)), "below 1", "1"]
    counts = [0] * len(names)
    for rate in rates:
        counts[0 if rate <= 0 else len(names) - 1 if rate >= 1 else math.ceil(rate * 10 - 1e-9)] += 1
    longest = max(*counts, 1)
    return [
        f"  {name:>10} {count:>7}  {'#' * math.ceil(_BAR * count / longest)}".rstrip()
        for name, count in zip(names, counts, strict=True)
    ]
