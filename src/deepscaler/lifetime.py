"""How long a process lives: no longer than the one that started it."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


_libc = functools.cache(lambda: ctypes.CDLL(None))  # once: a process forked from one that has it starts sooner


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it ends (Linux only)."""
    if sys.platform.startswith("linux"):
        parent = os.getppid()
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request took effect
            os._exit(1)
