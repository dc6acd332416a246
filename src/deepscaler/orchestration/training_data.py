"""The problems of a run, and the stream its stages draw from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepscaler.config import Recipe
from deepscaler.data.mixture import describe_bands, plan_stages
from deepscaler.data.sources import load_mixture, load_problems
from deepscaler.data.stream import ProblemStream
from deepscaler.data.synthetic import assert_disjoint, evaluation_sets, training_problems, validation_sets
from deepscaler.data.templates import encode_problems
from deepscaler.evaluation.datasets import validation_subset
from deepscaler.types import Problem


@dataclass(frozen=True, slots=True)
class TrainingData:
    """source_of: per problem, the index of its entry in data.sources, 0 without a mixture.

    num_left_out: benchmark problems that training holds, so that they validate nothing.
    """

    problems: list[Problem]
    source_of: list[int]
    validation: dict[str, list[Problem]]
    num_left_out: int = 0


def load_training_data(recipe: Recipe) -> TrainingData:
    """Raises ValueError when a problem stands in two sources, or in training and a held-out set."""
    data = recipe.data
    if data.source == "mix":
        problems, source_of = load_mixture(data.sources, instruction=data.instruction)
        return TrainingData(problems, source_of, *_benchmark_subset(recipe, problems))
    if data.source != "synthetic":
        fields = {"prompt_field": data.prompt_field, "answer_field": data.answer_field}
        problems = load_problems(data.source, **fields, instruction=data.instruction)
        return TrainingData(problems, [0] * len(problems), *_benchmark_subset(recipe, problems))
    problems, validation = training_problems(recipe), validation_sets(recipe)
    assert_disjoint(problems, validation, evaluation_sets(recipe))
    return TrainingData(problems, [0] * len(problems), validation)


def _benchmark_subset(recipe: Recipe, training: list[Problem]) -> tuple[dict[str, list[Problem]], int]:
    section = recipe.evaluation
    if section.benchmarks_dir is None:
        return {}, 0
    directory = Path(section.benchmarks_dir)
    return validation_subset(section.benchmarks, directory, section.during_training_problems, training)


def make_stream(
    recipe: Recipe, tokenizer: Any, training: TrainingData, message: Callable[[str], object]
) -> ProblemStream:
    """The stream over the problems that fit, with a plan per stage; says what was left out.

    Raises ValueError when no prompt fits, or a stage's bands leave it nothing to draw.
    """
    data = recipe.data
    if recipe.evaluation.benchmarks:
        count = sum(map(len, training.validation.values()))
        message(
            f"evaluations inside training use {count} problems of {', '.join(training.validation)}, which are test "
            f"problems: no checkpoint is chosen by them. {training.num_left_out} were left out, training holds them"
        )
    kept, dropped = encode_problems(training.problems, tokenizer, data.instruction, data.max_prompt_tokens)
    if dropped:
        total = len(training.problems)
        message(f"{len(dropped)} of {total} problems dropped: longer than {data.max_prompt_tokens} tokens")
    source = dict(zip((problem.id for problem in training.problems), training.source_of, strict=True))
    plans = plan_stages(recipe, kept, [source[encoded.problem.id] for encoded in kept])
    for stage, plan in zip(recipe.stages, plans, strict=True):
        if plan.num_problems < len(kept):
            bands = describe_bands(stage) or f"sources {', '.join(part.name for part in plan.parts)}"
            message(f"stage {stage.name}: {plan.num_problems} of {len(kept)} problems, {bands}")
    return ProblemStream([encoded.problem for encoded in kept], recipe.seed, plans)
