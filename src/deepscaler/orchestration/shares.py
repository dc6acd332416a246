"""How work is dealt out to processes: by position and size only, so that a run repeats itself."""

from __future__ import annotations

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
    """Indices dealt out in `count` shares of nearly equal cost: the most costly first, to who has least by then.

    first_has: cost of what the first share holds already.
    """
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [first_has] + [0] * (count - 1)
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = loads.index(min(loads))
        shares[least].append(index)
        loads[least] += costs[index]
    return [sorted(share) for share in shares]
