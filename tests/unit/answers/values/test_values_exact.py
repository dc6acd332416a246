"""Numbers are read as the rational they name, and nothing else is read as one."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction

import pytest

from deepscaler.answers.equivalence import read
from deepscaler.answers.kinds import Scalar
from deepscaler.answers.values.budget import UndefinedError
from deepscaler.answers.values.exact import exact_value


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
