"""The problems of a run, and the stream its stages draw from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deepscaler.config import Recipe
from deepscaler.data.mixture import describe_bands, plan_stages
from deepscaler.data.sources import load_mixture, load_problems
from deepscaler.data.stream import ProblemStream
from deepscaler.data.synthetic import assert_disjoint, evaluation_sets, training_problems, validation_sets
from deepscaler.data.templates import encode_problems
from deepscaler.types import Problem


@dataclass(frozen=True, slots=True)
class TrainingData:
    """source_of: per problem, the index of its entry in data.sources, 0 without a mixture."""

    problems: list[Problem]
    source_of: list[int]
    validation: dict[str, list[Problem]]


def load_training_data(recipe: Recipe) -> TrainingData:
    """Raises ValueError when a problem stands in two sources, or in training and a held-out set."""
    data = recipe.data
    if data.source == "mix":
        problems, source_of = load_mixture(data.sources)
        return TrainingData(problems, source_of, {})
    if data.source != "synthetic":
        problems = load_problems(data.source, prompt_field=data.prompt_field, answer_field=data.answer_field)
        return TrainingData(problems, [0] * len(problems), {})
    problems, validation = training_problems(recipe), validation_sets(recipe)
    assert_disjoint(problems, validation, evaluation_sets(recipe))
    return TrainingData(problems, [0] * len(problems), validation)


def make_stream(
    recipe: Recipe, tokenizer: Any, training: TrainingData, message: Callable[[str], object]
) -> ProblemStream:
    """The stream over the problems that fit, with a plan per stage; says what was left out.

    Raises ValueError when no prompt fits, or a stage's bands leave it nothing to draw.
    """
    data = recipe.data
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
