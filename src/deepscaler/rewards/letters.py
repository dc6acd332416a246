r"""Multiple choice: the letter that a boxed answer names, compared with the reference's.

    B   (B)   b)   \text{B}   \textbf{(B) }42   B. 42   Option B   B \text{ (42)}      name B
    42   AB   A, B   (A) and (B)   a body at rest                                      name no letter, or several

A box that holds the text of a choice instead of its letter counts as wrong, as in simple-evals and lighteval.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from deepscaler.rewards.extract import extract_answer
from deepscaler.types import GradeItem, Outcome, Verdict

SHOWN_CHARACTERS = 200
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mbox|boxed|fbox)\s*\{|[{}$*~]|\\[,;:! ]"
)
_BEFORE = re.compile(
    r"^(?:the\s+)?(?:correct\s+)?(?:final\s+)?(?:answer|option|choice)(?:\s+is)?\s*:?\s*", re.IGNORECASE
)
_ALONE = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.,:;]?")
_WITH_TEXT = re.compile(
    r"(?:[(\[]\s*([A-Za-z])\s*[)\]]|([A-Za-z])\s*[)\]]|([A-Z])\s*(?:[.:]|(?=\s[(\[])))\s*(?P<rest>.*)", re.DOTALL
)
_SECOND = re.compile(r"(?:,|;|&|/|\band\b|\bor\b)\s*[(\[]?\s*[A-Za-z]\s*(?:[)\].,:;]|$)", re.IGNORECASE)


def letter_of(answer: str) -> str | None:
    """The letter, upper case, that an extracted answer names; None for none or several."""
    text = " ".join(_WRAPPER.sub(" ", answer).split())
    text = _BEFORE.sub("", text, count=1)
    if alone := _ALONE.fullmatch(text):
        return alone[1].upper()
    if (found := _WITH_TEXT.fullmatch(text)) is None or _SECOND.match(found["rest"]):
        return None
    return (found[1] or found[2] or found[3]).upper()


def grade_letter(item: GradeItem) -> Verdict:
    """The verdict on a completion whose answer is a letter. Never raises for what a completion holds."""
    letters = {text.strip().upper() for text in item.references}
    if not letters or not all(re.fullmatch("[A-Z]", letter) for letter in letters):
        found = ", ".join(map(repr, item.references))
        return Verdict(Outcome.BAD_REFERENCE, 0.0, detail=f"the reference is not one letter: {found:.80}")
    extraction = extract_answer(item.completion, thinking_prefilled=item.thinking_prefilled, rules=item.answer_rules)
    if extraction.answer is None:
        return Verdict(Outcome.NO_ANSWER, 0.0, detail=extraction.why)
    letter, shown = letter_of(extraction.answer), extraction.answer[:SHOWN_CHARACTERS]
    if letter is None:
        return Verdict(Outcome.WRONG, 0.0, shown, "names no letter, or several")
    if letter in letters:
        return Verdict(Outcome.CORRECT, 1.0, letter, "same letter")
    return Verdict(Outcome.WRONG, 0.0, letter, f"another letter: {min(letters)}")


def by_answer_kind(grade: Callable[[GradeItem], Verdict]) -> Callable[[GradeItem], Verdict]:
    """`grade`, with letters compared as letters, whatever the profile."""

    def graded(item: GradeItem) -> Verdict:
        return grade_letter(item) if item.answer_kind == "letter" else grade(item)

    return graded
