"""Laws of loading: what beats what, where a value came from, and how a mistake is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config import schema
from deepscaler.config.load import RecipeError, load_recipe, resolve
from small_recipe import SMALL, refused, write


def test_later_layers_beat_earlier_ones_and_every_value_knows_its_origin(tmp_path: Path) -> None:
    write(tmp_path, SMALL, "base.toml")
    middle = 'extends = "../base.toml"\n[optimizer]\nlearning_rate = 1e-4\nweight_decay = 0.1\n'
    write(tmp_path, middle, "sub/middle.toml")
    top = write(
        tmp_path,
        'extends = "sub/middle.toml"\nname = "top"\npreset = "justrl"\n[optimizer]\nlearning_rate = 2e-4\n'
        "[algorithm]\nclip_low = 0.1\n",
        "top.toml",
    )
    resolved = resolve(top, ["optimizer.max_grad_norm=0.5"])
    recipe, origins = resolved.recipe, resolved.origins

    assert (recipe.name, origins["name"]) == ("top", "file:top.toml")
    assert (recipe.num_steps, origins["num_steps"]) == (6, "file:base.toml")
    assert (recipe.optimizer.learning_rate, origins["optimizer.learning_rate"]) == (2e-4, "file:top.toml")
    assert (recipe.optimizer.weight_decay, origins["optimizer.weight_decay"]) == (
        0.1,
        "file:sub/middle.toml",
    )
    assert (recipe.optimizer.max_grad_norm, origins["optimizer.max_grad_norm"]) == (0.5, "--set")
    assert (recipe.optimizer.eps, origins["optimizer.eps"]) == (1e-8, "default")
    assert (recipe.algorithm.clip_low, origins["algorithm.clip_low"]) == (0.1, "file:top.toml")
    assert recipe.algorithm.clip_high == 0.28
    assert origins["algorithm.clip_high"] == "preset 'justrl' (He et al. 2025, arXiv:2512.16649)"
    assert origins["algorithm.kl.coefficient"].startswith("preset 'justrl'")
    assert origins["algorithm.kl.estimator"] == "default"
    assert set(origins) == {key for key, _, _ in schema.leaves(recipe)}


def test_the_preset_is_the_one_the_finished_recipe_names(small: Path) -> None:
    assert load_recipe(small).algorithm.kl.coefficient == 0.001
    recipe = load_recipe(small, ["preset=gspo"])
    assert (recipe.algorithm.loss, recipe.algorithm.clip_high) == ("gspo", 4e-4)
    assert recipe.algorithm.kl.coefficient == 0


def test_arrays_replace_whole_and_take_their_origins_along(tmp_path: Path) -> None:
    write(tmp_path, SMALL, "base.toml")
    one_stage = 'extends = "base.toml"\n[[stages]]\nname = "only"\nmax_completion_tokens = 48\n'
    resolved = resolve(write(tmp_path, one_stage))
    assert [stage.name for stage in resolved.recipe.stages] == ["only"]
    assert resolved.origins["stages.0.name"] == "file:recipe.toml"
    assert resolved.origins["stages.0.steps"] == "default"
    assert not any(key.startswith("stages.1") for key in resolved.origins)


def test_set_reaches_into_arrays(small: Path) -> None:
    resolved = resolve(small, ["stages.0.steps=2", "stages.1.name=longer"])
    assert [(s.name, s.steps) for s in resolved.recipe.stages] == [("short", 2), ("longer", None)]
    assert resolved.origins["stages.0.steps"] == "--set"
    assert resolved.origins["stages.0.name"] == "file:recipe.toml"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("description=plain words", "plain words"),
        ('description="quoted"', "quoted"),
        ("description=a=b", "a=b"),
        ("description=", ""),
        ("description = spaced", "spaced"),
    ],
)
def test_set_takes_toml_or_bare_text(small: Path, override: str, value: str) -> None:
    assert load_recipe(small, [override]).description == value


def test_set_parses_numbers_booleans_and_arrays(small: Path) -> None:
    recipe = load_recipe(
        small, ["optimizer.learning_rate=3e-4", "alarms.stop=false", "evaluation.set_operations=[2, 5]"]
    )
    assert recipe.optimizer.learning_rate == 3e-4
    assert recipe.alarms.stop is False
    assert recipe.evaluation.set_operations == (2, 5)


def test_of_two_sets_the_last_counts(small: Path) -> None:
    assert load_recipe(small, ["num_steps=9", "num_steps=5"]).num_steps == 5


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("num_steps", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("stages.7.steps=1", "its entries are: stages.0, stages.1"),
        ("stages.first.steps=1", "its entries are: stages.0, stages.1"),
        ("num_steps.deep=1", "num_steps is a single value (6)"),
        ("num_steps.deep.deeper=1", "num_steps is a single value (6)"),
        ("num_steps=1979-05-27", "no setting takes a date"),
    ],
)
def test_a_set_that_cannot_be_applied_is_refused(small: Path, override: str, expected: str) -> None:
    message = refused(small, override)
    assert "--set" in message
    assert expected in message


def test_extends_may_not_run_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, 'extends = "b.toml"\n', "a.toml")
    write(tmp_path, 'extends = "sub/../a.toml"\n', "b.toml")
    (tmp_path / "sub").mkdir()
    assert "a.toml -> b.toml -> a.toml" in refused(tmp_path / "a.toml")
    itself = write(tmp_path, 'extends = "self.toml"\n', "self.toml")
    assert "self.toml -> self.toml" in refused(itself)


def test_extends_must_name_a_recipe_that_exists(tmp_path: Path) -> None:
    path = write(tmp_path, 'extends = "none.toml"\n')
    message = refused(path)
    assert str(tmp_path / "none.toml") in message
    assert f"named by `extends` in {path}" in message
    assert "expected the path of one recipe" in refused(write(tmp_path, "extends = 3\n"))


def test_a_missing_recipe_names_the_ones_beside_it(small: Path) -> None:
    assert "recipe.toml" in refused(small.with_name("recipes.toml"))
    assert "no such recipe" in refused(small.parent / "nowhere" / "recipe.toml")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    assert "cannot read the recipe" in refused(tmp_path)


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "x"\nnum_steps = \n')
    assert f"{path}, line 2, column 13: not valid TOML" in refused(path)
    unclosed = write(tmp_path, 'name = "x"\nstages = [')
    assert f"{unclosed}, end of document: not valid TOML" in refused(unclosed)


def test_broken_utf8_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b'name = "x"\ndescription = "\xff"\n')
    assert f"{path}, line 2: not UTF-8" in refused(path)


def test_a_loaded_recipe_is_frozen(small: Path) -> None:
    recipe = load_recipe(small)
    with pytest.raises(ValueError, match="frozen"):
        recipe.num_steps = 3  # type: ignore[misc]


def test_a_recipe_of_an_evaluation_is_named_as_such() -> None:
    with pytest.raises(RecipeError, match=r"\[suite\] is for an evaluation.*deepscaler eval MODEL --recipe"):
        load_recipe(Path(__file__).parents[3] / "recipes" / "eval-competition.toml")
