"""How long a process lives: no longer than the one that started it."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


_libc = functools.cache(lambda: ctypes.CDLL(None))  # once: a process forked from one that has it starts sooner


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when the one that started it ends (Linux only).

    parent: its process id, by which a process notices that it started too late; without, only from now on.
    """
    if sys.platform.startswith("linux"):
        parent = os.getppid() if parent is None else parent
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request took effect
            os._exit(1)
