"""Minus the share of repeated n-grams: 0 where every one is new, near -1 where one is repeated without end.

The repetition penalty of Yeo et al. 2025, arXiv:2502.03373 §5, in the form of Open-R1: -(1 - distinct / all n-grams).
"""

from __future__ import annotations

UNITS = ("words", "characters")


def reward(completion: str, *, ngram: int = 20, unit: str = "words") -> float:
    """ngram: units in a row. unit: characters for scripts that put no space between words. 0 for a shorter text."""
    units = completion.lower().split() if unit == "words" else [c for c in completion if not c.isspace()]
    total = len(units) - ngram + 1
    if total < 2:
        return 0.0
    distinct = len({tuple(units[start : start + ngram]) for start in range(total)})
    return distinct / total - 1.0


def check(*, ngram: int = 20, unit: str = "words") -> None:
    if not isinstance(ngram, int) or not 1 <= ngram <= 100:
        raise ValueError(f"ngram = {ngram!r}: expected a whole number from 1 to 100")
    if unit not in UNITS:
        raise ValueError(f"unit = {unit!r}: expected one of {', '.join(UNITS)}")
