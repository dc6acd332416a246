"""Ends Python code that runs too long, in any thread, at no cost to code that does not."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_AGAIN_S = 0.1  # an exception that was lost in a finaliser is raised again after this time


class _Overtime(BaseException):
    """Raised into the watched thread. Not an Exception, so that no library code on the way takes it for its own."""


def map_within(limit_s: float, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """`[work(item) for item in items]`, or TimeoutError once one item has taken longer than `limit_s`.

    A second thread sleeps until the deadline and then raises an exception into this one, which the interpreter
    delivers between two instructions of Python code. So it works in any thread, unlike a signal, and stops the code
    itself, unlike waiting for a thread; a single call into C runs to its end. Not for work that calls this again.
    """
    results: list[_Result] = []
    watch = _Watch(limit_s)
    try:
        try:
            watch.armed = True
            for item in items:
                watch.deadline = time.monotonic() + limit_s
                results.append(work(item))
        finally:
            # The interpreter delivers exceptions at calls and jumps, so none between the end of the work and this.
            watch.armed = False
            watch.stop()
    except _Overtime:  # whether it met the work or `stop`
        raise TimeoutError(f"not done after {limit_s:g} s") from None
    finally:
        watch.stop()  # the first call may have been left before it was done
    return results


class _Watch:
    """The second thread. Once `armed` is False, at most one exception is still on its way, and none after `stop`.

    What is on its way is cancelled before `armed` is read, both while holding the lock: so one that was raised before
    is either delivered while the work ran or never, and the only one left is what `stop`, which waits for the lock,
    meets or cancels.
    """

    def __init__(self, limit_s: float) -> None:
        self.armed = False
        self.deadline = time.monotonic() + limit_s
        self._watched = ctypes.c_ulong(threading.get_ident())
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="time limit", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """To be called by the watched thread; again if an exception came out of it."""
        self._over.set()
        with self._lock:
            self._raise_in_watched(None)
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        pause = self.deadline - time.monotonic()
        while not self._over.wait(max(pause, 0.0)):
            with self._lock:
                self._raise_in_watched(None)
                late = time.monotonic() > self.deadline
                if late and self.armed:
                    self._raise_in_watched(ctypes.py_object(_Overtime))
            pause = _AGAIN_S if late else self.deadline - time.monotonic()

    def _raise_in_watched(self, exception: ctypes.py_object[type[BaseException]] | None) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(self._watched, exception)
