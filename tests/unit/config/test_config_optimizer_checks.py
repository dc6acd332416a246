"""Combinations of schedule, passes and prompts that are refused with a way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config import load_recipe, recipe_hash
from deepscaler.config.derived import updates_per_step
from deepscaler.config.schema import RecipeError

RECIPES = Path(__file__).parents[3] / "recipes"
BIG, SMALL = RECIPES / "deepscaler-1.5b.toml", RECIPES / "quickstart.toml"


@pytest.mark.parametrize(
    ("recipe", "settings", "says"),
    [
        (BIG, ["optimizer.schedule=cosine"], "set optimizer.decay_steps = "),
        (
            BIG,
            ["optimizer.schedule=linear", "optimizer.decay_steps=2", "optimizer.warmup_updates=200"],
            "is not below the updates",
        ),
        (BIG, ["optimizer.decay_steps=2"], "does nothing with optimizer.schedule = 'constant'"),
        (BIG, ["optimizer.min_learning_rate_ratio=0.1"], "does nothing with optimizer.schedule = 'constant'"),
        (BIG, ["preset=rloo", "optimizer.num_iterations=2"], "has no ratio that corrects it"),
        (BIG, ["data.instruction=Think.", "data.prompt_template=Q {problem}"], "has no placeholder {instruction}"),
        (BIG, ["data.prompt_template=Solve it"], "a text with the placeholder {problem}"),
        (SMALL, ["data.system_prompt=S"], "data.system_prompt with [sft]"),
        (SMALL, ["data.template.enable_thinking=false"], "data.template with [sft]"),
    ],
)
def test_what_cannot_be_meant_is_refused(recipe: Path, settings: list[str], says: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe, settings)
    assert says in str(error.value)


def test_passes_multiply_the_updates_and_new_settings_belong_to_the_run() -> None:
    plain = load_recipe(BIG)
    again = load_recipe(BIG, ["optimizer.num_iterations=3"])
    assert updates_per_step(again) == 3 * updates_per_step(plain)
    switched = load_recipe(BIG, ["data.template.enable_thinking=false"])
    assert switched.data.template == {"enable_thinking": False}
    assert len({recipe_hash(recipe) for recipe in (plain, again, switched)}) == 3
