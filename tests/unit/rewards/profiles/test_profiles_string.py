"""The string profile: typesetting does not matter, mathematics does."""

from __future__ import annotations

import pytest

from deepscaler.rewards.profiles.string import grade, normalized
from deepscaler.types import GradeItem, Outcome
from hang_guard import hang_guard


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"\dfrac{1}{2}", r"\frac12"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        ("1,234,567", "1234567"),
        (r"1{,}234", "1234"),
        (r"\text{Evening}.", "evening"),
        ("$x + 1$", r"\(x+1\)"),
        (r"12\,\text{cm}", "12cm"),
    ],
)
def test_typesetting_does_not_matter(answer: str, reference: str) -> None:
    verdict = grade(GradeItem(f"</think>\\boxed{{{answer}}}", [reference], thinking_prefilled=True))
    assert verdict.outcome is Outcome.CORRECT, verdict
    assert normalized(reference) == normalized(answer)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("0.5", r"\frac12"),
        ("2^{10}", "1024"),
        ("2x+z=1", "1"),
        ("(1,2)", "(2,1)"),
        ("[1,2]", "(1,2)"),
        (r"x^{12}", r"x^12"),
        ("1,2", "12"),
        ("1,23", "123"),
        (r"\frac123", r"\frac{1}{2}3"),
        ("1.5", "15"),
        ("(1,234)", "(1234)"),
    ],
)
def test_another_text_is_wrong(answer: str, reference: str) -> None:
    verdict = grade(GradeItem(f"</think>\\boxed{{{answer}}}", [reference], thinking_prefilled=True, tolerance=1e9))
    assert verdict.outcome is Outcome.WRONG, verdict


def test_alternatives_and_missing_answers() -> None:
    assert grade(GradeItem(r"\boxed{8}", ["7", "8"], thinking_prefilled=False)).outcome is Outcome.CORRECT
    assert grade(GradeItem("8", ["7"], thinking_prefilled=False)).outcome is Outcome.NO_ANSWER
    assert grade(GradeItem(r"\boxed{8}", ["", " $ "], thinking_prefilled=False)).outcome is Outcome.BAD_REFERENCE


@pytest.mark.parametrize("piece", ["\\frac", "\\text{", "1,", "\\left", " ", "1{,}000", "{", "$"])
def test_normalising_takes_linear_time(piece: str) -> None:
    with hang_guard(piece):  # quadratic time would take minutes
        normalized(piece * 100_000)
