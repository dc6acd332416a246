"""A run's grader is the one that its recipe describes."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config import load_recipe
from deepscaler.rewards.isolation.pool import make_grader
from deepscaler.rewards.isolation.process import Limits
from deepscaler.types import GradeItem, Outcome

RECIPE = Path(__file__).parents[4] / "recipes" / "quickstart.toml"


def test_a_recipe_chooses_profile_and_limits() -> None:
    recipe = load_recipe(RECIPE, ["grader.profile=string", "grader.cpu_s=2.5", "grader.workers=3"])
    with make_grader(recipe.grader) as pool:
        assert pool.limits == Limits(recipe.grader.wall_s, 2.5, recipe.grader.memory_mib)
        (verdict,) = pool.grade([GradeItem("</think>\\boxed{1/2}", ["0.5"], thinking_prefilled=True)])
        assert verdict.outcome is Outcome.WRONG  # mathematics would call them equal
    with pytest.raises(ValueError, match=r"grader\.profile"):
        load_recipe(RECIPE, ["grader.profile=math"])
