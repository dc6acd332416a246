"""One step's experience: sample, grade, and, with dynamic sampling, refill until enough groups carry signal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepscaler.algorithms.batch import split_by_signal
from deepscaler.config.models import StageSection
from deepscaler.observability.clock import StepClock
from deepscaler.rewards.scoring import items_of, scored
from deepscaler.types import SamplingParams, ScoredGroup

if TYPE_CHECKING:
    from deepscaler.orchestration.run import Run


@dataclass(frozen=True, slots=True)
class Collected:
    """`sampled`: every group of the step, for the metrics. `trained`: those the update gets, in sampling order."""

    sampled: list[ScoredGroup]
    trained: list[ScoredGroup]
    num_refills: int = 0


def collect(run: Run, stage: StageSection, step: int, clock: StepClock) -> Collected:
    """Sample and grade `prompts_per_step` groups.

    With `dynamic_sampling` (DAPO, arXiv:2503.14476 §3.2) groups whose rewards are all equal are replaced by fresh
    problems, up to `max_refills` rounds; with `drop_zero_variance` they are left out without replacement. A refill
    may come upon a problem of the same step again: its sample indices go on where they were, so no completion is
    drawn twice.
    """
    algorithm = run.recipe.algorithm
    wanted = run.recipe.rollout.prompts_per_step
    next_index: dict[str, int] = {}
    sampled = _sample(run, wanted, stage, step, clock, next_index)
    if not (algorithm.dynamic_sampling or algorithm.drop_zero_variance):
        return Collected(sampled, sampled)
    trained, _ = split_by_signal(sampled)
    refills = 0
    while algorithm.dynamic_sampling and len(trained) < wanted and refills < algorithm.max_refills:
        refills += 1
        more = _sample(run, wanted - len(trained), stage, step, clock, next_index)
        sampled = [*sampled, *more]
        trained = [*trained, *split_by_signal(more)[0]]
    return Collected(sampled, trained, refills)


def _sample(
    run: Run, count: int, stage: StageSection, step: int, clock: StepClock, next_index: dict[str, int]
) -> list[ScoredGroup]:
    rollout = run.recipe.rollout
    params = SamplingParams(
        max_completion_tokens=stage.max_completion_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        seed=run.recipe.seed,
        step=step,
        stop=rollout.stop,  # rollout.stop_token_ids are among the engine's
    )
    with clock.phase("sample"):
        group_size = stage.group_size or rollout.group_size
        groups = run.fleet.sample(run.stream.take(count), group_size, params, next_index=next_index)
    with clock.phase("grade"):
        items = items_of(groups, run.decode, thinking_prefilled=run.thinking_prefilled)
        return scored(groups, items, run.grader.grade(items))
