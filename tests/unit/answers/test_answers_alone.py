"""`deepscaler.answers` is usable alone: what its documentation shows is true, and nothing heavy is loaded for it."""

from __future__ import annotations

import doctest

import deepscaler.answers
from deepscaler.answers import equal, equivalent


def test_the_documented_examples_are_true() -> None:
    results = doctest.testmod(deepscaler.answers)
    assert results.attempted == 3
    assert results.failed == 0


def test_equality_is_true_or_false_and_bounded_by_the_tolerance() -> None:
    assert equal("1/2", "0.5") is True
    assert equal("0.5", "0.51") is False
    assert equal("0.5", "0.51", tolerance=0.1) is True
    assert equal("", "") is False
    assert equivalent("1/2", "0.5").how
