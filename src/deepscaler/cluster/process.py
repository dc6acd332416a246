"""A child process that holds one object and answers calls of its methods over a pipe."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import torch.multiprocessing as multiprocessing

from deepscaler import cpu
from deepscaler.cluster.connection import Build, ConnectionRemote, serve
from deepscaler.cluster.life_signs import WaitLimits
from deepscaler.cluster.worker_log import WorkerLog, wait_for_stacks, write_stderr_to
from deepscaler.lifetime import die_with_parent


class ProcessRemote(ConnectionRemote):
    """The near end. Tensors in shared memory are handed over as such.

    build: makes the object in the child, from a function that says whether the stream under way was cancelled. Calls
    are answered in order; the child dies with this process. name: for messages. log: file for its standard error.
    """

    def __init__(
        self,
        build: Build,
        name: str = "worker process",
        *,
        limits: WaitLimits | None = None,
        log: Path | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        near, far = context.Pipe()
        super().__init__(near, name, limits)
        self._output = WorkerLog(log)
        self._process = context.Process(
            target=_serve, args=(far, build, self._output.target, self._limits), daemon=True
        )
        self._process.start()
        far.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def close(self) -> None:
        self._process.kill()
        self._process.join(timeout=10)
        super().close()
        self._output.close()

    def _is_alive(self) -> bool:
        return self._process.is_alive()

    def _how_it_died(self) -> str:
        self._process.join(timeout=1)
        code = self._process.exitcode
        memory = (
            "; the system may have run out of memory, of which fewer training.processes need less"
            if code == -signal.SIGKILL
            else ""
        )
        return f" (exit code {code}){memory}"

    def _last_lines(self, *, hung: bool = False) -> str:
        if hung:
            before = self._output.size()
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)
            wait_for_stacks(self._output.size, before)
        return self._output.last_lines()


def _serve(connection: Connection, build: Build, stderr: str, limits: WaitLimits) -> None:
    """The child."""
    die_with_parent()
    write_stderr_to(stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cpu.prepare(threads=1)
    serve(connection, build, limits=limits)
