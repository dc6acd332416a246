"""When this process last made progress: a decoding step, a micro-batch, a completion, a new phase.

Code that finishes a bounded piece of work calls `beat`; watchdogs read `idle_s`. A clock of the whole
process, so that no engine or learner needs to be handed one.
"""

from __future__ import annotations

import time


class _Clock:
    def __init__(self) -> None:
        self.last, self.phase = time.monotonic(), ""


_clock = _Clock()


def beat(ago_s: float = 0.0) -> None:
    """There was progress so many seconds ago."""
    _clock.last = max(_clock.last, time.monotonic() - ago_s)


def enter(phase: str) -> None:
    """A phase begins, named as in metrics.jsonl: `sample`, `grade`, `update`, `publish`."""
    _clock.phase = phase
    beat()


def idle_s() -> float:
    """Seconds since the last progress."""
    return time.monotonic() - _clock.last


def phase() -> str:
    """The phase that was entered last."""
    return _clock.phase
