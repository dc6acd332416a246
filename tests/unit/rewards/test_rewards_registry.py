"""A module in rewards/profiles is a reward: a recipe can name it, and it runs where completions are graded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deepscaler.config.sections.evaluation import GraderSection
from deepscaler.rewards import profiles
from deepscaler.rewards.registry import REWARDS
from deepscaler.types import GradeItem, Outcome


def test_every_module_is_a_reward_and_the_two_that_recipes_name_are_there() -> None:
    modules = {path.stem for path in Path(profiles.__path__[0]).glob("*.py")} - {"__init__"}
    assert set(REWARDS) == modules >= {"deepscaler", "string"}


@pytest.mark.parametrize("name", REWARDS)
def test_a_recipe_can_name_every_reward(name: str) -> None:
    assert GraderSection(profile=name).profile == name


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_grades_explains_and_has_a_version(name: str) -> None:
    reward = REWARDS[name]
    right, wrong = (reward.grade(GradeItem(f"\\boxed{{{x}}}", ["7"], thinking_prefilled=False)) for x in (7, 8))
    assert (right.outcome, right.reward) == (Outcome.CORRECT, 1.0)
    assert (wrong.outcome, wrong.reward) == (Outcome.WRONG, 0.0)
    assert reward.explain("7", "8", None)
    assert reward.version


@pytest.mark.parametrize("name", REWARDS)
def test_a_grading_process_finds_the_function_and_the_version_that_the_registry_names(name: str) -> None:
    reward = REWARDS[name]
    module, _, function = reward.path.partition(":")
    assert getattr(sys.modules[module], function) is reward.grade
    assert reward.version == sys.modules[module].GRADER_VERSION
