"""Whether every sequence of a run fits into the model's context, known before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deepscaler.config import Recipe
from deepscaler.config.derived import scheduled_steps
from deepscaler.loop.training_data import Prompts
from deepscaler.observability.counts import counted


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
