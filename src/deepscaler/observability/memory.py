"""Growth of this process's memory over the steps of a run: a leak shows long before the machine is full."""

from __future__ import annotations

import os
from collections import deque
from itertools import pairwise
from pathlib import Path

from deepscaler.observability.counts import counted

WINDOW = 60  # steps that are looked at
WARM_UP = 10  # steps in which caches and compiled kernels fill up
LEAST_GROWTH = 64 * 2**20  # bytes over the window; less is what allocators do


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system has no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def available_bytes() -> int | None:
    """What the system says that new work can use; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


class MemoryWatch:
    """Looks at the resident memory after every step; not part of a run's state, as a new process begins anew.

    Steady growth is when each third of the window lies above the one before. It is reported once, where the memory
    would not last for the steps that are left.
    """

    def __init__(self) -> None:
        self._seen: deque[int] = deque(maxlen=WINDOW)
        self._num_steps, self._told = 0, False

    def observe(self, resident: int, available: int | None, steps_left: int) -> str | None:
        """resident, available: bytes. Returns a sentence when there is something to report."""
        self._num_steps += 1
        if self._num_steps <= WARM_UP:
            return None
        self._seen.append(resident)
        if self._told or available is None or len(self._seen) < WINDOW:
            return None
        seen, third = list(self._seen), WINDOW // 3
        parts = [seen[:third], seen[third : 2 * third], seen[2 * third :]]
        steady = all(max(a) < min(b) for a, b in pairwise(parts))
        growth = seen[-1] - seen[0]
        per_step = growth / (WINDOW - 1)
        if not steady or growth < LEAST_GROWTH or per_step * steps_left < available:
            return None
        self._told = True
        return (
            f"the driver's memory grows by {per_step / 2**20:.1f} MiB a step over the last {WINDOW} steps, to "
            f"{seen[-1] / 2**20:.0f} MiB: the {available / 2**20:.0f} MiB that are free last for "
            f"{available / per_step:.0f} of {counted(steps_left, 'step')}. Stop the run after a checkpoint and start "
            "it again, which frees what has gathered, and please report it"
        )
