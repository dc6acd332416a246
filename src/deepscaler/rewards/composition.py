"""The reward of a completion as a weighted sum of parts. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deepscaler.types import CompletionReward, PartOutcome, PartValue, Verdict


def composed(
    parts: Sequence[PartValue], weights: Mapping[str, float], verdict: Verdict, solved_threshold: float | None
) -> CompletionReward:
    """The weighted sum of the parts that have a value.

    A part that says nothing (None) is left out of the sum, as in TRL; where all say nothing there is no reward. A part
    that failed leaves the completion without a reward, since nobody knows what it would have earned. A completion
    without a reward is left out of its group's mean and deviation and gets advantage and token weight 0.

    solved_threshold: smallest reward that counts as solved; None: the verdict decides. weights: by the part's name.
    """
    values = [weights[part.name] * part.value for part in parts if part.value is not None]
    failed = any(part.outcome.failed for part in parts)
    total = None if failed or not values else float(sum(values))
    if solved_threshold is None:
        return CompletionReward(total, verdict.outcome.value == "correct", tuple(parts))
    return CompletionReward(total, total is not None and total >= solved_threshold, tuple(parts))


def verdict_value(name: str, verdict: Verdict) -> PartValue:
    """The part of a grader's profile: 1 for correct, else 0; a grading without a verdict is a failure."""
    if verdict.outcome.graded:
        return PartValue(name, PartOutcome.VALUE, verdict.reward, seconds=verdict.seconds)
    detail = f"{verdict.outcome.value}: {verdict.detail}"
    return PartValue(name, PartOutcome.NO_VERDICT, detail=detail, seconds=verdict.seconds)
