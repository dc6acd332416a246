"""Plain statistics over a window of steps."""

from __future__ import annotations

from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def mean_of_present(values: Sequence[float | None]) -> float | None:
    present = [v for v in values if v is not None]
    return mean(present) if present else None


def slope(values: Sequence[float]) -> float:
    """Least-squares slope per step; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    centre = (len(values) - 1) / 2
    spread = sum((i - centre) ** 2 for i in range(len(values)))
    return sum((i - centre) * v for i, v in enumerate(values)) / spread
