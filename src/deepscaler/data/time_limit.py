"""Ends Python code that runs too long, in any thread, at hardly any cost to code that does not.

One thread looks every tenth of a second at whatever is being watched, and raises an exception into a thread that is
late; the interpreter delivers it there between two instructions of Python code. So it works in any thread, unlike a
signal, and stops the code itself, unlike waiting for a thread; a single call into C runs to its end.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

CHECK_INTERVAL_S = 0.1
_IDLE_LOOKS = 20  # after so many without anything to watch the thread ends


class _Overtime(BaseException):
    """Raised into the watched thread. Not an Exception, so that no library code on the way takes it for its own."""


def map_within(limit_s: float, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """`[work(item) for item in items]`, or TimeoutError soon after one item has taken longer than `limit_s`."""
    results: list[_Result] = []
    watch = _Watch(limit_s)
    try:
        _WATCHMAN.begin(watch)
        try:
            watch.armed = True
            for item in items:
                watch.deadline = time.monotonic() + limit_s
                results.append(work(item))
        finally:
            # The interpreter delivers exceptions at calls and jumps, so none between the end of the work and this.
            watch.armed = False
            watch.settle()
    except _Overtime:  # whether it met the work or `settle`
        raise TimeoutError(f"not done after {limit_s:g} s") from None
    finally:
        _WATCHMAN.end(watch)
    return results


class _Watch:
    """One call of `map_within`, made in the thread that does the work.

    Once `armed` is False at most one exception is still on its way, and `settle` meets or cancels it. For `strike`
    cancels what it raised before and was not delivered, and only then reads `armed`; and `settle` waits for a strike
    under way. No lock: an exception that is delivered just after a lock was taken can leave it locked for good.
    """

    def __init__(self, limit_s: float) -> None:
        self.armed = False
        self.deadline = time.monotonic() + limit_s
        self._thread = ctypes.c_ulong(threading.get_ident())
        self._striking = False

    def strike(self) -> None:
        """By the watchman: raise in the watched thread, if it is still at work. Again, if code there lost it."""
        self._striking = True
        try:
            self._raise(None)
            if self.armed:
                self._raise(ctypes.py_object(_Overtime))
        finally:
            self._striking = False

    def settle(self) -> None:
        """By the watched thread, disarmed."""
        while self._striking:
            time.sleep(0)
        self._raise(None)

    def _raise(self, exception: ctypes.py_object[type[BaseException]] | None) -> None:
        """None takes back what was not delivered yet."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread, exception)


class _Watchman:
    """The thread, which comes and goes as needed, and what it watches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: set[_Watch] = set()
        self._thread: threading.Thread | None = None

    def begin(self, watch: _Watch) -> None:
        with self._lock:
            self._watches.add(watch)
            if self._thread is None or not self._thread.is_alive():  # not alive: this process was forked
                self._thread = threading.Thread(target=self._look, name="time limit", daemon=True)
                self._thread.start()

    def end(self, watch: _Watch) -> None:
        with self._lock:
            self._watches.discard(watch)

    def _look(self) -> None:
        idle = 0
        while idle < _IDLE_LOOKS:
            time.sleep(CHECK_INTERVAL_S)
            with self._lock:
                for watch in self._watches:
                    if time.monotonic() > watch.deadline:
                        watch.strike()
                idle = 0 if self._watches else idle + 1
                if idle == _IDLE_LOOKS:
                    self._thread = None


_WATCHMAN = _Watchman()
