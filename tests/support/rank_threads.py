"""Ranks of a process group as threads of the test: gloo's own collectives without starting processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store

LIMIT = timedelta(seconds=60)
T = TypeVar("T")


def on_ranks(count: int, work: Callable[[dist.ProcessGroup], T]) -> list[T]:
    """What each rank returns, by rank. Where one raises, the others' collectives fail after a minute at most."""
    store = HashStore()
    with ThreadPoolExecutor(count) as pool:
        ranks = [pool.submit(lambda rank: work(_join(store, rank, count)), rank) for rank in range(count)]
        wait(ranks, LIMIT.total_seconds() * 2)
        failed = [error for error in (r.exception(0) for r in ranks) if error is not None]
        if failed:  # the first cause, not that others lost their connection to it
            raise next((e for e in failed if not isinstance(e, dist.DistError)), failed[0])
        return [rank.result(0) for rank in ranks]


def _join(store: Store, rank: int, count: int) -> dist.ProcessGroup:
    kind = dist.ProcessGroup.BackendType.GLOO
    group = dist.ProcessGroup(store, rank, count)
    group._set_default_backend(kind)
    group._register_backend(torch.device("cpu"), kind, dist.ProcessGroupGloo(store, rank, count, LIMIT))
    return group
