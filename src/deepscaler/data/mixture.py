"""Which problems a stage of training draws from: bands of difficulty and prompt length, sources with weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from deepscaler.config.models import Recipe
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.data.templates import EncodedProblem
from deepscaler.observability.counts import counted


@dataclass(frozen=True, slots=True)
class Part:
    """The problems of one source that a stage draws from. indices: into the stream's list of problems.

    min_left: dropping solved problems must leave so many, else a step would repeat the few that remain.
    """

    name: str
    weight: float
    indices: tuple[int, ...]
    min_left: int = 1


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What one stage draws from, before solved problems are dropped."""

    name: str
    parts: tuple[Part, ...]
    drop_solved: bool = False

    @property
    def num_problems(self) -> int:
        return sum(len(part.indices) for part in self.parts)


class Rotation:
    """Which of several weighted parts comes next: always the one that lags furthest behind its share.

    A function of (weights, position) alone. After any number of draws a part has had its share within less than the
    number of parts, which a random choice would only approach with the square root.
    """

    def __init__(self, weights: Sequence[float], position: int = 0) -> None:
        total = sum(weights)
        self._shares = [weight / total for weight in weights]
        self._counts = [0] * len(weights)
        self._drawn = 0
        if len(weights) == 1:
            self._counts, self._drawn = [position], position
        while self._drawn < position:
            self.next()

    def next(self) -> tuple[int, int]:
        """(part, how often it was drawn before)."""
        self._drawn += 1
        lags = [share * self._drawn - count for share, count in zip(self._shares, self._counts, strict=True)]
        part = max(range(len(lags)), key=lags.__getitem__)
        self._counts[part] += 1
        return part, self._counts[part] - 1


def admits(stage: StageSection, encoded: EncodedProblem) -> bool:
    """Whether the problem lies in the stage's bands, ends included. One without difficulty lies in no band of it."""
    difficulty, tokens = encoded.problem.difficulty, len(encoded.prompt_ids)
    if stage.min_difficulty is not None and (difficulty is None or difficulty < stage.min_difficulty):
        return False
    if stage.max_difficulty is not None and (difficulty is None or difficulty > stage.max_difficulty):
        return False
    longest = stage.longest_prompt
    return stage.shortest_prompt <= tokens and (longest is None or tokens <= longest)


def plan_stages(recipe: Recipe, problems: Sequence[EncodedProblem], source_of: Sequence[int]) -> list[StagePlan]:
    """One plan per stage. source_of: per problem, the index of its entry in data.sources (0 without a mixture).

    Raises ValueError for a stage that would draw from a source of which no problem lies in its bands.
    """
    names = [source.name for source in recipe.data.sources] or [""]
    weights = [source.weight for source in recipe.data.sources] or [1.0]
    plans = []
    for number, stage in enumerate(recipe.stages):
        chosen = [i for i, name in enumerate(names) if stage.sources is None or name in stage.sources]
        total = sum(weights[i] for i in chosen)
        parts = []
        for i in chosen:
            indices = tuple(k for k, e in enumerate(problems) if source_of[k] == i and admits(stage, e))
            if not indices:
                raise ValueError(_empty(recipe, number, names[i], sum(source == i for source in source_of)))
            min_left = ceil(recipe.rollout.prompts_per_step * weights[i] / total)
            parts.append(Part(names[i], weights[i], indices, min_left))
        plans.append(StagePlan(stage.name, tuple(parts), stage.drop_solved))
    return plans


def describe_bands(stage: StageSection) -> str:
    """The stage's bands in words; empty when it has none."""
    words = []
    if stage.min_difficulty is not None or stage.max_difficulty is not None:
        words.append(f"difficulty {_span(stage.min_difficulty, stage.max_difficulty)}")
    if stage.shortest_prompt or stage.longest_prompt is not None:
        words.append(f"prompts of {_span(stage.shortest_prompt, stage.longest_prompt)} tokens")
    return ", ".join(words)


def _span(low: float | None, high: float | None) -> str:
    if high is None:
        return f"{low or 0:g} or more"
    return f"up to {high:g}" if not low else f"{low:g} to {high:g}"


def _empty(recipe: Recipe, number: int, source: str, held: int) -> str:
    stage = recipe.stages[number]
    origin = f"source {source!r}" if source else str(recipe.data.source)
    return (
        f"stages.{number} ({stage.name}): none of the {counted(held, 'usable problem')} of {origin} lies in its bands "
        f"({describe_bands(stage) or 'no bands'}); widen stages.{number}.min_difficulty, max_difficulty, "
        f"shortest_prompt or longest_prompt, or leave the source out by stages.{number}.sources"
    )
