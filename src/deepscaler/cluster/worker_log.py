"""Standard error of a worker process: kept in a file, its last lines quoted when the process is lost.

`faulthandler` writes the stacks of all its threads there on SIGUSR1, and when it crashes. The process's own request
(`write_stacks`) is that signal too: the handler lets one request through at a time, while a direct call of
`faulthandler.dump_traceback` from a second thread mixes its lines into those of the first.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from deepscaler.observability.last_lines import SHOWN_BYTES, shown

STACKS_S = 5.0  # longest wait for the stacks of a process; one that is stopped never writes them
_QUIET_S = 0.5  # without a new line, stacks count as complete
_answers_signal = threading.Event()  # SIGUSR1 would end a process that does not handle it


class WorkerLog:
    """The near end. path: appended to; without one, a temporary file that ends with this process."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        if path is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
        self._start = self._file.seek(0, os.SEEK_END)

    @property
    def target(self) -> str:
        """What a child opens."""
        return str(self.path) if self.path else f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    def last_lines(self) -> str:
        """For the end of a message; empty where nothing was written since this was made."""
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(self._start, end - SHOWN_BYTES))
        return shown(self._file.read(), self.path)

    def size(self) -> int:
        return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        self._file.close()


def log_size(path: Path | None) -> int:
    """Bytes; 0 where there is none."""
    with suppress(OSError):
        return path.stat().st_size if path else 0
    return 0


def wait_for_stacks(size: Callable[[], int], before: int, limit_s: float = STACKS_S) -> None:
    """Until a log has grown and is quiet. size: of the log, bytes. before: its size when the stacks were asked for."""
    deadline, last, changed = time.monotonic() + limit_s, before, time.monotonic()
    while (now := time.monotonic()) < deadline:
        if (bytes_now := size()) != last:
            last, changed = bytes_now, now
        elif last != before and now - changed > _QUIET_S:
            return
        time.sleep(_QUIET_S / 10)


def write_stacks() -> None:
    """Of all threads of this process, to its log. They hold still meanwhile: this thread has the GIL."""
    if _answers_signal.is_set():
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    else:
        faulthandler.dump_traceback(sys.stderr)


def write_stderr_to(target: str) -> None:
    """In the child: standard error goes to this file from now on, and stacks on SIGUSR1."""
    try:
        descriptor = _opened(target)
    except OSError:  # no /proc: it stays where it is
        descriptor = os.dup(2)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    _write_stacks_on_signal(2)


def write_stacks_to(path: Path) -> None:
    """In a process whose standard error is somebody else's: stacks alone go to this file, on SIGUSR1 as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_stacks_on_signal(_opened(str(path)))  # open until the process ends


def _opened(target: str) -> int:
    return os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def _write_stacks_on_signal(descriptor: int) -> None:
    faulthandler.enable(descriptor)
    faulthandler.register(signal.SIGUSR1, file=descriptor, all_threads=True)
    _answers_signal.set()
