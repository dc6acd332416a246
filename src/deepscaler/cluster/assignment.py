"""Which sampler of a group gets which requests."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from deepscaler.cluster.sharding import split_requests
from deepscaler.types import Request, Rollout

RESERVED_FRAC = 0.25  # of the expected tokens: dealt out at the end, to samplers that have finished
UNITS_PER_SAMPLER = 4  # so many pieces at least, where there are enough completions
LATEST_WEIGHT = 0.5  # of a problem's newest completion in its running mean length


class Assignment(Protocol):
    """exact: a lost share is sampled again as a whole, so that batches, and with them the last bits, are the same."""

    @property
    def exact(self) -> bool: ...

    def divide(
        self, requests: Sequence[Request], count: int, max_completion_tokens: int
    ) -> tuple[list[list[Request]], list[list[Request]]]:
        """A share for each of `count` samplers, and shares for those that have finished first, in order."""
        ...

    def note(self, rollout: Rollout) -> None:
        """A completion was sampled."""
        ...


class FixedAssignment:
    """By position and size only (`sharding.split_requests`), so that a run repeats itself."""

    exact = True

    def divide(
        self, requests: Sequence[Request], count: int, max_completion_tokens: int
    ) -> tuple[list[list[Request]], list[list[Request]]]:
        return split_requests(requests, count, max_completion_tokens), []

    def note(self, rollout: Rollout) -> None:
        pass


class LengthAwareAssignment:
    """The longest expected requests first, each to the sampler with the least (LPT, Graham 1969).

    A completion's expected length is the running mean of its problem's earlier ones, else that of all problems, else
    the budget. The shortest requests are kept back for samplers that finish early. For engines whose bits depend on
    their batches anyway: who samples what depends on lengths seen so far, which a resumed run has to learn again.
    """

    exact = False

    def __init__(self) -> None:
        self._means: dict[str, float] = {}
        self._sum, self._count = 0, 0

    def divide(
        self, requests: Sequence[Request], count: int, max_completion_tokens: int
    ) -> tuple[list[list[Request]], list[list[Request]]]:
        if count == 1:
            return [list(requests)], []
        units = _split(requests, UNITS_PER_SAMPLER * count)
        costs = [self._cost(unit, max_completion_tokens) for unit in units]
        order = sorted(range(len(units)), key=lambda i: (-costs[i], i))
        shares: list[list[Request]] = [[] for _ in range(count)]
        loads = [(0.0, member) for member in range(count)]
        left, reserved = sum(costs), RESERVED_FRAC * sum(costs)
        for place, index in enumerate(order):
            if left <= reserved and place >= count:
                return shares, [[units[i]] for i in order[place:]]
            load, member = heapq.heappop(loads)
            shares[member].append(units[index])
            heapq.heappush(loads, (load + costs[index], member))
            left -= costs[index]
        return shares, []

    def note(self, rollout: Rollout) -> None:
        length = rollout.num_tokens
        before = self._means.get(rollout.problem_id, float(length))
        self._means[rollout.problem_id] = before + LATEST_WEIGHT * (length - before)
        self._sum, self._count = self._sum + length, self._count + 1

    def _cost(self, request: Request, max_completion_tokens: int) -> float:
        unseen = self._sum / self._count if self._count else max_completion_tokens
        expected = min(self._means.get(request.problem_id, unseen), max_completion_tokens)
        return len(request.prompt_ids) + request.num_samples * expected


def _split(requests: Sequence[Request], wanted: int) -> list[Request]:
    """At least `wanted` requests, where there are so many completions; groups stay whole where they are enough."""
    parts = -(-wanted // max(1, len(requests)))
    units = []
    for request in requests:
        first, size = request.first_sample_index, -(-request.num_samples // parts)
        for start in range(first, first + request.num_samples, size):
            num = min(size, first + request.num_samples - start)
            units.append(replace(request, num_samples=num, first_sample_index=start))
    return units
