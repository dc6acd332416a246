"""Whole completions graded by mathematics: the verdict, whatever the form of answer and references."""

from __future__ import annotations

import pytest

from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Outcome


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
