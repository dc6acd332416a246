"""Exact numbers, tolerances, explanations, and the verdict built on the equality of answers."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscaler.answers.equivalence import MAX_PARSED_CHARACTERS, equivalent, explain, is_parsable, read
from deepscaler.answers.kinds import Scalar
from deepscaler.answers.values.budget import UndefinedError
from deepscaler.answers.values.exact import exact_value
from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Outcome


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
        (r"2^{-3}\cdot5!", Fraction(15)),
        (r"\sqrt{\frac{4}{9}}", Fraction(2, 3)),
    ],
)
def test_numbers_are_read_exactly(text: str, value: Fraction) -> None:
    answer = read(text).answers[0]
    assert isinstance(answer, Scalar)
    assert exact_value(answer.tree) == value


@pytest.mark.parametrize(
    "text", ["-", ".", "x", "1/0", "1 2", "12,34", "1,2", "1,2345", r"\frac{1}{0}", "1_000", "0^0"]
)
def test_what_is_no_number_is_not_read_as_one(text: str) -> None:
    for answer in read(text).answers:
        with suppress(UndefinedError):
            assert not isinstance(answer, Scalar) or exact_value(answer.tree) is None


def test_too_many_digits_are_compared_as_text() -> None:
    long = "9" * (MAX_PARSED_CHARACTERS + 1)
    assert equivalent(long, f" {long}").equal
    assert not equivalent(long, f"{long}0").equal
    assert not equivalent(long, f"0{long}").equal


@pytest.mark.parametrize("depth", [9, 61, 200])
def test_what_cannot_be_read_equals_the_same_text_only(depth: int) -> None:
    nested = [f"{'(1,' * depth}{last}{')' * depth}" for last in "34"]
    assert not equivalent(*nested).equal
    assert equivalent(nested[0], f" {nested[0]}").equal
    assert not equivalent("(" * 70 + "1" + ")" * 70, "((1))").equal


@pytest.mark.parametrize(
    ("answer", "tolerance", "equal"),
    [
        ("0.35", None, False),
        ("0.35", 0.1, True),
        ("0.4", 0.1, True),  # the edge belongs to it
        ("0.41", 0.1, False),
        (r"\frac{1}{\pi}", 0.1, True),
        ("x", 0.1, False),
        ("0.3, 0.31", 0.1, False),
    ],
)
def test_a_declared_tolerance_is_absolute(answer: str, tolerance: float | None, equal: bool) -> None:
    assert equivalent(answer, "0.3", tolerance=tolerance).equal is equal
    assert equivalent("0.3", answer, tolerance=tolerance).equal is equal


def test_a_tolerance_holds_for_each_number_of_a_list() -> None:
    assert equivalent("(1.05, 2)", "(1, 2.05)", tolerance=0.1).equal
    assert not equivalent("(1.05, 2)", "(1, 2.2)", tolerance=0.1).equal


def test_an_explanation_shows_both_readings_and_the_verdict() -> None:
    lines = explain(r"x\in(2,5]", r"2<x\le 5")
    assert lines == [
        r"answer: x\in(2,5]",
        "  read as x in (2, 5]",
        r"reference: 2<x\le 5",
        "  read as x in (2, 5]",
        "equal: same set of real numbers",
    ]
    assert explain("1 2", "12")[1].startswith("  not understood: ")


@pytest.mark.parametrize("text", ["12", r"\frac12", "(1,2)", "x^2", "A", r"x\ge3", "12 apples", r"\{1,2\}", "y=2x"])
def test_mathematics_is_parsable(text: str) -> None:
    assert is_parsable(text)


@pytest.mark.parametrize(
    "text", ["Tuesday", "see the figure", "1 2", r"\frac{1", "", "x" * (MAX_PARSED_CHARACTERS + 1)]
)
def test_words_and_opaque_text_are_not_parsable(text: str) -> None:
    assert not is_parsable(text)


@settings(max_examples=200, deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6), st.integers(2, 50))
def test_equivalent_rewrites_are_equal_and_mutations_are_not(top: int, bottom: int, factor: int) -> None:
    answer = f"</think>\\boxed{{\\frac{{{top * factor}}}{{{bottom * factor}}}}}"
    right = grade(GradeItem(answer, [f"{top}/{bottom}"], thinking_prefilled=True))
    wrong = grade(GradeItem(answer, [f"{top + 1}/{bottom}"], thinking_prefilled=True))
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
        ("7", ["$$", "{}"], Outcome.BAD_REFERENCE),
        ("7", ["", "7"], Outcome.CORRECT),
        (r"\phantom{5}", [r"\phantom{5}"], Outcome.BAD_REFERENCE),
        ("(" * 70 + "1" + ")" * 70, [r"\,", r"\tag{7}"], Outcome.BAD_REFERENCE),
        ("5", [r"5\tag{1}"], Outcome.CORRECT),
        ("7", ["6", "8"], Outcome.WRONG),
    ],
)
def test_verdicts(answer: str, references: list[str], outcome: Outcome) -> None:
    verdict = grade(GradeItem(f"</think>\\boxed{{{answer}}}", references, thinking_prefilled=True))
    assert verdict.outcome is outcome
    assert verdict.reward == (1.0 if outcome is Outcome.CORRECT else 0.0)
    assert verdict.answer is None or len(verdict.answer) <= 201


def test_one_string_is_not_a_list_of_references() -> None:
    with pytest.raises(TypeError, match="sequence of strings"):
        grade(GradeItem("</think>\\boxed{7}", "7", thinking_prefilled=True))
