"""The rewards that a recipe can name in `grader.profile`: one module each in `profiles/`, whose name is the reward's.

A new reward is a new file there, nothing else. It holds `grade`, `explain` and `GRADER_VERSION` as `profiles/string.py`
does, and loads no torch: it runs in the grading processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deepscaler.config import parts
from deepscaler.types import GradeItem, Verdict


@dataclass(frozen=True, slots=True)
class Reward:
    """How completions earn their reward.

    grade: the verdict on one completion; never raises for what it holds. explain: (answer, reference, tolerance) -> the
    comparison step by step, one line each. version: goes up whenever a verdict may change; it is part of the cache's
    key and of every evaluation's settings.
    """

    grade: Callable[[GradeItem], Verdict]
    explain: Callable[[str, str, float | None], list[str]]
    version: str

    @property
    def path(self) -> str:
        """`module:function`, by which a grading process imports it."""
        return f"{self.grade.__module__}:{self.grade.__name__}"


def _read(name: str) -> Reward:
    grade, explain, version = (
        parts.load(f"{parts.PROFILES}.{name}:{attribute}") for attribute in ("grade", "explain", "GRADER_VERSION")
    )
    return Reward(grade, explain, version)


REWARDS: dict[str, Reward] = {name: _read(name) for name in parts.REWARDS}
