"""A child process that holds one object and answers calls of its methods over a pipe."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import NamedTuple

import torch.multiprocessing as multiprocessing

from deepscaler import cpu
from deepscaler.lifetime import die_with_parent
from deepscaler.types import RunError

ANSWER_LIMIT_S = 3600.0  # longest wait for one message of the child
IsCancelled = Callable[[], bool]
Build = Callable[[IsCancelled], object]


class _Call(NamedTuple):
    number: int
    streamed: bool
    method: str
    arguments: tuple[object, ...]


class _Message(NamedTuple):
    """number: of the call it answers. kind: `value`, `end` of a stream, or `error` with its text."""

    number: int
    kind: str
    value: object


class ProcessRemote:
    """The near end. Tensors in shared memory are handed over as such.

    build: makes the object in the child, from a function that says whether the stream under way was cancelled. Calls
    are answered in order; the child dies with this process.
    """

    def __init__(self, build: Build) -> None:
        context = multiprocessing.get_context("spawn")
        near, far = context.Pipe()
        self._connection: Connection = near
        self._cancelled = context.Event()
        self._process = context.Process(target=_serve, args=(far, build, self._cancelled), daemon=True)
        self._process.start()
        far.close()
        self._num_calls = 0
        self._arrived: dict[int, deque[_Message]] = {}  # of calls whose result was not taken yet

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def call(self, method: str, *arguments: object) -> ProcessFuture:
        return ProcessFuture(self, self._send(False, method, arguments))

    def stream(self, method: str, *arguments: object) -> ProcessStream:
        """One at a time: the stream before must have ended or been closed."""
        self._cancelled.clear()
        return ProcessStream(self, self._send(True, method, arguments))

    def close(self) -> None:
        self._process.kill()
        self._process.join(timeout=10)
        self._connection.close()

    def cancel(self) -> None:
        self._cancelled.set()

    def is_ready(self, number: int) -> bool:
        while not self._arrived[number] and self._connection.poll(0):
            self._take_message()
        return bool(self._arrived[number])

    def receive(self, number: int) -> _Message:
        """The next message of a call. Raises RunError when the child died, failed, or is silent past the limit."""
        deadline = time.monotonic() + ANSWER_LIMIT_S
        while not self._arrived[number]:
            if self._connection.poll(1.0):
                self._take_message()
            elif not self._process.is_alive():
                raise self._died()
            elif time.monotonic() > deadline:
                raise RunError(f"a worker process gave no answer for {ANSWER_LIMIT_S:.0f} s; it is being stopped")
        message = self._arrived[number].popleft()
        if message.kind == "error":
            raise RunError(f"a worker process failed: {message.value}")
        return message

    def forget(self, number: int) -> None:
        """Nobody waits for the rest of this call's messages."""
        self._arrived.pop(number, None)

    def _send(self, streamed: bool, method: str, arguments: tuple[object, ...]) -> int:
        self._num_calls += 1
        self._arrived[self._num_calls] = deque()
        try:
            self._connection.send(_Call(self._num_calls, streamed, method, arguments))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._died() from error
        return self._num_calls

    def _take_message(self) -> None:
        try:
            message = _Message(*self._connection.recv())
        except (EOFError, ConnectionResetError) as error:
            raise self._died() from error
        if message.number in self._arrived:
            self._arrived[message.number].append(message)

    def _died(self) -> RunError:
        self._process.join(timeout=1)
        return RunError(
            f"a worker process died (exit code {self._process.exitcode}); the system may have run out of memory. Run "
            "the same command again to continue, with a smaller training.processes if it happens again"
        )


class ProcessFuture:
    def __init__(self, remote: ProcessRemote, number: int) -> None:
        self._remote, self._number = remote, number

    def result(self) -> object:
        """Once. Raises RunError when the child died, failed, or is silent past the limit."""
        try:
            return self._remote.receive(self._number).value
        finally:
            self._remote.forget(self._number)


class ProcessStream:
    def __init__(self, remote: ProcessRemote, number: int) -> None:
        self._remote, self._number = remote, number
        self._ended = False

    def __iter__(self) -> Iterator[object]:
        return self

    def __next__(self) -> object:
        if self._ended:
            raise StopIteration
        try:
            message = self._remote.receive(self._number)
        except RunError:
            self._end()
            raise
        if message.kind == "end":
            self._end()
            raise StopIteration
        return message.value

    def ready(self) -> bool:
        return self._ended or self._remote.is_ready(self._number)

    def close(self) -> None:
        """Cancel the rest and wait until the child has stopped making it."""
        if not self._ended:
            self._remote.cancel()
            for _ in self:
                pass

    def _end(self) -> None:
        self._ended = True
        self._remote.forget(self._number)


def _serve(connection: Connection, build: Build, cancelled: Event) -> None:
    """The child: answer calls until the connection closes."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cpu.prepare(threads=1)
    target = build(cancelled.is_set)
    while True:
        try:
            call = _Call(*connection.recv())
        except (EOFError, OSError):
            return
        try:
            method = getattr(target, call.method)
            if call.streamed:
                for value in method(*call.arguments):
                    connection.send(_Message(call.number, "value", value))
                connection.send(_Message(call.number, "end", None))
            else:
                connection.send(_Message(call.number, "value", method(*call.arguments)))
        except Exception as error:  # reported to the parent, which stops the run with it
            connection.send(_Message(call.number, "error", f"{type(error).__name__}: {error}"))
