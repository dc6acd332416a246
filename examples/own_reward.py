"""Rewards of one's own: three functions, used by own_reward.toml. docs/rewards.md explains them step by step.

Try one before a run:  deepscaler reward examples/own_reward.py:shows_work --rows examples/completions.jsonl
"""

from __future__ import annotations

import re


def shows_work(completion: str, thinking: str) -> float:
    """The share of lines that hold an equation, from 0 to 1."""
    lines = [line for line in (thinking or completion).splitlines() if line.strip()]
    return sum("=" in line for line in lines) / len(lines) if lines else 0.0


def near_miss(answer: str | None, references: list[str], correct: bool) -> float | None:
    """Partial credit for a number that is close; None, no signal, where there is nothing to compare."""
    if correct:
        return 1.0
    try:
        given, wanted = float(answer or ""), float(references[0])
    except ValueError:
        return None
    return max(0.0, 0.5 - abs(given - wanted) / (1 + abs(wanted)))


def unlike_the_others(completions: list[str]) -> list[float]:
    """Of a whole group at once: how many of its completions begin in another way than this one, from 0 to 1."""
    starts = [" ".join(re.findall(r"\w+", text)[:8]).lower() for text in completions]
    return [sum(start != other for other in starts) / max(len(starts) - 1, 1) for start in starts]
