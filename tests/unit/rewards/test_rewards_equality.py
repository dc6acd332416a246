"""Equality of answers: exact numbers, normalised text, and the verdict built on them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from deepscaler.rewards.numbers import MAX_DIGITS, exact_number
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscaler.rewards.math_reward import grade
from deepscaler.types import Outcome


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("07", Fraction(7)),
        ("-3", Fraction(-3)),
        ("+3", Fraction(3)),
        ("1,234", Fraction(1234)),
        (r"1{,}234{,}567", Fraction(1234567)),
        (r"10\,000", Fraction(10000)),
        ("0.50", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("5.", Fraction(5)),
        ("-6/4", Fraction(-3, 2)),
        (r"\frac{6}{4}", Fraction(3, 2)),
        (r"-\dfrac{1}{3}", Fraction(-1, 3)),
        (r"\frac12", Fraction(1, 2)),
    ],
)
def test_numbers_are_read_exactly(text: str, value: Fraction) -> None:
    assert exact_number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "-", ".", "x", "1/0", "1 2", "12,34", "1,2", "1,2345", "--1", "9^9", "1e5", r"\frac{1}{0}", "1_000"],
)
def test_what_is_no_number_is_not_read_as_one(text: str) -> None:
    assert exact_number(text) is None


def test_too_many_digits_are_not_a_number() -> None:
    assert exact_number("9" * MAX_DIGITS) is not None
    assert exact_number("9" * (MAX_DIGITS + 1)) is None


@settings(max_examples=200, deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6), st.integers(2, 50))
def test_equivalent_rewrites_are_equal_and_mutations_are_not(top: int, bottom: int, factor: int) -> None:
    answer = f"</think>\\boxed{{\\frac{{{top * factor}}}{{{bottom * factor}}}}}"
    right = grade(answer, [f"{top}/{bottom}"], thinking_prefilled=True)
    wrong = grade(answer, [f"{top + 1}/{bottom}"], thinking_prefilled=True)
    assert right.outcome is Outcome.CORRECT
    assert wrong.outcome is Outcome.WRONG


@pytest.mark.parametrize(
    ("answer", "references", "outcome"),
    [
        ("7", ["07"], Outcome.CORRECT),
        ("07", ["7"], Outcome.CORRECT),
        ("8", ["7", "8"], Outcome.CORRECT),  # any alternative
        ("1 2", ["12"], Outcome.WRONG),
        ("7, 8", ["7"], Outcome.WRONG),  # hedging
        (r"\text{Evening}", ["evening"], Outcome.CORRECT),
        ("x = 5", ["x=5"], Outcome.CORRECT),
        ("9" * 20_000, ["9"], Outcome.WRONG),
        ("7", [], Outcome.BAD_REFERENCE),
        ("7", ["", " "], Outcome.BAD_REFERENCE),
    ],
)
def test_verdicts(answer: str, references: list[str], outcome: Outcome) -> None:
    verdict = grade(f"</think>\\boxed{{{answer}}}", references, thinking_prefilled=True)
    assert verdict.outcome is outcome
    assert verdict.reward == (1.0 if outcome is Outcome.CORRECT else 0.0)
    assert verdict.answer is None or len(verdict.answer) <= 201


def test_one_string_is_not_a_list_of_references() -> None:
    with pytest.raises(TypeError, match="sequence of strings"):
        grade("</think>\\boxed{7}", "7", thinking_prefilled=True)
