"""Linear and logarithmic scales with round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


def nice_step(span: float, count: int) -> float:
    """The 1, 2, 2.5 or 5 times a power of ten that divides `span` into at most `count` parts. span > 0."""
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))


def ticks_between(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """Round values within [low, high]; `whole` allows integers only."""
    step = nice_step(high - low, count)
    if whole:
        step = max(1.0, 5.0 if step == 2.5 else math.ceil(step))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    # The multiple, rounded to the step's own digits, so that 3 * 0.1 is 0.3.
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps [low, high] onto pixels [start, end]; logarithmic ones have 0 < low."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int, *, whole: bool = False) -> list[float]:
        if not self.logarithmic:
            return ticks_between(self.low, self.high, count, whole=whole)
        exponents = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
        stride = max(1, math.ceil(len(exponents) / count))
        return [10.0**e for e in exponents][::stride]


def value_range(values: Iterable[float], *, from_zero: bool, at_most: float | None = None) -> tuple[float, float]:
    """A range with round ends that holds all values; (0, 1) for none."""
    present = list(values)
    if not present:
        return 0.0, 1.0
    low, high = min(present), max(present)
    if from_zero:
        low = min(low, 0.0)
    if high == low:
        high, low = (high + abs(high) / 2, low - abs(low) / 2) if high else (1.0, 0.0)
    step = nice_step(high - low, 4)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return low, high if at_most is None else min(high, at_most)


def decades(values: Iterable[float]) -> tuple[float, float] | None:
    """Whole powers of ten around the positive values; None when there are none."""
    positive = [v for v in values if v > 0]
    if not positive:
        return None
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return 10.0**low, 10.0 ** max(high, low + 1)
