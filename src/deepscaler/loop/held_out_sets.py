"""The evaluation sets of a training recipe: its benchmarks and validation files, or synthetic ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from deepscaler.config import Recipe
from deepscaler.config.schema import RecipeError
from deepscaler.config.sections.data import DataSection
from deepscaler.config.sections.evaluation import EvaluationSection
from deepscaler.data.benchmarks.load import load_benchmark
from deepscaler.data.benchmarks.specs import BENCHMARKS
from deepscaler.data.sources.load import load_problems
from deepscaler.data.sources.synthetic import evaluation_sets
from deepscaler.evaluation.datasets import Datasets, describe, limited
from deepscaler.evaluation.held_out import LeftOut, hold_out
from deepscaler.evaluation.output_files import write_json
from deepscaler.types import Problem

HELD_OUT_FILE = "held_out.json"


def held_out_sets(recipe: Recipe, *, limit: int | None = None, limit_seed: int | None = None) -> Datasets:
    """The sets of `deepscaler eval MODEL --recipe FILE`: all problems, or `limit` of each (`evaluation.datasets`).

    Raises RecipeError for a recipe with data of its own that names no set, ValueError for a set that cannot be read.
    """
    if recipe.data.source == "synthetic":
        made = evaluation_sets(recipe.evaluation)
        return describe({name: limited(name, problems, limit, limit_seed) for name, problems in made.items()})
    sets, origins, warnings = own_sets(recipe.evaluation, recipe.data)
    if not sets:
        raise RecipeError(
            f"the recipe trains on {recipe.data.source} and names neither evaluation.benchmarks nor "
            "evaluation.validation_files, so nothing says what to evaluate on; set one of them, or evaluate on "
            "benchmarks with --suite instead of --recipe"
        )
    parts = {name: limited(name, problems, limit, limit_seed) for name, problems in sets.items()}
    return describe(parts, origins, warnings)


def own_sets(
    section: EvaluationSection, data: DataSection
) -> tuple[dict[str, Sequence[Problem]], dict[str, Mapping[str, object]], tuple[str, ...]]:
    """(problems, origin, warnings) of all benchmarks and validation files of the recipe."""
    sets: dict[str, Sequence[Problem]] = {}
    origins: dict[str, Mapping[str, object]] = {}
    warnings: list[str] = []
    for name in section.benchmarks:
        loaded = load_benchmark(name, Path(section.benchmarks_dir) if section.benchmarks_dir else None)
        sets[name], origins[name] = loaded.problems, loaded.origin
        warnings += [f"{name}: {text}" for text in loaded.warnings]
    for file in section.validation_files:
        name = Path(file).stem
        if name in sets:
            raise ValueError(f"evaluation.validation_files: two sets would be called {name}; rename {file}")
        sets[name] = load_problems(
            file,
            prompt_field=data.prompt_field,
            answer_field=data.answer_field,
            instruction=data.instruction,
            or_default_fields=True,
        )
    return sets, origins, tuple(warnings)


def load_validation(
    section: EvaluationSection, data: DataSection, training: Sequence[Problem]
) -> tuple[Datasets, tuple[LeftOut, ...]]:
    """A subset of each benchmark and validation file, and the problems left out because training holds them."""
    sets, origins, warnings = own_sets(section, data)
    if not sets:
        return describe({}), ()
    held_out = hold_out(sets, section.during_training_problems, training)
    return describe(held_out.sets, origins, warnings), held_out.left_out


def test_sets(datasets: Datasets) -> list[str]:
    """The sets with test problems."""
    return [name for name in datasets.sets if name in BENCHMARKS]


def write_held_out(directory: Path, datasets: Datasets, left_out: Sequence[LeftOut], num_training: int) -> None:
    """Write `held_out.json`: problems evaluated inside training, and those left out because training holds them."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "compared_with_training_problems": num_training,
        "test_sets": test_sets(datasets),
        "problems": {name: [p.id for p in problems] for name, problems in datasets.sets.items()},
        "left_out": [asdict(one) for one in left_out],
    }
    write_json(directory / HELD_OUT_FILE, document)
