"""Recipes of supervised fine-tuning: defaults of their own, and combinations that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config.schema import RecipeError
from deepscaler.config.supervised import is_supervised_recipe, load_supervised

RECIPE = """
name = "mine"
[model]
path = "models/base"
[data]
source = "traces.jsonl"
[sft]
traces_per_step = 8
"""
RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return path


def test_what_a_recipe_leaves_out_has_the_defaults_of_fine_tuning(recipe: Path) -> None:
    found = load_supervised(recipe, ["optimizer.learning_rate=1e-4"]).optimizer
    assert (found.learning_rate, found.schedule, found.min_learning_rate_ratio) == (1e-4, "cosine", 0.1)
    constant = load_supervised(recipe, ["optimizer.schedule=constant"]).optimizer
    assert (constant.learning_rate, constant.min_learning_rate_ratio) == (1e-5, 0.0)


def test_recipes_are_told_apart(recipe: Path) -> None:
    assert is_supervised_recipe(recipe)
    assert not is_supervised_recipe(RECIPES / "quickstart.toml")  # [sft] makes its base
    assert not is_supervised_recipe(RECIPES / "deepscaler-1.5b.toml")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["data.validation=v.jsonl", "data.validation_frac=0.1"], "both say which traces"),
        (["sft.validate_every_steps=5"], "without validation traces"),
        (["checkpoint.async_save=true"], "before the next step"),
        (["cluster.kind=ray"], "on one machine"),
        (["optimizer.num_iterations=2"], "optimizer.num_iterations belongs to training by reinforcement"),
        (["optimizer.mini_batch_prompts=2"], "optimizer.mini_batch_prompts belongs"),
        (["optimizer.schedule=constant", "optimizer.decay_steps=9"], "does nothing with optimizer.schedule"),
        (["data.max_tokens=99999"], "training.tokens_per_micro_batch"),
        (["data.prompt_template=Solve"], "a text with the placeholder {problem}"),
        (["sft.epochs=0"], "sft.epochs: expected greater than 0"),
        (["data.sorce=x"], "did you mean data.source"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_way_out(recipe: Path, settings: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says) as error:
        load_supervised(recipe, settings)
    assert str(recipe) in str(error.value) or "--set" in str(error.value)


def test_a_recipe_without_a_model_is_refused(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace('path = "models/base"', ""))
    with pytest.raises(RecipeError, match="name the model"):
        load_supervised(recipe)
