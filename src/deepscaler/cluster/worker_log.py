"""Standard error of a worker process: kept in a file, its last lines quoted when the process is lost.

`faulthandler` writes the stacks of all its threads there on SIGUSR1, and when it crashes.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
from pathlib import Path

from deepscaler.observability.last_lines import SHOWN_BYTES, shown


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

    def close(self) -> None:
        self._file.close()


def write_stderr_to(target: str) -> None:
    """In the child: standard error goes to this file from now on, and stacks on SIGUSR1."""
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError:  # no /proc: it stays where it is
        descriptor = os.dup(2)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    faulthandler.enable(2)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
