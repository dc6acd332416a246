"""What an evaluation asks for and what comes back: keys, plans, completions, and where completions come from."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

from deepscaler.types import FinishReason, Problem

EVALUATION_STEP = -1  # keeps evaluation's draws apart from those of training steps


class Key(NamedTuple):
    """Names one sample of an evaluation."""

    benchmark: str
    problem_id: str
    sample_index: int

    def __str__(self) -> str:
        return f"{self.benchmark}, problem {self.problem_id}, sample {self.sample_index}"


@dataclass(frozen=True, slots=True)
class Completion:
    """One sample as it arrived.

    text: what is graded; reasoning that came apart from the answer precedes it in `<think>` tags.
    token_ids: None where the engine speaks text only. num_tokens: None where it does not say.
    seed: what the draws were keyed with, None where a server was sent none. latency_s: from sending the request to the
        whole answer; None in an engine that decodes many at once, where it means nothing.
    """

    key: Key
    text: str
    token_ids: tuple[int, ...] | None
    num_tokens: int | None
    finish_reason: FinishReason
    seed: int | None
    latency_s: float | None


@dataclass(frozen=True)
class Plan:
    """Which problems, how often. Raises ValueError for an empty benchmark or a repeated problem."""

    sets: Mapping[str, Sequence[Problem]]
    num_samples: int

    def __post_init__(self) -> None:
        if not self.sets:
            raise ValueError("there is no benchmark to evaluate; name at least one")
        for name, problems in self.sets.items():
            if not problems:
                raise ValueError(f"evaluation set {name} is empty; give it problems or leave it out")
            if len({p.id for p in problems}) < len(problems):
                raise ValueError(f"evaluation set {name} holds a problem id twice; give every problem its own")

    @cached_property
    def problems(self) -> dict[tuple[str, str], Problem]:
        return {(name, p.id): p for name, problems in self.sets.items() for p in problems}

    def problem(self, key: Key) -> Problem:
        return self.problems[key.benchmark, key.problem_id]

    @property
    def num_completions(self) -> int:
        return len(self.problems) * self.num_samples

    def samples(self) -> Iterator[Key]:
        """In the order of the tables: benchmark, problem, sample."""
        for name, problem_id in self.problems:
            for index in range(self.num_samples):
                yield Key(name, problem_id, index)


class Source(Protocol):
    """An engine, or a server, as an evaluation sees it."""

    def complete(self, plan: Plan, wanted: Sequence[Key]) -> Generator[Completion, None, None]:
        """Yield every wanted sample as it finishes, in any order. Closing the iterator cancels what is left."""
        ...

    def warnings(self) -> list[str]:
        """What the engine was seen to ignore or change, in sentences."""
        ...

    @property
    def metadata(self) -> Mapping[str, object]:
        """What it says about itself, recorded with the result."""
        ...
