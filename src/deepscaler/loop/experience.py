"""Collects the experience of a step: sample, grade, and refill (dynamic sampling) until enough groups have signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from deepscaler.algorithms.signal import select_groups
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.config.sections.rollout import RolloutSection
from deepscaler.data.requests import Encode, SampleQuery, make_requests
from deepscaler.data.stream import ProblemStream
from deepscaler.observability.clock import StepClock
from deepscaler.protocols import Grader, Sampler
from deepscaler.rewards.scoring import scored
from deepscaler.types import GradeItem, Group, Problem, Rollout, SamplingParams, ScoredGroup, TrainSample


@dataclass(frozen=True, slots=True)
class Step:
    """The current step. number: counted from 1."""

    number: int
    stage: StageSection
    clock: StepClock


@dataclass(frozen=True, slots=True)
class Collected:
    """`sampled`: every group of the step, for the metrics. `trained`: groups of the update, in sampling order."""

    sampled: list[ScoredGroup]
    trained: list[ScoredGroup]
    num_refills: int = 0


Reward = Callable[[Sequence[ScoredGroup]], list[ScoredGroup]]
MakeSamples = Callable[[Sequence[ScoredGroup], Step], list[list[TrainSample]]]  # one inner list per optimizer update


class Experience(Protocol):
    """Source of the graded groups of a step."""

    def collect(self, step: Step) -> Collected: ...


class OnPolicy:
    """Samples with the newest weights, while the learner waits.

    to_items: groups -> one item to grade per rollout (rewards.scoring.items_of).
    on_rollout: called for every completion as it finishes. reward: graded groups -> the same with what they earned.
    """

    def __init__(
        self,
        rollout: RolloutSection,
        algorithm: AlgorithmSection,
        seed: int,
        stream: ProblemStream,
        sampler: Sampler,
        grader: Grader,
        encode: Encode,
        to_items: Callable[[Sequence[Group]], list[GradeItem]],
        on_rollout: Callable[[Rollout], object] = lambda rollout: None,
        reward: Reward = list,
    ) -> None:
        self._rollout, self._algorithm, self._seed = rollout, algorithm, seed
        self._stream = stream
        self._sampler, self._grader = sampler, grader
        self._encode, self.to_items, self._on_rollout = encode, to_items, on_rollout
        self._reward = reward

    def collect(self, step: Step) -> Collected:
        """Sample and grade `prompts_per_step` groups.

        With `dynamic_sampling` (DAPO, arXiv:2503.14476 §3.2) groups whose rewards are all equal are replaced by fresh
        problems, up to `max_refills` rounds; with `drop_zero_variance` they are left out without replacement. A refill
        may draw a problem of the same step again: its sample indices continue, so no completion is sampled
        twice. With `accuracy_band` groups outside the band are replaced in the same way.
        """
        algorithm, wanted = self._algorithm, self._rollout.prompts_per_step
        next_index: dict[str, int] = {}
        sampled = self._graded(wanted, step, next_index)
        trained = trained_groups(sampled, algorithm)
        refills = 0
        while algorithm.refills and len(trained) < wanted and refills < algorithm.max_refills:
            refills += 1
            more = self._graded(wanted - len(trained), step, next_index)
            sampled = [*sampled, *more]
            trained = [*trained, *trained_groups(more, algorithm)]
        return Collected(sampled, trained, refills)

    def _graded(self, count: int, step: Step, next_index: dict[str, int]) -> list[ScoredGroup]:
        with step.clock.phase("sample"):
            group_size = step.stage.group_size or self._rollout.group_size
            params = params_of(self._rollout, step.stage, seed=self._seed, step=step.number)
            groups = self.sample(self._stream.take(count), group_size, params, next_index)
        with step.clock.phase("grade"):
            items = self.to_items(groups)
            return self._reward(scored(groups, items, self._grader.grade(items)))

    def sample(
        self, problems: Sequence[Problem], group_size: int, params: SamplingParams, next_index: dict[str, int]
    ) -> list[Group]:
        """Groups in the order of `problems`, their rollouts in the order of the sample index.

        next_index: problem id -> its first free sample index in this step, advanced by this call. Pass the same
        mapping to all calls of a step, as equal indices draw equal completions.
        """
        queries = []
        for problem in problems:  # a problem may occur twice: between two epochs, or in a refill
            first = next_index.get(problem.id, 0)
            next_index[problem.id] = first + group_size
            queries.append(SampleQuery(problem.id, problem, range(first, first + group_size)))
        rollouts: dict[tuple[str, int], Rollout] = {}
        for rollout in self._sampler.generate(make_requests(queries, self._encode), params):
            rollouts[rollout.problem_id, rollout.sample_index] = rollout
            self._on_rollout(rollout)
        return [Group(q.problem, tuple(rollouts[q.name, index] for index in q.indices)) for q in queries]


def trained_groups(groups: Sequence[ScoredGroup], algorithm: AlgorithmSection) -> list[ScoredGroup]:
    """Those that the recipe trains on; all without a filter."""
    return select_groups(groups, needs_signal=algorithm.needs_signal, accuracy_band=algorithm.accuracy_band)


def params_of(rollout: RolloutSection, stage: StageSection, *, seed: int, step: int) -> SamplingParams:
    """step: draws are keyed with it."""
    return SamplingParams(
        max_completion_tokens=stage.max_completion_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        seed=seed,
        step=step,
        stop=rollout.stop,  # the engine was started with rollout.stop_token_ids
    )
