"""From sampled groups to what a grader is given, and from its verdicts to scored groups. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deepscaler.types import GradeItem, Group, IntArray, ScoredGroup, Verdict


def items_of(
    groups: Sequence[Group], decode: Callable[[IntArray], str], *, thinking_prefilled: bool
) -> list[GradeItem]:
    """One item per rollout, group by group.

    decode: ids of one completion -> the text to grade. thinking_prefilled: the chat template opened `<think>`.
    """
    return [
        GradeItem(
            decode(rollout.completion_ids),
            group.problem.references,
            thinking_prefilled,
            group.problem.tolerance,
            rollout.truncated,
            group.problem.answer_kind,
        )
        for group in groups
        for rollout in group.rollouts
    ]


def scored(groups: Sequence[Group], items: Sequence[GradeItem], verdicts: Sequence[Verdict]) -> list[ScoredGroup]:
    """The groups with the verdicts on their items. items: as `items_of` made them; verdicts: one per item."""
    pairs = iter(zip(items, verdicts, strict=True))
    result = []
    for group in groups:
        graded = [next(pairs) for _ in group.rollouts]
        texts, found = tuple(item.completion for item, _ in graded), tuple(verdict for _, verdict in graded)
        result.append(ScoredGroup(group, texts, found))
    return result
