"""A child process that holds one object and answers calls of its methods over a pipe."""

from __future__ import annotations

import signal
from multiprocessing.connection import Connection

import torch.multiprocessing as multiprocessing

from deepscaler import cpu
from deepscaler.cluster.connection import Build, ConnectionRemote, serve
from deepscaler.lifetime import die_with_parent


class ProcessRemote(ConnectionRemote):
    """The near end. Tensors in shared memory are handed over as such.

    build: makes the object in the child, from a function that says whether the stream under way was cancelled. Calls
    are answered in order; the child dies with this process. name: for messages.
    """

    def __init__(self, build: Build, name: str = "worker process") -> None:
        context = multiprocessing.get_context("spawn")
        near, far = context.Pipe()
        super().__init__(near, name)
        self._process = context.Process(target=_serve, args=(far, build), daemon=True)
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

    def _is_alive(self) -> bool:
        return self._process.is_alive()

    def _how_it_died(self) -> str:
        self._process.join(timeout=1)
        return (
            f" (exit code {self._process.exitcode}); the system may have run out of memory. Run the same command again "
            "to continue, with a smaller training.processes if it happens again"
        )


def _serve(connection: Connection, build: Build) -> None:
    """The child."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cpu.prepare(threads=1)
    serve(connection, build)
