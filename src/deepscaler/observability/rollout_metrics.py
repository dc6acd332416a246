"""Metrics of one step's completions, named as in docs/run-directory.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deepscaler.types import Outcome, ScoredGroup


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None


def rollout_metrics(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Over every sampled completion, before any filtering. Raises ValueError for no groups."""
    if not groups:
        raise ValueError("no groups were sampled in this step, so there is nothing to measure")
    pairs = [
        (rollout, verdict)
        for scored in groups
        for rollout, verdict in zip(scored.group.rollouts, scored.verdicts, strict=True)
    ]
    total = len(pairs)
    right = [r.num_tokens for r, v in pairs if v.outcome is Outcome.CORRECT]
    wrong = [r.num_tokens for r, v in pairs if v.outcome is not Outcome.CORRECT]
    metrics: dict[str, float | None] = {
        "reward_mean": _mean(v.reward for _, v in pairs),
        "truncated_frac": sum(r.truncated for r, _ in pairs) / total,
        "length_mean": _mean(r.num_tokens for r, _ in pairs),
        "length_correct_mean": _mean(right),
        "length_wrong_mean": _mean(wrong),
        "groups_all_correct_frac": _mean(_all(g, correct=True) for g in groups),
        "groups_all_wrong_frac": _mean(_all(g, correct=False) for g in groups),
        "num_sampled_tokens": sum(right) + sum(wrong),
        "num_completions": total,
    }
    graded = [v for _, v in pairs if v.outcome is not Outcome.TRUNCATED]
    metrics["grader_cached_frac"] = _mean(v.cached for v in graded)
    metrics["grader_longest_s"] = max((v.seconds for v in graded), default=None)
    for outcome in Outcome:
        metrics[f"outcome_{outcome.value}_frac"] = sum(v.outcome is outcome for _, v in pairs) / total
    return {name: float(value) for name, value in metrics.items() if value is not None}


def _all(group: ScoredGroup, *, correct: bool) -> bool:
    return all((v.outcome is Outcome.CORRECT) == correct for v in group.verdicts)
