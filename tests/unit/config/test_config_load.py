"""Laws of loading: what beats what, where a value came from, and how a mistake is answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deepscaler.config import schema
from deepscaler.config.load import RecipeError, load_recipe, resolve
from deepscaler.config.models import Recipe
from deepscaler.config.resume import changed_settings, recipe_hash

SMALL = """
name = "small"
num_steps = 6
[sft]
[data]
source = "synthetic"
max_prompt_tokens = 64
[rollout]
prompts_per_step = 8
group_size = 4
[[stages]]
name = "short"
max_completion_tokens = 32
steps = 4
[[stages]]
name = "long"
max_completion_tokens = 64
"""


def write(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path, SMALL)


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


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


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("rollout.grop_size=2", "rollout.group_size"),
        ("num_step=2", "num_steps"),
        ("stages.0.max_tokens=3", "stages.0.max_completion_tokens"),
        ("stages.1.step=3", "stages.1.steps"),
        ("learning_rate=0.1", "optimizer.learning_rate"),
        ("algorithm.kl.coeficient=0.1", "algorithm.kl.coefficient"),
    ],
)
def test_an_unknown_key_names_itself_and_the_nearest(small: Path, override: str, near: str) -> None:
    key = override.split("=")[0]
    assert refused(small, override) == f"--set: {key}: unknown key; did you mean {near}?"


def test_an_unknown_table_names_the_nearest(small: Path) -> None:
    assert refused(small, "rolout.group_size=2") == "--set: rolout: unknown key; did you mean rollout?"


def test_an_unknown_key_like_no_other_lists_the_known(small: Path) -> None:
    assert refused(small, "checkpoint.xyzzy=1") == (
        "--set: checkpoint.xyzzy: unknown key; known here: every_steps, keep"
    )


def test_an_unknown_key_names_the_file_it_stands_in(tmp_path: Path) -> None:
    base = write(tmp_path, SMALL + "[optimizer]\nlerning_rate = 1e-3\n", "base.toml")
    message = refused(write(tmp_path, 'extends = "base.toml"\n'))
    assert message == f"{base}: optimizer.lerning_rate: unknown key; did you mean optimizer.learning_rate?"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ('num_steps="12"', 'num_steps: expected a whole number, given "12"'),
        ("num_steps=1.5", "num_steps: expected a whole number, given 1.5"),
        ("num_steps=true", "num_steps: expected a whole number, given true"),
        ("num_steps=0", "num_steps: expected greater than 0, given 0"),
        ("name=3", "name: expected text in quotes, given 3"),
        ("alarms.stop=1", "alarms.stop: expected true or false, given 1"),
        ("optimizer=3", "optimizer: expected a table of settings, given 3"),
        ("algorithm=3", "algorithm: expected a table of settings, given 3"),
        ("algorithm.loss=ppo", "algorithm.loss: expected one of 'clipped_surrogate', 'cispo'"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate: expected a finite number"),
        ("rollout.group_size=1", "rollout.group_size: expected greater than 1, given 1"),
        ("stages.1.group_size=1", "stages.1.group_size: expected greater than 1, given 1"),
        ("stages=[]", "stages: expected"),
        ("evaluation.set_operations=3", "evaluation.set_operations: expected an array, given 3"),
    ],
)
def test_a_wrong_type_names_what_was_expected_and_given(small: Path, override: str, expected: str) -> None:
    assert expected in refused(small, override)


def test_whole_numbers_serve_as_numbers(small: Path) -> None:
    assert load_recipe(small, ["rollout.temperature=1"]).rollout.temperature == 1.0


def test_a_wrong_type_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL.replace("num_steps = 6", 'num_steps = "six"'))
    assert refused(path) == f'{path}: num_steps: expected a whole number, given "six"'


def test_all_mistakes_are_told_at_once(small: Path) -> None:
    message = refused(small, "num_steps=0", "rollout.grop_size=2")
    assert len(message.splitlines()) == 2


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL.replace('source = "synthetic"\n', ""))
    assert refused(path) == f"{path}: data.source: missing; it has no default, so the recipe must set it"


def test_an_unknown_preset_lists_the_known(small: Path) -> None:
    message = refused(small, "preset=dappo")
    assert "did you mean 'dapo'?" in message
    assert "justrl" in message
    assert "no preset 3" in refused(small, "preset=3")


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


def test_the_hash_is_stable_and_ignores_what_may_change_on_resume(small: Path, tmp_path: Path) -> None:
    digest = recipe_hash(load_recipe(small))
    shuffled = SMALL.replace("prompts_per_step = 8\ngroup_size = 4", "group_size = 4\nprompts_per_step = 8")
    assert recipe_hash(load_recipe(write(tmp_path, shuffled, "other.toml"))) == digest
    free = ["name=x", "num_steps=5", "checkpoint.every_steps=1", "alarms.stop=false", "grader.workers=2"]
    assert recipe_hash(load_recipe(small, free)) == digest
    assert recipe_hash(load_recipe(small, ["seed=2"])) != digest
    assert len(digest) == 64


def test_every_setting_that_is_not_free_moves_the_hash(small: Path) -> None:
    base = recipe_hash(load_recipe(small))
    for override in (
        "stages.0.steps=3",
        "optimizer.eps=1e-7",
        "data.num_problems=500",
        "model.dtype=bfloat16",
    ):
        assert recipe_hash(load_recipe(small, [override])) != base, override


def test_changed_settings_are_the_ones_that_may_not_change(small: Path) -> None:
    def dump(*overrides: str) -> dict:
        return load_recipe(small, overrides).model_dump(mode="json")

    def keys_changed(old: dict, new: dict) -> list[str]:
        return [changed.key for changed in changed_settings(old, new)]

    assert keys_changed(dump(), dump("num_steps=5", "checkpoint.keep=9", "evaluation.every_steps=2")) == []
    assert keys_changed(dump(), dump("seed=3", "stages.1.max_completion_tokens=65")) == [
        "seed",
        "stages.1.max_completion_tokens",
    ]
    without = dump()
    without["sft"] = None
    assert "sft.steps" in keys_changed(dump(), without)
    assert keys_changed(dump(), dump("preset=justrl")) == [
        "algorithm.clip_high",
        "algorithm.entropy_coefficient",
        "algorithm.kl.coefficient",
    ]


def test_hash_and_changed_settings_agree(small: Path) -> None:
    old = load_recipe(small)
    for override in ("grader.wall_s=2.0", "training.processes=1", "description=x", "num_steps=4"):
        new = load_recipe(small, [override])
        same = not changed_settings(old.model_dump(mode="json"), new.model_dump(mode="json"))
        assert same == (recipe_hash(old) == recipe_hash(new)), override


def test_every_setting_says_what_it_means(small: Path) -> None:
    for key, _, field in schema.leaves(load_recipe(small)):
        assert field.description, key
    assert Recipe.model_fields["sft"].description


def test_configuration_loads_without_torch() -> None:
    modules = "config.load, deepscaler.config.explain, deepscaler.config.derived, deepscaler.config.presets"
    code = (
        f"import sys, deepscaler.{modules}\n"
        "print([m for m in ('torch', 'transformers', 'ray', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_recipe_of_an_evaluation_is_named_as_such() -> None:
    with pytest.raises(RecipeError, match=r"\[suite\] is for an evaluation.*deepscaler eval MODEL --recipe"):
        load_recipe(Path(__file__).parents[3] / "recipes" / "eval-competition.toml")
