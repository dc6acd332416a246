r"""The reward: 1 for an answer equal to any reference, else 0. Model text is read by our own grammar, never evaluated.

Equality here is that of exact numbers and of normalised text, which is what the replica's integers need.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepscaler.rewards.extract import extract_answer
from deepscaler.rewards.normalize import normalize_answer
from deepscaler.rewards.numbers import exact_number
from deepscaler.types import Outcome, Verdict

MAX_ANSWER_CHARACTERS = 10_000
SHOWN_CHARACTERS = 200


def grade(completion: str, references: Sequence[str], *, thinking_prefilled: bool) -> Verdict:
    """The verdict on one completion against alternative references, any of which suffices.

    `thinking_prefilled`: the chat template opened `<think>`, so that the completion starts inside it. Never raises for
    what a completion holds. RECIPE §4.
    """
    if isinstance(references, str):
        raise TypeError("references is a sequence of strings, not one string")
    usable = [r for r in map(_reference, references) if r]
    if not usable:
        return Verdict(Outcome.BAD_REFERENCE, 0.0, detail="no reference answer, or only empty ones")
    extraction = extract_answer(completion, thinking_prefilled=thinking_prefilled)
    if extraction.answer is None:
        return Verdict(Outcome.NO_ANSWER, 0.0, detail=extraction.why)
    answer, shown = extraction.answer, _shorten(extraction.answer)
    if len(answer) > MAX_ANSWER_CHARACTERS:
        return Verdict(Outcome.WRONG, 0.0, shown, f"longer than {MAX_ANSWER_CHARACTERS} characters")
    normalized = normalize_answer(answer)
    for reference in usable:
        how = equal(normalized, reference)
        if how:
            return Verdict(Outcome.CORRECT, 1.0, shown, how)
    return Verdict(Outcome.WRONG, 0.0, shown, f"differs from {_shorten(usable[0])}")


def equal(answer: str, reference: str) -> str:
    """How two normalised answers are equal, in words; empty when they are not."""
    left, right = exact_number(answer), exact_number(reference)
    if left is not None and right is not None:
        return "same number" if left == right else ""
    return "same text" if answer.casefold() == reference.casefold() else ""


def _reference(reference: str) -> str:
    return normalize_answer(str(reference))


def _shorten(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
