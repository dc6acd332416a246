"""The rewards a recipe can name in `grader.profile`. A new reward is a module beside this one and its line here.

Its module holds `grade`, `explain` and `GRADER_VERSION` as `string_match` does, and loads no torch: it runs in the
grading processes. Its name is also listed in `config.models.GraderProfile`, which may not import this layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deepscaler.rewards import math_reward, string_match
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


REWARDS: dict[str, Reward] = {
    "deepscaler": Reward(math_reward.grade, math_reward.explain, math_reward.GRADER_VERSION),
    "string": Reward(string_match.grade, string_match.explain, string_match.GRADER_VERSION),
}
