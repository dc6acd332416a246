"""How work is dealt out to processes: by position and size only, so that a run repeats itself."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace

from deepscaler.types import Request


def split_requests(requests: Sequence[Request], count: int) -> list[list[Request]]:
    """Each group's samples dealt out evenly, so that every process gets the same mix of problems."""
    shares: list[list[Request]] = [[] for _ in range(count)]
    for index, request in enumerate(requests):
        first = request.first_sample_index
        for member, share in enumerate(shares):
            size = (request.num_samples + (index + member) % count) // count
            if size:
                share.append(replace(request, num_samples=size, first_sample_index=first))
            first += size
    return shares


def split_evenly(costs: Sequence[int], count: int, first_has: int = 0) -> list[list[int]]:
    """Indices dealt out in `count` shares of nearly equal cost; the first share holds `first_has` already.

    Largest differencing (Karmarkar and Karp 1982): the two most uneven partial divisions become one, the heavier parts
    of one joined to the lighter parts of the other, until one is left. With a dozen samples that leaves a difference
    of about a token, where dealing out from the longest leaves half of the shortest sample.
    """
    held = -1  # stands for what the first share holds
    heap = []
    for index, cost in [(held, first_has), *enumerate(costs)]:
        parts: list[tuple[int, list[int]]] = [(0, [])] * (count - 1) + [(cost, [index])]
        heap.append((-cost if count > 1 else 0, index, parts))
    heapq.heapify(heap)
    for order in range(len(costs), 2 * len(costs)):
        _, _, even = heapq.heappop(heap)
        _, _, other = heap[0]
        joined = [(a + b, mine + theirs) for (a, mine), (b, theirs) in zip(even, reversed(other), strict=True)]
        joined.sort()
        heapq.heapreplace(heap, (joined[0][0] - joined[-1][0], order, joined))
    shares = sorted((sorted(members) for _, members in heap[0][2]), key=lambda members: held not in members)
    return [[i for i in share if i != held] for share in shares]
