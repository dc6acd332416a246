"""From groups to items and from verdicts to scored groups: every rollout gets its own verdict, in order."""

from __future__ import annotations

import numpy as np
import pytest

from deepscaler.rewards.scoring import items_of, scored
from deepscaler.types import FinishReason, GradeItem, Group, Outcome, Problem, Rollout, Verdict


def group(problem: Problem, *lengths: int) -> Group:
    """One rollout per length; a length above 2 is truncated."""
    rollouts = []
    for index, length in enumerate(lengths):
        ids, reason = np.full(length, 7, np.int32), FinishReason.LENGTH if length > 2 else FinishReason.STOP
        rollouts.append(Rollout(problem.id, index, ids[:1], ids, np.zeros(length, np.float32), reason, 0))
    return Group(problem, tuple(rollouts))


GROUPS = [group(Problem("a", "?", ("7",)), 1, 3), group(Problem("b", "?", ("8", "9"), tolerance=0.5), 2)]


def test_an_item_holds_what_its_problem_and_rollout_say() -> None:
    assert items_of(GROUPS, lambda ids: "x" * len(ids), thinking_prefilled=True) == [
        GradeItem("x", ("7",), True),
        GradeItem("xxx", ("7",), True, truncated=True),
        GradeItem("xx", ("8", "9"), True, tolerance=0.5),
    ]


def test_verdicts_and_texts_reach_their_own_rollouts() -> None:
    items = items_of(GROUPS, lambda ids: str(len(ids)), thinking_prefilled=False)
    verdicts = [Verdict(Outcome.CORRECT, 1.0, item.completion) for item in items]
    first, second = scored(GROUPS, items, verdicts)
    assert (first.group, second.group) == tuple(GROUPS)
    assert first.texts == ("1", "3") and second.texts == ("2",)
    assert [v.answer for v in (*first.verdicts, *second.verdicts)] == ["1", "3", "2"]


def test_a_missing_verdict_is_an_error() -> None:
    items = items_of(GROUPS, lambda ids: "", thinking_prefilled=False)
    with pytest.raises(ValueError, match="shorter"):
        scored(GROUPS, items, [Verdict(Outcome.WRONG, 0.0)])


def test_one_string_is_not_a_sequence_of_references() -> None:
    with pytest.raises(TypeError, match="sequence of strings"):
        GradeItem("7", "7", thinking_prefilled=False)
