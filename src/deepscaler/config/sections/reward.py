"""What a completion earns in training: the grader's verdict, or a weighted sum of named parts."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated

from pydantic import AfterValidator, JsonValue
from pydantic_core import PydanticCustomError

from deepscaler.config.import_paths import FunctionPath
from deepscaler.config.parts import RewardName
from deepscaler.config.setting import Section, setting

_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise PydanticCustomError("part_name", "Input should be at most 40 letters, digits, - and _")
    return name


class RewardPartSection(Section):
    """One part of the reward: a function, or the verdict of a grader's profile."""

    name: Annotated[str, AfterValidator(_check_name)] = setting(
        shapes="verdict", doc="what metrics, records and messages call it"
    )
    function: FunctionPath | None = setting(
        None,
        shapes="verdict",
        compared="content",
        doc="FILE.py:NAME (relative to the recipe), MODULE:NAME, or a built-in: format, judge, language, length, "
        "repetition",
    )
    profile: RewardName | None = setting(
        None, shapes="verdict", doc="instead of a function: the verdict under this profile, 1 for correct, else 0"
    )
    weight: float = setting(1.0, shapes="verdict", doc="factor in the sum", ge=-1e6, le=1e6)
    arguments: dict[str, JsonValue] = setting({}, shapes="verdict", doc="keyword arguments given to the function")
    workers: int = setting(1, unit="processes", shapes="nothing", doc="processes that run the function", gt=0)
    wall_s: float = setting(10.0, unit="s", shapes="verdict", doc="waiting time per call", gt=0)
    cpu_s: float = setting(10.0, unit="s", shapes="verdict", doc="processor time per call, all threads", gt=0)
    memory_mib: int = setting(4096, unit="MiB", shapes="verdict", doc="address-space limit of a process", gt=0)
    network: bool = setting(False, shapes="verdict", doc="whether the function may open network connections")
    environment: tuple[str, ...] = setting(
        (), shapes="nothing", doc="environment variables passed on to the function, such as the name of an API key"
    )


class RewardSection(Section):
    function: FunctionPath | None = setting(
        None,
        shapes="verdict",
        compared="content",
        added=True,
        doc="one function alone, as in reward.parts; absent, and no parts = the grader's verdict",
    )
    parts: tuple[RewardPartSection, ...] = setting(
        (), shapes="verdict", added=True, doc="the reward is the weighted sum of these"
    )
    solved_threshold: float | None = setting(
        None,
        shapes="verdict",
        added=True,
        doc="a completion with at least this reward counts as solved (alarms, curriculum, drop_solved); absent = when "
        "the grader's verdict is correct",
    )

    @property
    def all_parts(self) -> tuple[RewardPartSection, ...]:
        """The parts, with `function` as the only one where it is given; empty where the verdict is the reward."""
        if self.function is None:
            return self.parts
        return (RewardPartSection(name=_name_of(self.function), function=self.function),)


def _name_of(function: str) -> str:
    module, _, attribute = function.rpartition(":")
    words = re.sub(r"[^A-Za-z0-9_-]", "_", attribute or PurePath(module).stem)
    return words[:40] or "reward"
