"""The groups of one step while they are sampled and graded ahead of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from deepscaler.data.requests import Encode, SampleQuery, make_requests
from deepscaler.types import FinishReason, Group, Problem, Request, Rollout, ScoredGroup

# The draws of an engine are keyed by problem and sample index. Steps that are sampled at the same time have indices of
# their own, so that a problem that occurs in two of them gets other completions.
INDICES_PER_STEP = 2**16


@dataclass(slots=True, eq=False)
class SampledGroup:
    """query: its sample indices are those of the requests. begun: interrupted completions, by index."""

    query: SampleQuery
    finished: dict[int, Rollout] = field(default_factory=dict)
    begun: dict[int, Rollout] = field(default_factory=dict)
    scored: ScoredGroup | None = None

    @property
    def is_sampled(self) -> bool:
        return len(self.finished) == len(self.query.indices)

    @property
    def whole(self) -> Group:
        """With sample indices counted from 0 in the step, in their order."""
        rollouts = (self.finished[index] for index in self.query.indices)
        return Group(
            self.query.problem,
            tuple(replace(r, sample_index=r.sample_index % INDICES_PER_STEP) for r in rollouts),
        )

    def requests(self, encode: Encode) -> Iterator[Request]:
        """What is not sampled yet: one request for what has not begun, one for each completion that has."""
        waiting = [i for i in self.query.indices if i not in self.finished and i not in self.begun]
        yield from make_requests([replace(self.query, indices=waiting)], encode)
        for index, rollout in self.begun.items():
            yield Request(rollout.problem_id, rollout.prompt_ids, 1, index, begun=rollout)

    def take(self, rollout: Rollout) -> None:
        """A completion that ended, or was interrupted."""
        index = rollout.sample_index
        joined = _joined(self.begun.pop(index, None), rollout)
        if rollout.finish_reason is not FinishReason.CANCELLED:
            self.finished[index] = joined
        elif joined.num_tokens:
            self.begun[index] = joined


@dataclass(slots=True, eq=False)
class StepBatch:
    """number: of the step that will train on it. groups: in the order in which their problems were drawn."""

    number: int
    groups: list[SampledGroup] = field(default_factory=list)
    num_refills: int = 0
    is_complete: bool = False
    _next_index: dict[str, int] = field(default_factory=dict)

    def add(self, problems: Sequence[Problem], group_size: int) -> list[SampledGroup]:
        """New groups. A problem may occur twice, between two epochs or in a refill: its indices continue."""
        added = []
        for problem in problems:
            first = self._next_index.get(problem.id, self.number * INDICES_PER_STEP)
            self._next_index[problem.id] = first + group_size
            added.append(SampledGroup(SampleQuery(problem.id, problem, range(first, first + group_size))))
        self.groups += added
        return added

    @property
    def scored(self) -> list[ScoredGroup] | None:
        """All groups with their verdicts; None while one is missing."""
        found = [group.scored for group in self.groups if group.scored is not None]
        return found if len(found) == len(self.groups) else None


def _joined(begun: Rollout | None, rollout: Rollout) -> Rollout:
    """The rollout with the versions of its tokens. An engine gives it the version that it ended with."""
    if begun is None:
        return rollout
    version = begun.later_versions[-1][1] if begun.later_versions else begun.policy_version
    later = begun.later_versions
    if rollout.num_tokens > begun.num_tokens and rollout.policy_version != version:
        later = (*later, (begun.num_tokens, rollout.policy_version))
    return replace(rollout, policy_version=begun.policy_version, later_versions=later)
