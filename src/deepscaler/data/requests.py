"""From problems to the engine's requests: the same for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.templates import encode_problem
from deepscaler.types import IntArray, Problem, Request

Encode = Callable[[Problem], IntArray]


@dataclass(frozen=True, slots=True)
class SampleQuery:
    """Samples wanted of one problem. name: what their draws are keyed with, the problem's id unless it is ambiguous."""

    name: str
    problem: Problem
    indices: Sequence[int]


def make_requests(queries: Iterable[SampleQuery], encode: Encode) -> list[Request]:
    """One request for each run of consecutive sample indices, in the order of the queries."""
    return [
        Request(query.name, encode(query.problem), count, first)
        for query in queries
        for first, count in _consecutive(query.indices)
    ]


def _consecutive(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of each run of consecutive indices."""
    for _, group in groupby(enumerate(sorted(indices)), key=lambda pair: pair[1] - pair[0]):
        members = [index for _, index in group]
        yield members[0], len(members)


class PromptEncoder:
    """Prompt ids of a problem, each rendered and tokenised once. encoded: what was encoded before, by problem id."""

    def __init__(
        self, tokenizer: Any, prompt_format: PromptFormat, encoded: Mapping[str, IntArray] | None = None
    ) -> None:
        self._tokenizer, self._prompt_format = tokenizer, prompt_format
        self._encoded: dict[str, IntArray] = dict(encoded or {})

    def __call__(self, problem: Problem) -> IntArray:
        """int32 [num_prompt_tokens]."""
        if problem.id not in self._encoded:
            self._encoded[problem.id] = encode_problem(self._tokenizer, problem, self._prompt_format)
        return self._encoded[problem.id]
