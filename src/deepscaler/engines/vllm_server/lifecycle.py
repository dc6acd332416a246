"""Which control calls a vLLM server gets in which order: pause, update, resume, sleep, wake.

vLLM itself accepts them in any order: woken from level 2 without new weights it samples garbage (vllm#21336), and an
update while asleep can crash it (vllm#57853).
"""

from __future__ import annotations

import threading
from enum import StrEnum

from deepscaler.types import RunError


class Phase(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    ASLEEP = "asleep"
    BROKEN = "broken"  # an update failed half-way: it may hold a mixture of two versions
    CLOSED = "closed"


_NEXT = {
    ("pause", Phase.RUNNING): Phase.PAUSED,
    ("update", Phase.PAUSED): Phase.PAUSED,
    ("resume", Phase.PAUSED): Phase.RUNNING,
    ("sleep", Phase.RUNNING): Phase.ASLEEP,
    ("sleep", Phase.PAUSED): Phase.ASLEEP,
    ("wake", Phase.ASLEEP): Phase.PAUSED,
}
_REMEDY = {
    Phase.RUNNING: "pause it first",
    Phase.PAUSED: "resume it first",
    Phase.ASLEEP: "wake it first",
    Phase.BROKEN: "start a new server: loading weights into this one failed",
    Phase.CLOSED: "start a new server",
}


class Lifecycle:
    """The phase of one server, for calls from several threads.

    name: of the server, for messages. has_weights: False after sleep of level 2 until weights were loaded.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self.phase = Phase.RUNNING
        self.has_weights = True

    def begin(self, action: str, *, level: int = 1) -> None:
        """Take a step. action: `pause`, `update`, `resume`, `sleep` or `wake`. level: of sleep, as vLLM's.

        Raises RunError for a step that is not legal now; nothing changes then.
        """
        with self._lock:
            following = _NEXT.get((action, self.phase))
            if following is None:
                raise RunError(f"{self._name} is {self.phase}: it cannot {action}; {_REMEDY[self.phase]}")
            if action == "resume" and not self.has_weights:
                raise RunError(
                    f"{self._name} slept without keeping its weights (level 2) and would sample garbage; load weights "
                    "before it resumes"
                )
            self.phase = following
            if action == "update":
                self.has_weights = True
            elif action == "sleep" and level >= 2:
                self.has_weights = False

    def require_sampling(self) -> None:
        """Raises RunError where a request would fail or get garbage. While paused, requests wait for `resume`."""
        with self._lock:
            if self.phase not in (Phase.RUNNING, Phase.PAUSED):
                raise RunError(f"{self._name} is {self.phase}: it cannot sample; {_REMEDY[self.phase]}")

    def end(self, phase: Phase) -> None:
        """Nothing is legal any more. phase: BROKEN or CLOSED."""
        with self._lock:
            self.phase = phase
