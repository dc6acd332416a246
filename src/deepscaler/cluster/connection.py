"""A remote object at the other end of a connection: a pipe to a child process, or a socket to a rank on any machine.

The near end (`ConnectionRemote`) sends calls, the far end (`serve`) answers them in order. A cancelled stream is a
message like a call; the far end looks for it between two values, and wherever its object asks.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from deepscaler.cluster.life_signs import LifeSigns, LifeWatch, WaitLimits
from deepscaler.cluster.worker_log import log_size, wait_for_stacks
from deepscaler.observability.last_lines import last_lines
from deepscaler.types import RunError, WorkerLost

POLL_S = 1.0  # between two looks at a far end that sends nothing
LIFE_SIGN = "life sign"
IsCancelled = Callable[[], bool]
Build = Callable[[IsCancelled], object]


class _Call(NamedTuple):
    number: int
    streamed: bool
    method: str
    arguments: tuple[object, ...]


class _Cancel(NamedTuple):
    """forgotten: what is yielded after it will not be taken."""

    number: int
    forgotten: bool


class _Message(NamedTuple):
    """number: of the call it answers. kind: `value`, `end` of a stream, `error` with its text, or a `life sign`."""

    number: int
    kind: str
    value: object


@dataclass(slots=True)
class _Pending:
    """A call whose result was not taken yet."""

    method: str
    arrived: deque[_Message] = field(default_factory=deque)


class ConnectionRemote:
    """The near end. Over a pipe, tensors in shared memory are handed over as such.

    name: role and rank of the far end, for messages. log: file that it writes its stacks to.
    """

    def __init__(
        self, connection: Connection, name: str, limits: WaitLimits | None = None, *, log: Path | None = None
    ) -> None:
        self._connection, self.name = connection, name
        self._log, self._log_start = log, log_size(log)
        self._limits = limits or WaitLimits()
        self._watch = LifeWatch(self._limits)
        _limit_sending(connection, self._limits.start_s)
        self._num_calls = 0
        self._pending: dict[int, _Pending] = {}

    def call(self, method: str, *arguments: object) -> ConnectionFuture:
        return ConnectionFuture(self, self._send(False, method, arguments))

    def stream(self, method: str, *arguments: object) -> ConnectionStream:
        """One at a time: the stream before must have ended or been closed."""
        return ConnectionStream(self, self._send(True, method, arguments))

    def close(self) -> None:
        """Close the connection; the far end returns from `serve`."""
        self._connection.close()

    def cancel(self, number: int, *, forgotten: bool) -> None:
        """Ask the far end to stop the stream of this call. forgotten: nobody will take what it still yields."""
        try:
            self._connection.send(_Cancel(number, forgotten))
        except OSError as error:
            raise self._died(self._pending[number].method) from error

    def is_ready(self, number: int) -> bool:
        """Whether the next message of a call is there. Raises WorkerLost when the far end is lost."""
        pending = self._pending[number]
        while not pending.arrived and self._connection.poll(0):
            self._take_message(pending.method)
        if not pending.arrived:
            self._check(pending.method)
        return bool(pending.arrived)

    def receive(self, number: int) -> _Message:
        """The next message of a call. Raises RunError when it failed, WorkerLost when the far end is lost."""
        pending = self._pending[number]
        while not pending.arrived:
            if self._connection.poll(POLL_S):
                self._take_message(pending.method)
            if not pending.arrived:
                self._check(pending.method)
        message = pending.arrived.popleft()
        if message.kind == "error":
            raise RunError(f"{self.name}: {pending.method} failed: {message.value}")
        return message

    def forget(self, number: int) -> None:
        """Nobody waits for the rest of this call's messages."""
        self._pending.pop(number, None)

    def _send(self, streamed: bool, method: str, arguments: tuple[object, ...]) -> int:
        self._num_calls += 1
        self._pending[self._num_calls] = _Pending(method)
        try:
            self._connection.send(_Call(self._num_calls, streamed, method, arguments))
        except BlockingIOError as error:
            raise WorkerLost(f"{self.name} has read nothing for {self._limits.start_s:.0f} s, in {method}") from error
        except OSError as error:
            raise self._died(method) from error
        return self._num_calls

    def _take_message(self, method: str) -> None:
        try:
            message = _Message(*self._connection.recv())
        except (EOFError, OSError) as error:
            raise self._died(method) from error
        idle_s = message.value if message.kind == LIFE_SIGN else 0.0
        self._watch.heard(idle_s if isinstance(idle_s, float) else None)
        if message.number in self._pending:
            self._pending[message.number].arrived.append(message)

    def _check(self, method: str) -> None:
        """Raises WorkerLost where the far end is gone, stopped or hung; all that it sent was read."""
        if not self._is_alive() and not self._connection.poll(0):
            raise self._died(method)
        if fault := self._watch.fault(self._connection.poll):
            raise WorkerLost(f"{self.name} {fault}, in {method}{self._last_lines(hung=True)}")

    def _is_alive(self) -> bool:
        """What is known beside the connection, which ends with the far end's process."""
        return True

    def _died(self, method: str) -> WorkerLost:
        return WorkerLost(f"{self.name} died during {method}{self._how_it_died()}{self._last_lines()}")

    def _how_it_died(self) -> str:
        return "; its own output says why"

    def _last_lines(self, *, hung: bool = False) -> str:
        """The end of its log, where that is known. hung: with the stacks of its threads, which it writes by itself."""
        if hung and self._log is not None:
            wait_for_stacks(lambda: log_size(self._log), self._log_start)
        return last_lines(self._log, since=self._log_start)


