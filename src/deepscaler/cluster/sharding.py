"""How work is dealt out to processes: by position and size only, so that a run repeats itself."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace

from deepscaler.types import Request

# A prompt is computed by every process that samples from it. From this share of a group's tokens on, that costs more
# than processes lose by waiting for each other when one of them gets the groups with the long completions.
WHOLE_FROM = 1 / 20


def split_requests(requests: Sequence[Request], count: int, max_completion_tokens: int) -> list[list[Request]]:
    """Requests dealt out so that every process has as many completions, and as many of each group where that is cheap.

    Groups with a long prompt go to one process each, as far as there is one for every process; all others are split,
    so that every process gets the same mix of problems.
    """
    room = [r.num_samples * max_completion_tokens for r in requests]
    heavy = [i for i, r in enumerate(requests) if len(r.prompt_ids) > WHOLE_FROM * room[i]]
    whole = {index: place % count for place, index in enumerate(heavy[: len(heavy) // count * count])}
    shares: list[list[Request]] = [[] for _ in range(count)]
    for index, request in enumerate(requests):
        if index in whole:
            shares[whole[index]].append(request)
            continue
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
