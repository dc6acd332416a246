"""Groups that carry signal for the update, and groups that do not. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

from deepscaler.types import ScoredGroup


def split_by_signal(groups: Sequence[ScoredGroup]) -> tuple[list[ScoredGroup], list[ScoredGroup]]:
    """(groups whose graded rewards differ, all other groups), each in the given order.

    The second have zero advantage: DAPO (arXiv:2503.14476) drops them and samples more, ScaleRL
    (arXiv:2510.13786) drops them, DeepScaleR keeps them. Decided by the grader's rewards, before any length
    penalty, as in DAPO.
    """
    with_signal: list[ScoredGroup] = []
    without: list[ScoredGroup] = []
    for group in groups:
        (with_signal if group.has_signal else without).append(group)
    return with_signal, without
