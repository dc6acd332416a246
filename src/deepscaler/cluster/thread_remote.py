"""A remote object whose near end lies in this process, such as the client of a server: its calls run in threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from deepscaler.types import RunError, WorkerLost

ANSWER_LIMIT_S = 4 * 3600.0  # the client has limits of its own, which name what it waits for
END_LIMIT_S = 30.0
IsCancelled = Callable[[], bool]
_END = object()


class ThreadRemote:
    """build: makes the object, from a function that says whether the stream under way was cancelled; it may take long
    and runs in a thread, as do all calls, in order. end: ends at once whatever the object waits for.

    One stream at a time, beside which calls are answered.
    """

    def __init__(self, build: Callable[[IsCancelled], Any], end: Callable[[], object], name: str) -> None:
        self.name = name
        self._end = end
        self._cancelled = threading.Event()
        self._calls = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._object: ThreadFuture[Any] = self._calls.submit(build, self._cancelled.is_set)
        self._is_closed = False

    def wait_until_built(self) -> None:
        """Raises what building it raised."""
        self._object.result(ANSWER_LIMIT_S)

    def call(self, method: str, *arguments: object) -> ThreadCall:
        self._check_open(method)
        return ThreadCall(self._calls.submit(lambda: getattr(self._built(), method)(*arguments)), self.name, method)

    def stream(self, method: str, *arguments: object) -> ThreadStream:
        self._check_open(method)
        self._cancelled.clear()
        return ThreadStream(
            lambda: getattr(self._built(), method)(*arguments), self._cancelled, f"{self.name}: {method}"
        )

    def close(self) -> None:
        self._is_closed = True
        self._cancelled.set()
        self._end()
        with suppress(Exception):  # it may not have been built
            self._object.result(END_LIMIT_S).close()
        self._calls.shutdown(wait=False, cancel_futures=True)

    def _built(self) -> Any:
        """Raises WorkerLost where it could not be built: another one may be."""
        try:
            return self._object.result(ANSWER_LIMIT_S)
        except RunError as error:
            raise WorkerLost(f"{self.name} did not start: {error}") from error

    def _check_open(self, method: str) -> None:
        if self._is_closed:
            raise WorkerLost(f"{self.name} was closed before {method}")


class ThreadCall:
    def __init__(self, future: ThreadFuture[object], name: str, method: str) -> None:
        self._future, self._name, self._method = future, name, method

    def ready(self) -> bool:
        return self._future.done()

    def result(self) -> object:
        """Raises what the call raised."""
        try:
            return self._future.result(ANSWER_LIMIT_S)
        except TimeoutError as error:
            raise WorkerLost(f"{self._name}: {self._method}: no answer for {ANSWER_LIMIT_S:.0f} s") from error


class ThreadStream:
    """What a generator yields in a thread of its own."""

    def __init__(self, generate: Callable[[], Iterator[object]], cancelled: threading.Event, name: str) -> None:
        self._cancelled, self._name = cancelled, name
        self._arrived: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._ended = False
        self._thread = threading.Thread(target=self._run, args=(generate,), daemon=True, name=name)
        self._thread.start()

    def __iter__(self) -> Iterator[object]:
        return self

    def __next__(self) -> object:
        if self._ended:
            raise StopIteration
        try:
            value = self._arrived.get(timeout=ANSWER_LIMIT_S)
        except queue.Empty as error:
            raise WorkerLost(f"{self._name}: no answer for {ANSWER_LIMIT_S:.0f} s") from error
        if value is _END:
            self._ended = True
            raise StopIteration
        if isinstance(value, _Raised):
            self._ended = True
            raise value.error
        return value

    def ready(self) -> bool:
        return self._ended or not self._arrived.empty()

    def cancel(self) -> None:
        """Ask the generator to end early; what it yields until then can still be taken."""
        self._cancelled.set()

    def close(self) -> None:
        """Cancel the rest, and wait until its thread has ended."""
        self._ended = True
        self._cancelled.set()
        self._thread.join(END_LIMIT_S)

    def _run(self, generate: Callable[[], Iterator[object]]) -> None:
        try:
            for value in generate():
                self._arrived.put(value)
                if self._ended:
                    break
            self._arrived.put(_END)
        except Exception as error:  # raised again where the stream is read
            self._arrived.put(_Raised(error))


class _Raised:
    def __init__(self, error: Exception) -> None:
        self.error = error
