r"""The reward: 1 for an answer equal to any reference, else 0. Model text is read by our own grammar, never evaluated.

What equal means is decided in `answers.equivalence`.
"""

from __future__ import annotations

from deepscaler.answers import equivalence
from deepscaler.answers.equivalence import equivalent, says_nothing
from deepscaler.rewards.extract import extract_answer
from deepscaler.types import GradeItem, Outcome, Verdict

GRADER_VERSION = "6"  # goes up whenever a verdict may change
SHOWN_CHARACTERS = 200
_EMPTY = " \t\r\n$.,{}~"  # a reference of these alone says nothing


def grade(item: GradeItem) -> Verdict:
    """The verdict on one completion. Never raises for what a completion holds. docs/recipe.md, Reward."""
    usable = [
        text
        for text in map(_text, item.references)
        if text.strip(_EMPTY) and ("\\" not in text or not says_nothing(text))
    ]
    if not usable:
        return Verdict(Outcome.BAD_REFERENCE, 0.0, detail="no reference answer, or only empty ones")
    extraction = extract_answer(item.completion, thinking_prefilled=item.thinking_prefilled, rules=item.answer_rules)
    if extraction.answer is None:
        return Verdict(Outcome.NO_ANSWER, 0.0, detail=extraction.why)
    answer, shown = extraction.answer, _shorten(extraction.answer)
    how = ""
    for reference in usable:
        equality = equivalent(answer, reference, tolerance=item.tolerance)
        how = equality.how
        if equality.equal:
            return Verdict(Outcome.CORRECT, 1.0, shown, how)
    return Verdict(Outcome.WRONG, 0.0, shown, f"{how}: {_shorten(usable[0])}")


def explain(answer: str, reference: str, tolerance: float | None) -> list[str]:
    """The comparison step by step, one line each: texts, what they were read as, what decided."""
    return equivalence.explain(answer, reference, tolerance=tolerance)


def _text(reference: object) -> str:
    return "" if reference is None else str(reference).strip()


def _shorten(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