def _limit_sending(connection: Connection, seconds: float) -> None:
    """A far end that was stopped reads nothing: a write that it keeps waiting for so long raises BlockingIOError."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), 0))


class ConnectionFuture:
    def __init__(self, remote: ConnectionRemote, number: int) -> None:
        self._remote, self._number = remote, number

    def ready(self) -> bool:
        return self._remote.is_ready(self._number)

    def result(self) -> object:
        """Once. Raises RunError when the call failed, WorkerLost when the far end is lost."""
        try:
            return self._remote.receive(self._number).value
        finally:
            self._remote.forget(self._number)


class ConnectionStream:
    def __init__(self, remote: ConnectionRemote, number: int) -> None:
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

    def cancel(self) -> None:
        """Ask the far end to end early; what it yields until then can still be taken."""
        if not self._ended:
            self._remote.cancel(self._number, forgotten=False)

    def close(self) -> None:
        """Cancel the rest and wait until the far end has stopped making it."""
        if not self._ended:
            with suppress(WorkerLost):
                self._remote.cancel(self._number, forgotten=True)
                for _ in self:
                    pass

    def _end(self) -> None:
        self._ended = True
        self._remote.forget(self._number)


class _Calls:
    """What the near end asks for, in order. Cancelled streams are noticed while one of them is under way."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._poller = select.poll()  # asked at every decoding step: Connection.poll would make one each time
        self._poller.register(connection.fileno(), select.POLLIN)
        self._waiting: deque[_Call] = deque()
        self._cancelled: dict[int, _Cancel] = {}
        self._current: int | None = None
        self._closed = False

    def __iter__(self) -> Iterator[_Call]:
        while True:
            while not self._waiting and not self._closed:
                self._take()
            if not self._waiting:
                return
            call = self._waiting.popleft()
            self._current = call.number
            yield call
            self._current = None
            self._cancelled.pop(call.number, None)

    def is_cancelled(self) -> bool:
        """Whether the stream under way shall end: it was cancelled, or the near end is gone."""
        while not self._closed and self._poller.poll(0):
            self._take()
        return self._closed or self._current in self._cancelled

    def is_forgotten(self) -> bool:
        """Whether nobody will take the rest of the stream under way."""
        return self.is_cancelled() and (self._closed or self._cancelled[self._current or 0].forgotten)

    def _take(self) -> None:
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            self._closed = True
            self._waiting.clear()
            return
        if isinstance(message, _Call):
            self._waiting.append(message)
        elif message.number == self._current or any(call.number == message.number for call in self._waiting):
            self._cancelled[message.number] = message


def serve(
    connection: Connection, build: Build, *, ends_on_error: bool = False, limits: WaitLimits | None = None
) -> None:
    """The far end: build the object, then answer calls until the connection closes.

    build: from a function that says whether the stream under way was cancelled. An exception is reported to the near
    end, which stops the run with it. ends_on_error: and raised here, for an object whose peers wait for it elsewhere.
    limits: of the near end.
    """
    lock = threading.Lock()

    def send(number: int, kind: str, value: object) -> None:
        with lock:
            connection.send(_Message(number, kind, value))

    calls = _Calls(connection)
    signs = LifeSigns(lambda idle_s: send(0, LIFE_SIGN, idle_s), limits or WaitLimits())
    target = build(calls.is_cancelled)
    for call in calls:
        signs.begin()
        try:
            method = getattr(target, call.method)
            if call.streamed:
                for value in method(*call.arguments):
                    send(call.number, "value", value)
                    if calls.is_forgotten():
                        break
                send(call.number, "end", None)
            else:
                send(call.number, "value", method(*call.arguments))
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:
            send(call.number, "error", f"{type(error).__name__}: {error}")
            if ends_on_error:
                raise
        signs.end()
