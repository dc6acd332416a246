"""Groups that carry signal for the update, and groups that do not. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

from deepscaler.types import ScoredGroup


def select_groups(
    groups: Sequence[ScoredGroup], *, needs_signal: bool, accuracy_band: tuple[float, float] | None
) -> list[ScoredGroup]:
    """The groups that are trained on, in the given order.

    needs_signal: without those whose graded rewards are all equal, of which every advantage is zero: DAPO
    (arXiv:2503.14476 §3.2) drops them and samples more, ScaleRL (arXiv:2510.13786) drops them, DeepScaleR keeps them.
    accuracy_band: only groups whose share of solved completions is inside, ends included (Skywork-OR1,
    arXiv:2505.22312 §3.2; online difficulty filtering, arXiv:2504.03380). Decided by the grader's rewards, before any
    length penalty, as in DAPO.
    """
    return [
        group
        for group in groups
        if (not needs_signal or group.has_signal) and (accuracy_band is None or _is_inside(group, accuracy_band))
    ]


def _is_inside(group: ScoredGroup, band: tuple[float, float]) -> bool:
    rate = group.solve_rate
    return rate is not None and band[0] <= rate <= band[1]
