"""From sampled groups to what a grader is given, and from its verdicts to scored groups. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deepscaler.types import GradeItem, Group, IntArray, Problem, ScoredGroup, Verdict


def items_of(
    groups: Sequence[Group], decode: Callable[[IntArray], str], *, thinking_prefilled: bool
) -> list[GradeItem]:
    """One item per rollout, group by group.

    decode: ids of one completion -> the text to grade. thinking_prefilled: the chat template opened `<think>`.
    """
    return [
        item_of(group.problem, decode(rollout.completion_ids), rollout.truncated, thinking_prefilled=thinking_prefilled)
        for group in groups
        for rollout in group.rollouts
    ]


def item_of(problem: Problem, completion: str, truncated: bool, *, thinking_prefilled: bool) -> GradeItem:
    """A completion of the problem, with all that its verdict depends on."""
    return GradeItem(
        completion, problem.references, thinking_prefilled, problem.tolerance, truncated, problem.answer_kind
    )


def scored(groups: Sequence[Group], items: Sequence[GradeItem], verdicts: Sequence[Verdict]) -> list[ScoredGroup]:
    """The groups with the verdicts on their items. items: as `items_of` made them; verdicts: one per item."""
    pairs = iter(zip(items, verdicts, strict=True))
    result = []
    for group in groups:
        graded = [next(pairs) for _ in group.rollouts]
        texts, found = tuple(item.completion for item, _ in graded), tuple(verdict for _, verdict in graded)
        result.append(ScoredGroup(group, texts, found))
    return result
