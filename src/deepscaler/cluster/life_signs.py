"""How a waiting process learns that the one it waits for was stopped, is hung, or cannot be reached any more.

The far end sends a life sign every few seconds, from a thread, so it gives them also while it computes. A process that
was stopped (SIGSTOP), or whose machine is gone, gives none. A life sign says how long ago there was progress
(`observability.liveness`), which tells a hung process from a slow one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from deepscaler.cluster.worker_log import write_stacks
from deepscaler.config.sections.rollout import ClusterSection
from deepscaler.observability import liveness

SIGNS_PER_LIMIT = 12  # life signs in the time after which a silent process counts as lost


@dataclass(frozen=True, slots=True)
class WaitLimits:
    """start_s: until the first life sign. silence_s: without one after that. stall_s: without progress in a call."""

    start_s: float = 600.0
    silence_s: float = 60.0
    stall_s: float = 1800.0

    @property
    def sign_s(self) -> float:
        """Between two life signs."""
        return self.silence_s / SIGNS_PER_LIMIT


def wait_limits(section: ClusterSection) -> WaitLimits:
    """What a recipe's [cluster] says."""
    return WaitLimits(silence_s=section.silence_s, stall_s=section.stall_s)


class LifeWatch:
    """The near end: what was heard of a process and when."""

    def __init__(self, limits: WaitLimits) -> None:
        self._limits = limits
        self._was_heard, self._last = False, time.monotonic()
        self._idle_s = 0.0

    def heard(self, idle_s: float | None) -> None:
        """A message was read. idle_s: of a life sign, since the last progress; None while it has no call."""
        self._was_heard, self._last = True, time.monotonic()
        self._idle_s = idle_s or 0.0
        if idle_s is not None and idle_s < 2 * self._limits.sign_s:
            liveness.beat(idle_s)

    def fault(self, arrives: Callable[[float], bool]) -> str | None:
        """Why the process counts as lost, in words; None while it does not. Only after all that came was read.

        arrives: waits so many seconds for a message. Where this process itself was suspended for a while, so were the
        others, and their life signs are given time to come.
        """
        limits, silent_s = self._limits, time.monotonic() - self._last
        if not self._was_heard and silent_s > limits.start_s:
            return f"did not start within {limits.start_s:.0f} s"
        if self._was_heard and silent_s > limits.silence_s and not arrives(2 * limits.sign_s):
            return f"gave no sign of life for {limits.silence_s:.0f} s, as if it was stopped or its machine was gone"
        if self._idle_s > limits.stall_s:
            return f"made no progress for {limits.stall_s:.0f} s"
        return None


class LifeSigns:
    """The far end: sends life signs until the connection closes.

    A call without progress for `limits.stall_s` has the stacks of all threads written to standard error, once.
    """

    def __init__(self, send: Callable[[float | None], None], limits: WaitLimits) -> None:
        """send: of the seconds since the last progress, None without a call; OSError when the connection is closed."""
        self._send, self._limits = send, limits
        self._is_busy = self._has_written = False
        threading.Thread(target=self._run, name="life signs", daemon=True).start()

    def begin(self) -> None:
        """A call begins."""
        liveness.beat()
        self._is_busy, self._has_written = True, False

    def end(self) -> None:
        self._is_busy = False

    def _run(self) -> None:
        while True:
            try:
                self._send(liveness.idle_s() if self._is_busy else None)
            except OSError:
                return
            if self._is_busy and not self._has_written and liveness.idle_s() > self._limits.stall_s:
                self._has_written = True
                write_stacks()
            time.sleep(self._limits.sign_s)
