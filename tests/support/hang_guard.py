"""Ends a block that would run for ever, so that a test of hostile input fails and does not stall the suite."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

PROCESSOR_SECONDS = 20.0  # a hundred times what the slowest block needs: this finds hangs, it measures no speed


@contextmanager
def hang_guard(what: object = "", seconds: float = PROCESSOR_SECONDS) -> Iterator[None]:
    """Raises AssertionError when the block has used `seconds` of processor time; main thread only.

    The error is raised inside the block, and again at its end where the block swallowed it.
    """
    message = f"still busy after {seconds} s of processor time: {what!r}"
    expired = []

    def stop(signum: int, frame: object) -> None:
        expired.append(signum)
        raise AssertionError(message)

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert not expired, message
