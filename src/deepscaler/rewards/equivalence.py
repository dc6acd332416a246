"""Whether two answers are mathematically equal. Symmetric, deterministic, bounded in time; model text is never run."""

from __future__ import annotations

from dataclasses import dataclass

from deepscaler.rewards.normalize import normalize_answer
from deepscaler.rewards.numbers import exact_number

MAX_ANSWER_CHARACTERS = 10_000


@dataclass(frozen=True, slots=True)
class Equality:
    """`how` says in words which comparison decided."""

    equal: bool
    how: str


def equivalent(answer: str, reference: str, *, tolerance: float | None = None) -> Equality:
    """Never raises for what the texts hold. `tolerance`: absolute, where the data set's row declares one."""
    if max(len(answer), len(reference)) > MAX_ANSWER_CHARACTERS:
        return Equality(False, f"longer than {MAX_ANSWER_CHARACTERS} characters")
    left, right = normalize_answer(answer), normalize_answer(reference)
    if not left or not right:
        return Equality(False, "nothing to compare")
    first, second = exact_number(left), exact_number(right)
    if first is not None and second is not None:
        if first == second:
            return Equality(True, "same number")
        if tolerance is not None and abs(first - second) <= tolerance:
            return Equality(True, "same number within the tolerance of the data set")
        return Equality(False, "differs as a number")
    if left.casefold() == right.casefold():
        return Equality(True, "same text")
    return Equality(False, "differs as text")


def explain(answer: str, reference: str, *, tolerance: float | None = None) -> list[str]:
    """The comparison step by step, one line each."""
    return [
        f"answer    {normalize_answer(answer)}",
        f"reference {normalize_answer(reference)}",
        equivalent(answer, reference, tolerance=tolerance).how,
    ]


def is_parsable(answer: str) -> bool:
    """Whether the answer is understood as mathematics or a known kind of text, not as opaque text."""
    return exact_number(normalize_answer(answer)) is not None
