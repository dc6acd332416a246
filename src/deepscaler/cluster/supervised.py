"""A remote object that is started again when its process is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepscaler.protocols import Future, Remote, Stream
from deepscaler.types import WorkerLost

MOST_RESTARTS = 3  # in a row, without a finished generation in between
REMEDY = "Run the same command again to continue from the newest checkpoint"


class SupervisedRemote:
    """A call that was lost with its process is repeated by a new one; a stream that was lost raises WorkerLost.

    Only for objects whose answers are functions of the arguments and of memory that outlives the process.

    name: of the worker in messages, e.g. `helper 1`. start: starts the process; returns at once. most_restarts: in a
    row, without `works` in between; 0 for a worker that is never started again. report: told of every restart.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Remote],
        *,
        most_restarts: int = MOST_RESTARTS,
        report: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.name = name
        self._start, self._most_restarts, self._report = start, most_restarts, report
        self._num_starts, self._num_losses = 1, 0
        self._remote = start()

    @property
    def num_starts(self) -> int:
        """Rises with every restart: what the process was told before, such as its weights, is gone then."""
        return self._num_starts

    @property
    def remote(self) -> Remote:
        """The process of now."""
        return self._remote

    def call(self, method: str, *arguments: object) -> RepeatedCall:
        return RepeatedCall(self, method, arguments)

    def stream(self, method: str, *arguments: object) -> Stream[Any]:
        return self._remote.stream(method, *arguments)

    def restart(self, lost: WorkerLost) -> None:
        """End what is left of the process and start a new one. Raises WorkerLost after too many in a row."""
        self._num_losses += 1
        if self._num_losses > self._most_restarts:
            again = f"; it was started again {self._most_restarts} times in a row" if self._most_restarts else ""
            raise WorkerLost(f"{lost}{again}. {REMEDY}") from lost
        self._remote.close()
        self._remote = self._start()
        self._num_starts += 1
        self._report(f"{self.name} was started again: {lost}")

    def works(self) -> None:
        """The process has done what it is there for: losses are counted from here."""
        self._num_losses = 0

    def close(self) -> None:
        self._remote.close()


class RepeatedCall:
    """The answer to a call, from the process that it was sent to or from one of its successors."""

    def __init__(self, owner: SupervisedRemote, method: str, arguments: tuple[object, ...]) -> None:
        self._owner, self._method, self._arguments = owner, method, arguments
        self._send()

    def ready(self) -> bool:
        """Whether `result` would answer, or begin to repeat the call, without waiting."""
        try:
            return self._future.ready()
        except WorkerLost:
            return True

    def result(self) -> Any:
        """Wait for it. Raises RunError when the object failed, WorkerLost when its process was lost too often."""
        while True:
            try:
                return self._future.result()
            except WorkerLost as lost:
                self._restart(lost)
                self._send()

    def _send(self) -> None:
        while True:
            self._sent_to = self._owner.num_starts
            try:
                self._future: Future[Any] = self._owner.remote.call(self._method, *self._arguments)
            except WorkerLost as lost:
                self._restart(lost)
            else:
                return

    def _restart(self, lost: WorkerLost) -> None:
        if self._sent_to == self._owner.num_starts:  # else another call of the same process has noticed before
            self._owner.restart(lost)
