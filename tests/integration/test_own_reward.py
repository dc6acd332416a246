"""A run with rewards of one's own, from the examples and a judge; and what is refused before a model is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepscaler.loop.inputs import Inputs, in_words
from deepscaler.observability.run_directory import read_metrics, read_rollouts
from judge_server import judge_server
from tiny_run import deepscaler, write_recipe

EXAMPLES = Path(__file__).parents[2] / "examples"
REWARD = """
[reward]
solved_threshold = -0.5

[[reward.parts]]
name = "right"
profile = "deepscaler"

[[reward.parts]]
name = "shows_work"
function = "{examples}/own_reward.py:shows_work"

[[reward.parts]]
name = "variety"
function = "{examples}/own_reward.py:unlike_the_others"

[[reward.parts]]
name = "length"
function = "length"
arguments = {{ tokens = 20 }}

[[reward.parts]]
name = "clear"
function = "{examples}/judge_reward.py:clear"
arguments = {{ url = "{url}", model = "judge" }}
network = true
"""


def test_the_examples_train_and_every_part_is_in_the_records(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, num_steps=1, processes=1)
    with judge_server(lambda body, number: (200, "7") if number > 1 else (500, "down")) as server:
        recipe.write_text(recipe.read_text() + REWARD.format(examples=EXAMPLES, url=server.url))
        done = deepscaler("train", recipe, "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    (step,) = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "step"]
    for part in ("right", "shows_work", "variety", "length", "clear"):
        assert step[f"reward/{part}/failed_frac"] == pytest.approx(step.get(f"reward/{part}/exception", 0) / 16)
    table = read_rollouts(tmp_path / "run" / "rollouts" / "step-000001.parquet").to_pylist()
    rewarded = [row for row in table if row["reward"] is not None]
    for row in rewarded:
        values = [part["value"] for part in row["reward_parts"] if part["value"] is not None]
        assert row["reward"] == pytest.approx(sum(values), abs=1e-5)
        assert row["solved"] == (sum(values) >= -0.5)
    failed = [row for row in table if any(part["outcome"] == "exception" for part in row["reward_parts"])]
    assert len(failed) == step["reward/clear/exception"] == sum(row["reward"] is None for row in table) == 1
    (failure,) = map(json.loads, (tmp_path / "run" / "reward_failures.jsonl").read_text().splitlines())
    assert (failure["part"], failure["count"]) == ("clear", 1) and "HTTP Error 500" in failure["trace"]


def test_a_function_that_does_not_import_ends_the_command_before_a_model_is_read(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, model=tmp_path / "no model here")
    (tmp_path / "mine.py").write_text("def f(completion):\n    retrun 1\n")
    recipe.write_text(recipe.read_text() + '\n[reward]\nfunction = "mine.py:f"\n')
    done = deepscaler("train", recipe, "--run-dir", tmp_path / "run")
    assert done.returncode == 1 and not (tmp_path / "run").exists()
    assert "reward part 'f'" in done.stderr and "SyntaxError" in done.stderr and "(line 2)" in done.stderr


def test_a_run_that_does_not_begin_leaves_nothing_of_a_function_that_printed(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, model=tmp_path / "no model here")
    (tmp_path / "mine.py").write_text("print('loaded')\ndef f(completion):\n    return 1\n")
    recipe.write_text(recipe.read_text() + '\n[reward]\nfunction = "mine.py:f"\n')
    done = deepscaler("train", recipe, "--run-dir", tmp_path / "run")
    assert done.returncode == 1 and "no model here" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_function_is_tried_on_a_file_of_completions(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    rows = EXAMPLES / "completions.jsonl"
    done = deepscaler("reward", f"{EXAMPLES}/own_reward.py:near_miss", "--rows", rows, "--out", out)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["reward"] for line in out.read_text().splitlines()] == [1.0, 0.375, None]
    assert "reward/reward/none_frac" in done.stdout
    done = deepscaler("reward", "length", "--argument", "tokens=1", "--rows", rows, "--response-column", "said")
    assert done.returncode == 1 and "row 0: no text in field 'said'" in done.stderr


def test_changed_code_of_a_function_is_another_input_of_the_run_and_is_named() -> None:
    before = Inputs("w", "c", "t", "p", (1,), {"reward part short (mine.py:short)": "a"})
    now = Inputs("w", "c", "t", "p", (1,), {"reward part short (mine.py:short)": "b"})
    assert before.differing(before.as_json()) == []
    assert in_words(now.differing(before.as_json())) == "the code of reward part short (mine.py:short)"
    assert Inputs("w", "c", "t", "p", (1,)).as_json().keys() == {
        "weights",
        "config",
        "tokenizer",
        "template",
        "stop_ids",
    }
