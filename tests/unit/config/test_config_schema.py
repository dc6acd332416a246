"""A mistake in a recipe is answered with its key, its file, what was expected and the nearest known name."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config import schema
from deepscaler.config.load import load_recipe
from deepscaler.config.models import Recipe
from small_recipe import SMALL, refused, write


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
        "--set: checkpoint.xyzzy: unknown key; known here: every_steps, keep, async_save"
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


def test_every_setting_says_what_it_means(small: Path) -> None:
    for key, _, field in schema.leaves(load_recipe(small)):
        assert field.description, key
    assert Recipe.model_fields["sft"].description
