"""Ends a run that makes no progress any more, with the stacks of all its processes in the run directory."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepscaler.observability import liveness
from deepscaler.types import RunError

LOOKS_PER_LIMIT = 20
STACKS_S = 1.0  # until the workers have written theirs
END_S = 60.0  # that the main thread has for ending the run, before the process ends without it


class StalledError(RunError):
    """Nothing made progress for too long."""


class Watchdog:
    """A thread that looks at `liveness`. On a stall it raises StalledError in the main thread.

    directory: for stacks. where: step under way, for the message. stall_s: without any progress. write_stacks: of
    `Cluster`. Main thread only.
    """

    def __init__(
        self,
        directory: Path,
        where: Callable[[], str],
        stall_s: float,
        end_s: float = END_S,
        *,
        write_stacks: Callable[[], object] = lambda: None,
    ) -> None:
        self._write_others = write_stacks
        self._directory, self._where, self._stall_s, self._end_s = directory, where, stall_s, end_s
        self._ended, self._main = threading.Event(), threading.get_ident()
        self._message = ""
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @contextmanager
    def watching(self) -> Iterator[None]:
        before = signal.signal(signal.SIGUSR2, self._raise)
        liveness.beat()
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join(timeout=10)
            signal.signal(signal.SIGUSR2, before)

    def _watch(self) -> None:
        while not self._ended.wait(self._stall_s / LOOKS_PER_LIMIT):
            if liveness.idle_s() <= self._stall_s:
                continue
            self._message = (
                f"nothing made progress for {self._stall_s:.0f} s (cluster.stall_s), in phase "
                f"{liveness.phase() or 'start'} of {self._where()}; the stacks of all processes are in "
                f"{self._directory}. Run the same command again to continue from the newest checkpoint"
            )
            self._write_stacks()
            signal.pthread_kill(self._main, signal.SIGUSR2)
            if not self._ended.wait(self._end_s):  # the main thread is in code that no signal interrupts
                print(f"Error: {self._message}", file=sys.stderr, flush=True)
                os._exit(1)
            return

    def _write_stacks(self) -> None:
        """Own threads, and those of worker processes: each writes its own into its log (`worker_log`)."""
        with suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            with (self._directory / "driver.log").open("a") as file:
                print(self._message, file=file, flush=True)
                faulthandler.dump_traceback(file)
        for child in multiprocessing.active_children():
            if child.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGUSR1)
        with suppress(Exception):  # the run ends for the stall, whatever else fails
            self._write_others()
        time.sleep(STACKS_S)

    def _raise(self, number: int, frame: object) -> None:
        if self._message:
            raise StalledError(self._message)
