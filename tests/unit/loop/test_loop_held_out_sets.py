"""What a training recipe is evaluated on is what it names, and a file that would not be read is refused."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from deepscaler.cli.evaluate import EvalArguments, evaluate
from deepscaler.config import Recipe, load_recipe
from deepscaler.config.evaluation import evaluation_recipe
from deepscaler.config.schema import RecipeError
from deepscaler.config.sections.evaluation import GraderSection
from deepscaler.evaluation.datasets import announced
from deepscaler.loop.evaluate import grader_settings
from deepscaler.loop.held_out_sets import held_out_sets
from deepscaler.loop.progress import Progress
from deepscaler.rewards.profiles import deepscaler, string
from deepscaler.toy.base_model import ensure_base
from shared_data import shared
from tiny_run import RECIPE

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.toml"


def recipe_of(tmp_path: Path, *overrides: str) -> Recipe:
    file = tmp_path / "own.toml"
    file.write_text(RECIPE.format(model="unused", num_steps=6, every_steps=1, processes=1))
    for name, count in (("train", 30), ("checked", 12)):
        rows = [{"problem": f"What is {name} {i} + {i}?", "answer": str(2 * i)} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_recipe(file, [f'data.source="{tmp_path / "train.jsonl"}"', *overrides])


def test_a_recipe_with_data_of_its_own_is_evaluated_on_its_own_sets(tmp_path: Path) -> None:
    benchmarks = shared("data", "benchmarks")
    recipe = recipe_of(
        tmp_path,
        f'evaluation.validation_files=["{tmp_path / "checked.jsonl"}"]',
        'evaluation.benchmarks=["aime24"]',
        f'evaluation.benchmarks_dir="{benchmarks}"',
    )
    whole = held_out_sets(recipe)
    assert {name: len(problems) for name, problems in whole.sets.items()} == {"aime24": 30, "checked": 12}
    assert whole.sets["checked"][3].prompt == "What is checked 3 + 3?"
    assert whole.identity["aime24"]["file_sha256"]
    some = held_out_sets(recipe, limit=4)
    assert some.sets["aime24"] == whole.sets["aime24"][:4]
    asked = evaluation_recipe(recipe, tuple(some.sets), limit=4)
    assert asked.suite.benchmarks == ("aime24", "checked") and asked.sampling.num_samples == 2
    said = announced(some, asked)
    assert said.startswith("evaluating aime24 (4 problems), checked (4 problems) (--limit): 2 samples each")
    assert "temperature 0.6" in said and said.endswith("up to 40 tokens")


def test_synthetic_chains_are_for_synthetic_recipes_only(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.jsonl and names neither evaluation\.benchmarks nor"):
        held_out_sets(recipe_of(tmp_path))
    assert list(held_out_sets(recipe_of(tmp_path, "data.source=synthetic")).sets) == ["chain-2", "chain-3"]


def test_a_base_is_not_made_from_other_data_than_the_recipe_names(tmp_path: Path) -> None:
    recipe = load_recipe(QUICKSTART, ['data.source="traces.jsonl"'])
    with pytest.raises(RecipeError, match=r"reads no file, so data\.source = 'traces\.jsonl' would not be used"):
        ensure_base(recipe, Progress(StringIO()), tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("given", "flag"), [({"concurrency": 7}, "--concurrency"), ({"api_key_env": "KEY"}, "--api-key-env")]
)
def test_flags_of_a_server_are_refused_without_one(given: dict[str, Any], flag: str) -> None:
    empty: dict[str, Any] = dict.fromkeys(EvalArguments.__dataclass_fields__)
    common: dict[str, Any] = {"model": "m", "suite": "aime24", "out": Path("none"), "overrides": ()}
    with pytest.raises(ValueError, match=f"{flag} is for a server"):
        evaluate(EvalArguments(**{**empty, **common, **given}))


def test_an_evaluation_records_the_version_of_the_grader_it_was_graded_with() -> None:
    """Else stored verdicts by equality of text would outlive a new version of it."""
    assert grader_settings(GraderSection(profile="string"))["version"] == string.GRADER_VERSION
    assert grader_settings(GraderSection())["version"] == deepscaler.GRADER_VERSION
    assert string.GRADER_VERSION != deepscaler.GRADER_VERSION
