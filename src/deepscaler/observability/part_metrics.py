"""Figures of the parts of a recipe's [reward], named as in docs/metrics.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deepscaler.types import PartOutcome, PartValue, ScoredGroup


@dataclass(frozen=True, slots=True)
class PartFailure:
    """A failure of one part in one step, and how often the same one occurred.

    trace: the function's traceback, as its process gave it.
    """

    part: str
    outcome: PartOutcome
    problem_id: str
    sample_index: int
    trace: str
    count: int = 1


def part_metrics(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Per part NAME: `reward/NAME/mean` of its values before the weight, shares of None and of failures, seconds a
    completion, and the sum of what the function counted beside its value. Empty without parts.
    """
    found: dict[str, float] = {}
    for name, values in _by_part(groups).items():
        numbers = [v.value for v in values if v.value is not None]
        outcomes = Counter(v.outcome for v in values)
        if numbers:
            found[f"reward/{name}/mean"] = sum(numbers) / len(numbers)
        found[f"reward/{name}/none_frac"] = outcomes[PartOutcome.NO_SIGNAL] / len(values)
        found[f"reward/{name}/failed_frac"] = sum(v.outcome.failed for v in values) / len(values)
        found[f"reward/{name}/seconds"] = sum(v.seconds for v in values) / len(values)
        for outcome in PartOutcome:
            if outcome.failed and outcomes[outcome]:
                found[f"reward/{name}/{outcome.value}"] = float(outcomes[outcome])
        for key, number in (pair for value in values for pair in value.metrics):
            found[f"reward/{name}/sum_{key}"] = found.get(f"reward/{name}/sum_{key}", 0.0) + number
    return found


def num_failed_rewards(groups: Sequence[ScoredGroup]) -> int:
    """Completions that have no reward because a function failed; gradings without a verdict are counted elsewhere."""
    return sum(
        any(part.outcome.failed and part.outcome is not PartOutcome.NO_VERDICT for part in reward.parts)
        for group in groups
        for reward in group.composed
    )


def part_failures(groups: Sequence[ScoredGroup]) -> list[PartFailure]:
    """Failures of functions, the first completion of each kind, in order of appearance."""
    first: dict[tuple[str, PartOutcome, str], PartFailure] = {}
    counts: Counter[tuple[str, PartOutcome, str]] = Counter()
    for group, index, value in _values(groups):
        if value.outcome.failed and value.outcome is not PartOutcome.NO_VERDICT:
            key = (value.name, value.outcome, value.detail)
            counts[key] += 1
            rollout = group.group.rollouts[index]
            first.setdefault(
                key, PartFailure(value.name, value.outcome, rollout.problem_id, rollout.sample_index, value.detail)
            )
    return [
        PartFailure(f.part, f.outcome, f.problem_id, f.sample_index, f.trace, counts[key]) for key, f in first.items()
    ]


def _by_part(groups: Sequence[ScoredGroup]) -> dict[str, list[PartValue]]:
    found: dict[str, list[PartValue]] = {}
    for _, _, value in _values(groups):
        found.setdefault(value.name, []).append(value)
    return found


def _values(groups: Sequence[ScoredGroup]) -> Iterator[tuple[ScoredGroup, int, PartValue]]:
    for group in groups:
        for index, reward in enumerate(group.composed):
            for value in reward.parts:
                yield group, index, value
