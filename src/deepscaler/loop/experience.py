"""One step's experience: sample, grade, and, with dynamic sampling, refill until enough groups carry signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from deepscaler.algorithms.signal import split_by_signal
from deepscaler.config.models import Recipe
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.data.requests import Encode, SampleQuery, make_requests
from deepscaler.data.stream import ProblemStream
from deepscaler.observability.clock import StepClock
from deepscaler.protocols import Grader, Sampler
from deepscaler.rewards.scoring import scored
from deepscaler.types import GradeItem, Group, Problem, Rollout, SamplingParams, ScoredGroup, TrainSample


@dataclass(frozen=True, slots=True)
class Step:
    """The step under way. number: counted from 1."""

    number: int
    stage: StageSection
    clock: StepClock


@dataclass(frozen=True, slots=True)
class Collected:
    """`sampled`: every group of the step, for the metrics. `trained`: those the update gets, in sampling order."""

    sampled: list[ScoredGroup]
    trained: list[ScoredGroup]
    num_refills: int = 0


MakeSamples = Callable[[Sequence[ScoredGroup], Step], list[list[TrainSample]]]  # one inner list per optimizer update


class Experience(Protocol):
    """Where a step's graded groups come from."""

    def collect(self, step: Step) -> Collected: ...


class OnPolicy:
    """Samples with the newest weights, while the learner waits.

    to_items: groups -> one item to grade per rollout (rewards.scoring.items_of).
    on_rollout: called for every completion as it finishes.
    """

    def __init__(
        self,
        recipe: Recipe,
        stream: ProblemStream,
        sampler: Sampler,
        grader: Grader,
        encode: Encode,
        to_items: Callable[[Sequence[Group]], list[GradeItem]],
        on_rollout: Callable[[Rollout], object] = lambda rollout: None,
    ) -> None:
        self._recipe, self._stream = recipe, stream
        self._sampler, self._grader = sampler, grader
        self._encode, self.to_items, self._on_rollout = encode, to_items, on_rollout

    def collect(self, step: Step) -> Collected:
        """Sample and grade `prompts_per_step` groups.

        With `dynamic_sampling` (DAPO, arXiv:2503.14476 §3.2) groups whose rewards are all equal are replaced by fresh
        problems, up to `max_refills` rounds; with `drop_zero_variance` they are left out without replacement. A refill
        may draw a problem of the same step again: its sample indices go on where they were, so no completion is
        sampled twice.
        """
        algorithm, wanted = self._recipe.algorithm, self._recipe.rollout.prompts_per_step
        next_index: dict[str, int] = {}
        sampled = self._graded(wanted, step, next_index)
        if not (algorithm.dynamic_sampling or algorithm.drop_zero_variance):
            return Collected(sampled, sampled)
        trained, _ = split_by_signal(sampled)
        refills = 0
        while algorithm.dynamic_sampling and len(trained) < wanted and refills < algorithm.max_refills:
            refills += 1
            more = self._graded(wanted - len(trained), step, next_index)
            sampled = [*sampled, *more]
            trained = [*trained, *split_by_signal(more)[0]]
        return Collected(sampled, trained, refills)

    def _graded(self, count: int, step: Step, next_index: dict[str, int]) -> list[ScoredGroup]:
        with step.clock.phase("sample"):
            group_size = step.stage.group_size or self._recipe.rollout.group_size
            groups = self.sample(self._stream.take(count), group_size, self._params(step), next_index)
        with step.clock.phase("grade"):
            items = self.to_items(groups)
            return scored(groups, items, self._grader.grade(items))

    def sample(
        self, problems: Sequence[Problem], group_size: int, params: SamplingParams, next_index: dict[str, int]
    ) -> list[Group]:
        """Groups in the order of `problems`, their rollouts in the order of the sample index.

        next_index: problem id -> its first free sample index in this step, moved on by this call. Who samples twice in
        a step passes the same one, as equal indices draw equal completions.
        """
        queries = []
        for problem in problems:  # one problem may occur twice: where two epochs meet, or in a refill
            first = next_index.get(problem.id, 0)
            next_index[problem.id] = first + group_size
            queries.append(SampleQuery(problem.id, problem, range(first, first + group_size)))
        rollouts: dict[tuple[str, int], Rollout] = {}
        for rollout in self._sampler.generate(make_requests(queries, self._encode), params):
            rollouts[rollout.problem_id, rollout.sample_index] = rollout
            self._on_rollout(rollout)
        return [Group(q.problem, tuple(rollouts[q.name, index] for index in q.indices)) for q in queries]

    def _params(self, step: Step) -> SamplingParams:
        rollout = self._recipe.rollout
        return SamplingParams(
            max_completion_tokens=step.stage.max_completion_tokens,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            seed=self._recipe.seed,
            step=step.number,
            stop=rollout.stop,  # the engine was started with rollout.stop_token_ids
        )
