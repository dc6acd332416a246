"""The suite is the file, the file is the suite, and a mistake in either is answered with the key meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config.evaluation import (
    COMPETITION,
    NINE,
    EvalRecipe,
    is_evaluation_recipe,
    load_evaluation,
    settings_of,
)
from deepscaler.config.schema import RecipeError
from deepscaler.data.benchmarks.specs import BENCHMARKS

RECIPES = Path(__file__).parents[3] / "recipes"


def test_the_suite_and_its_recipe_are_the_same() -> None:
    written = load_evaluation(RECIPES / "eval-competition.toml")
    suite = load_evaluation(None, suite="competition")
    assert written.model_copy(update={"description": ""}) == suite == EvalRecipe()
    assert tuple(BENCHMARKS)[:5] == COMPETITION and set(NINE) < set(BENCHMARKS)


def test_training_recipes_are_told_apart() -> None:
    assert is_evaluation_recipe(RECIPES / "eval-competition.toml")
    assert not is_evaluation_recipe(RECIPES / "quickstart.toml")


def test_benchmarks_by_name_and_overrides() -> None:
    recipe = load_evaluation(None, ["sampling.num_samples=4", "suite.limit=5"], suite="aime24,math500")
    assert recipe.suite.benchmarks == ("aime24", "math500")
    assert (recipe.sampling.num_samples, recipe.suite.limit, recipe.sampling.temperature) == (4, 5, 0.6)


def test_a_mistake_names_the_key_meant() -> None:
    with pytest.raises(RecipeError, match=r"sampling.temperatur: unknown key; did you mean sampling.temperature\?"):
        load_evaluation(None, ["sampling.temperatur=1"])
    with pytest.raises(RecipeError, match=r"top_p: expected .*less than or equal to 1, given 2"):
        load_evaluation(None, ["sampling.top_p=2"])
    with pytest.raises(RecipeError, match="give one of them"):
        load_evaluation(RECIPES / "eval-competition.toml", suite="competition")


def test_transport_is_no_setting_of_a_result() -> None:
    base = settings_of(EvalRecipe())
    for same in ("client.concurrency=1", "engine.max_active=3", "grader.workers=9", 'client.api_key_env="X"'):
        assert settings_of(load_evaluation(None, [same])) == base
    for other in ("seed=2", "sampling.top_k=3", "suite.limit=9", 'suite.instruction="x"'):
        assert settings_of(load_evaluation(None, [other])) != base
