"""The prompts of a run: the stream its stages draw from, and whether every sequence fits into the model's context."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepscaler.config.derived import scheduled_steps
from deepscaler.config.models import Recipe
from deepscaler.data.mixture import describe_bands, plan_stages
from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.stream import ProblemStream
from deepscaler.data.templates import encode_problems
from deepscaler.observability.counts import counted
from deepscaler.types import IntArray, Problem


@dataclass(frozen=True, slots=True)
class Prompts:
    """Every prompt of a run, rendered once.

    longest: tokens of the longest that each stage can draw. longest_asked: of those of evaluations inside training, 0
    without any.
    """

    stream: ProblemStream
    ids: Mapping[str, IntArray]
    longest: tuple[int, ...]
    longest_asked: int


def make_prompts(
    recipe: Recipe,
    tokenizer: Any,
    problems: Sequence[Problem],
    source_of: Sequence[int],
    asked: Sequence[Problem],
    message: Callable[[str], object],
) -> Prompts:
    """The stream over the problems that fit, with a plan per stage; says what was left out.

    source_of: per problem, the index of its entry in data.sources. asked: what evaluations inside training ask.

    Raises ValueError when no prompt fits, or a stage's bands leave it nothing to draw.
    """
    data = recipe.data
    prompt_format = PromptFormat.of(data, data.instruction)
    kept, dropped = encode_problems(problems, tokenizer, prompt_format, data.max_prompt_tokens)
    if dropped:
        total = len(problems)
        message(
            f"{len(dropped)} of {counted(total, 'problem')} dropped: longer than "
            f"{counted(data.max_prompt_tokens, 'token')}"
        )
    source = dict(zip((problem.id for problem in problems), source_of, strict=True))
    kept_of = [source[encoded.problem.id] for encoded in kept]
    plans = plan_stages(recipe.stages, data, recipe.rollout.prompts_per_step, kept, kept_of)
    for stage, plan in zip(recipe.stages, plans, strict=True):
        if plan.num_problems < len(kept):
            bands = describe_bands(stage) or f"sources {', '.join(part.name for part in plan.parts)}"
            message(f"stage {stage.name}: {plan.num_problems} of {counted(len(kept), 'problem')}, {bands}")
    stream = ProblemStream([encoded.problem for encoded in kept], recipe.seed, plans)
    lengths = [len(encoded.prompt_ids) for encoded in kept]
    longest = tuple(max(lengths[i] for part in plan.parts for i in part.indices) for plan in plans)
    held_out = encode_problems(asked, tokenizer, prompt_format, sys.maxsize)[0] if asked else []
    ids = {encoded.problem.id: encoded.prompt_ids for encoded in (*kept, *held_out)}
    return Prompts(stream, ids, longest, max((len(encoded.prompt_ids) for encoded in held_out), default=0))


@dataclass(frozen=True, slots=True)
class Length:
    """The longest sequence of a stage, or of the evaluations inside training. key: the setting of its budget."""

    where: str
    key: str
    prompt: int
    budget: int

    @property
    def total(self) -> int:
        return self.prompt + self.budget


def longest_sequence(recipe: Recipe, context: int, prompts: Prompts) -> int:
    """Tokens. Raises ValueError when a stage, or an evaluation inside training, can exceed the model's context."""
    lengths = longest_sequences(recipe, prompts)
    if excess := too_long(lengths, context):
        raise ValueError("\n".join(excess))
    return max(one.total for one in lengths)


def longest_sequences(recipe: Recipe, prompts: Prompts) -> list[Length]:
    """One for every stage that the run can reach, and one for its evaluations where it has any."""
    lengths = list(_of_stages(recipe, prompts.longest))
    if prompts.longest_asked:
        key, budget = "evaluation.max_completion_tokens", recipe.evaluation.max_completion_tokens
        lengths.append(Length("the evaluations inside training", key, prompts.longest_asked, budget))
    return lengths


def _of_stages(recipe: Recipe, longest_prompts: Sequence[int]) -> Iterator[Length]:
    for index, (stage, longest) in enumerate(zip(recipe.stages, longest_prompts, strict=True)):
        if recipe.curriculum.kind == "schedule" and scheduled_steps(recipe, index) is None:
            continue
        key = f"stages.{index}.max_completion_tokens"
        yield Length(f"stage {stage.name}", key, longest, stage.max_completion_tokens)


def too_long(lengths: Sequence[Length], context: int) -> list[str]:
    """What exceeds the context, in words with the way out; empty when everything fits."""
    return [
        f"{one.where}: the longest prompt has {counted(one.prompt, 'token')}, with {one.key} = {one.budget} that is "
        f"{one.total}, and the model's context is {context}; {_way_out(one, context)}"
        for one in lengths
        if one.total > context
    ]


def _way_out(one: Length, context: int) -> str:
    if one.prompt < context:
        return f"set {one.key} = {context - one.prompt} or fewer, or choose a model with a longer context"
    return "lower data.max_prompt_tokens, or choose a model with a longer context"
