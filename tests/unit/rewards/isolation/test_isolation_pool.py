"""A run's grader is the one that its recipe describes."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config import load_recipe
from deepscaler.rewards.isolation.pool import make_grader

RECIPE = Path(__file__).parents[4] / "recipes" / "quickstart.toml"


def test_a_recipe_chooses_profile_and_limits() -> None:
    recipe = load_recipe(RECIPE, ["grader.profile=string", "grader.cpu_s=2.5", "grader.workers=3"])
    with make_grader(recipe.grader) as pool:
        process = pool._new_process()
        assert process._command[-3:] == [
            str(recipe.grader.memory_mib),
            "2.5",
            "deepscaler.rewards.profiles.string:grade",
        ]
    with pytest.raises(ValueError, match=r"grader\.profile"):
        load_recipe(RECIPE, ["grader.profile=math"])
