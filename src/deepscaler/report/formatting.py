"""Formats numbers for reading. Shares are fractions of 1; a missing or non-finite value is a dash."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TypeGuard

MISSING = "–"
MINUS = "−"


def _signless(text: str) -> str:
    return text.replace("-", MINUS)


def is_number(value: object) -> TypeGuard[int | float]:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def percent(value: object, *, sign: bool = False) -> str:
    """0.4312 -> `43.1`; the unit is in the heading."""
    if not is_number(value):
        return MISSING
    number = 100 * float(value)
    return _signless(f"{number:+.1f}" if sign else f"{number:.1f}")


def p_value(value: object) -> str:
    if not is_number(value):
        return MISSING
    return "< 0.001" if float(value) < 0.001 else f"{float(value):.3f}"


def number(value: object) -> str:
    """Three significant digits, thousands apart, small ones as powers of ten: 12,345 · 88.2 · 2.4e−6."""
    if not is_number(value):
        return MISSING
    v = float(value)
    if v == 0:
        return "0"
    if abs(v) >= 100:
        return _signless(f"{v:,.0f}")
    if abs(v) < 1e-3:
        mantissa, exponent = f"{v:.1e}".split("e")
        return _signless(f"{mantissa.removesuffix('.0')}e{int(exponent)}")
    digits = max(0, 2 - math.floor(math.log10(abs(v))))
    return _signless(f"{v:.0f}" if v == int(v) else f"{v:.{digits}f}")


def duration(seconds: object) -> str:
    """`38 s`, `5 min 42 s`, `3 h 5 min`."""
    if not is_number(seconds):
        return MISSING
    total = float(seconds)
    if total < 10:
        return f"{total:.1f} s"
    whole = round(total)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(total / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def tick_texts(ticks: list[float], *, as_percent: bool) -> list[str]:
    """Tick labels with just the decimals their distance needs."""
    values = [100 * t for t in ticks] if as_percent else ticks
    largest = max((abs(v) for v in values), default=0.0)
    if 0 < largest < 1e-2:
        return [number(v) for v in values]
    gap = min((b - a for a, b in pairwise(values)), default=1.0)
    decimals = 0 if gap >= 1 else min(6, math.ceil(-math.log10(gap) - 1e-9))
    if decimals and any(abs(round(v, decimals) - v) > 1e-9 * max(1.0, abs(v)) for v in values):
        decimals += 1
    if largest >= 10_000:
        return [_signless(f"{v / 1000:g}k") for v in values]
    return [_signless(f"{v:,.{decimals}f}") + ("%" if as_percent else "") for v in values]
