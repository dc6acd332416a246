"""Rewards that depend on the number of tokens n of a completion, and on whether it is correct."""

from __future__ import annotations

import math

KINDS = ("target", "max", "cosine", "overlong")


def reward(
    num_tokens: int,
    correct: bool,
    *,
    kind: str = "target",
    tokens: int,
    soft_tokens: int = 0,
    correct_range: tuple[float, float] = (2.0, 1.0),
    wrong_range: tuple[float, float] = (-10.0, 0.0),
    overlong: float = -10.0,
) -> float:
    """tokens: the target, or the budget.

    target    -|n - tokens| / tokens: L1-Exact, Aggarwal & Welleck 2025, arXiv:2503.04697, as a share of the target
    max       clip((tokens - n) / tokens + 0.5, 0, 1): L1-Max of the same paper, in the same unit
    cosine    from the first to the second of correct_range (or wrong_range) by a half cosine over 0 … tokens, and
              `overlong` beyond: Yeo et al. 2025, arXiv:2502.03373 §4, with its values as defaults
    overlong  0 up to tokens - soft_tokens, then linear to -1 at tokens: DAPO, arXiv:2503.14476, equation 13
    """
    if kind == "target":
        return -abs(num_tokens - tokens) / tokens
    if kind == "max":
        return min(1.0, max(0.0, (tokens - num_tokens) / tokens + 0.5))
    if kind == "cosine":
        if num_tokens >= tokens:
            return overlong
        first, last = correct_range if correct else wrong_range
        return last + 0.5 * (first - last) * (1 + math.cos(math.pi * num_tokens / tokens))
    return -min(1.0, max(0.0, (num_tokens - (tokens - soft_tokens)) / soft_tokens))


def check(
    *,
    kind: str = "target",
    tokens: int = 0,
    soft_tokens: int = 0,
    correct_range: tuple[float, float] = (2.0, 1.0),
    wrong_range: tuple[float, float] = (-10.0, 0.0),
    overlong: float = -10.0,
) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}: expected one of {', '.join(KINDS)}")
    if not tokens > 0:
        raise ValueError(f"tokens = {tokens}: expected the target or the budget, a number above 0")
    if kind == "overlong" and not 0 < soft_tokens <= tokens:
        raise ValueError(f"soft_tokens = {soft_tokens}: expected a number from 1 to tokens = {tokens}")
    for name, values in (("correct_range", correct_range), ("wrong_range", wrong_range)):
        if len(values) != 2:
            raise ValueError(f"{name} = {list(values)}: expected two numbers, at length 0 and at the budget")
    float(overlong)
