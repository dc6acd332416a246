"""Figures of one step's completions, named as in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from deepscaler.types import Outcome, ScoredGroup


@dataclass(frozen=True, slots=True)
class RolloutStats:
    """Over every sampled completion, before any filtering. None: there was nothing to take the mean of.

    Rewards, solved_frac, and whether a group is all right or all wrong, are of the completions that have a reward;
    right means solved, as the recipe defines it.
    """

    num_completions: int
    num_graded: int
    num_correct: int
    reward_mean: float | None
    solved_frac: float | None
    truncated_frac: float
    length_mean: float
    length_correct_mean: float | None
    length_wrong_mean: float | None
    groups_all_correct_frac: float
    groups_all_wrong_frac: float
    num_sampled_tokens: int
    grader_cached_frac: float | None
    grader_longest_s: float | None
    outcome_frac: Mapping[Outcome, float]

    def metrics(self) -> dict[str, float]:
        """Their entries in metrics.jsonl; those that are None are left out."""
        written = [f.name for f in fields(self) if f.name not in ("outcome_frac", "num_graded", "num_correct")]
        values = {name: getattr(self, name) for name in written}
        values |= {f"outcome_{outcome.value}_frac": share for outcome, share in self.outcome_frac.items()}
        return {name: float(value) for name, value in values.items() if value is not None}


def rollout_stats(groups: Sequence[ScoredGroup]) -> RolloutStats:
    """Raises ValueError for no groups."""
    if not groups:
        raise ValueError("no groups were sampled in this step, so there is nothing to measure")
    pairs = [
        (rollout, verdict)
        for scored in groups
        for rollout, verdict in zip(scored.group.rollouts, scored.verdicts, strict=True)
    ]
    total = len(pairs)
    earned = [reward for scored in groups for reward in scored.earned]
    graded = [(r.num_tokens, e) for (r, _), e in zip(pairs, earned, strict=True) if e.value is not None]
    right = [num_tokens for num_tokens, e in graded if e.solved]
    wrong = [num_tokens for num_tokens, e in graded if not e.solved]
    asked = [v for _, v in pairs if v.outcome is not Outcome.TRUNCATED]
    return RolloutStats(
        num_completions=total,
        num_graded=len(graded),
        num_correct=len(right),
        reward_mean=_mean(e.value for _, e in graded if e.value is not None),
        solved_frac=_mean(e.solved for _, e in graded),
        truncated_frac=sum(r.truncated for r, _ in pairs) / total,
        length_mean=sum(r.num_tokens for r, _ in pairs) / total,
        length_correct_mean=_mean(right),
        length_wrong_mean=_mean(wrong),
        groups_all_correct_frac=sum(_all(g, correct=True) for g in groups) / len(groups),
        groups_all_wrong_frac=sum(_all(g, correct=False) for g in groups) / len(groups),
        num_sampled_tokens=sum(r.num_tokens for r, _ in pairs),
        grader_cached_frac=_mean(v.cached for v in asked),
        grader_longest_s=max((v.seconds for v in asked), default=None),
        outcome_frac={outcome: sum(v.outcome is outcome for _, v in pairs) / total for outcome in Outcome},
    )


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None


def _all(group: ScoredGroup, *, correct: bool) -> bool:
    """Whether everything that has a reward is solved (or nothing is), and something has one."""
    solved = [reward.solved for reward in group.earned if reward.value is not None]
    return bool(solved) and all(right == correct for right in solved)
