"""An object in a Ray actor, reached as any other remote object.

Calls and streams are answered in order, by one thread. Cancelling and the sign of life have a concurrency group of
their own, so they never wait behind calls, however many are queued (verl#7587).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from deepscaler.cluster.connection import Build
from deepscaler.cluster.worker_log import log_size, wait_for_stacks, write_stacks, write_stderr_to
from deepscaler.observability import liveness
from deepscaler.observability.last_lines import last_lines
from deepscaler.types import RunError, WorkerLost

START_LIMIT_S = 600.0  # longest wait for its object: imports, model, kernels
_ASK_EVERY_S = 5.0  # for a sign of life
_POLL_S = 1.0
_FETCH_LIMIT_S = 300.0  # for copying an answer that is there from another machine


class Served:
    """The far end. log: file that the process's standard error goes to, where this machine sees its directory."""

    def __init__(self, log: Path | None) -> None:
        self._target: object = None
        self._current, self._is_busy = 0, False
        self._cancelled: set[int] = set()
        if log is not None and log.parent.is_dir():
            write_stderr_to(str(log))

    @ray.method(concurrency_group="work")
    def start(self, build: Build) -> None:
        """Make the object, in the thread that will work on it."""
        self._target = build(lambda: self._current in self._cancelled)

    @ray.method(concurrency_group="work")
    def invoke(self, method: str, arguments: tuple[object, ...]) -> object:
        with self._busy():
            return getattr(self._target, method)(*arguments)

    @ray.method(concurrency_group="work")
    def iterate(self, number: int, method: str, arguments: tuple[object, ...]) -> Iterator[object]:
        self._current = number
        if number not in self._cancelled:
            with self._busy():
                yield from getattr(self._target, method)(*arguments)
        self._cancelled.discard(number)

    @ray.method(concurrency_group="control")
    def cancel(self, number: int) -> None:
        """End a stream that runs, or that is still queued."""
        self._cancelled.add(number)

    @ray.method(concurrency_group="control")
    def pid(self) -> int:
        return os.getpid()

    @ray.method(concurrency_group="control")
    def write_stacks(self) -> None:
        """Of all threads, to standard error."""
        write_stacks()

    @ray.method(concurrency_group="control")
    def life_sign(self) -> float | None:
        """Seconds since the last progress; None without a call."""
        return liveness.idle_s() if self._is_busy else None

    @contextmanager
    def _busy(self) -> Iterator[None]:
        liveness.beat()
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False


_make_actor: Any = ray.remote  # its types know of no concurrency groups
_ServedActor = _make_actor(concurrency_groups={"work": 1, "control": 4})(Served)


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """How an actor is started. role: its name in messages, as in `sampler 1`.

    placement: Ray's scheduling strategy. log: file for its standard error, on a directory that all machines share.
    silence_s: without a sign of life it counts as lost; a stopped process gives none, a busy one does. stall_s: without
    progress in a call it counts as lost as well.
    """

    role: str
    num_cpus: float = 1
    num_gpus: float = 0
    placement: Any = "DEFAULT"
    log: Path | None = None
    silence_s: float = 60.0
    stall_s: float = 1800.0


class RayRemote:
    """The near end; the actor dies with this process. build: makes the object in the actor's process.

    Raises RunError when the object cannot be made, WorkerLost when the process dies meanwhile.
    """

    def __init__(self, build: Build, options: ActorOptions) -> None:
        self.role, self._log = options.role, options.log
        self._silence_s, self._stall_s = options.silence_s, options.stall_s
        self._actor: Any = _ServedActor.options(
            num_cpus=options.num_cpus,
            num_gpus=options.num_gpus,
            scheduling_strategy=options.placement,
            max_restarts=0,  # a new process would have no object; who needs one makes a new remote
        ).remote(options.log)
        self._num_streams = 0
        self._sign: Any = self._actor.life_sign.remote()  # asked for and not yet given
        self._asked, self._was_seen = time.monotonic(), False
        self._fault = ""  # why it was ended
        self._started: Any = self._actor.start.remote(build)
        self._is_started = False

    def wait_until_started(self) -> None:
        """Until the object is there. Raises RunError when it cannot be made."""
        if not self._is_started:
            self._value(self._started, "start", START_LIMIT_S)
            self._is_started = True

    @property
    def pid(self) -> int:
        pid = self._value(self._actor.pid.remote(), "pid", START_LIMIT_S)
        assert isinstance(pid, int)
        return pid

    def call(self, method: str, *arguments: object) -> RayFuture:
        return RayFuture(self, method, self._actor.invoke.remote(method, arguments))

    def stream(self, method: str, *arguments: object) -> RayStream:
        self._num_streams += 1
        number = self._num_streams
        generator = self._actor.iterate.options(num_returns="streaming").remote(number, method, arguments)
        return RayStream(self, method, number, generator)

    def cancel(self, number: int) -> None:
        self._actor.cancel.remote(number)

    def close(self) -> None:
        """End the process, at once."""
        ray.kill(self._actor, no_restart=True)

    def is_ready(self, reference: ray.ObjectRef, timeout_s: float = 0.0) -> bool:
        """Whether an answer, an error, or a generator's next value or end is there within this time.

        Meanwhile the process has to show signs of life: a silent one is ended, which is an error.
        """
        ready, _ = ray.wait([reference], timeout=timeout_s, fetch_local=False)
        if not ready:
            self._watch()
        return bool(ready)

    def write_stacks(self) -> None:
        """Ask for the stacks of its threads, in its log."""
        self._actor.write_stacks.remote()

    def wait(self, reference: ray.ObjectRef, method: str, limit_s: float | None = None) -> None:
        """Until it is there. Raises WorkerLost after the limit; without one, progress alone is asked for."""
        deadline = None if limit_s is None else time.monotonic() + limit_s
        while not self.is_ready(reference, _POLL_S):
            if deadline is not None and time.monotonic() > deadline:
                self.close()
                raise WorkerLost(f"{self.role}: {method}: no answer for {limit_s:.0f} s; its process was ended")

    def value_of(self, reference: ray.ObjectRef, method: str) -> object:
        """What the answer holds. Raises RunError with the other side's error."""
        self.wait_until_started()
        return self._value(reference, method)

    def _value(self, reference: ray.ObjectRef, method: str, limit_s: float | None = None) -> object:
        self.wait(reference, method, limit_s)
        try:
            value = ray.get(reference, timeout=_FETCH_LIMIT_S)
            self._was_seen = True
            return value
        except RayTaskError as error:
            raise self._failed(error, method) from error
        except (RayError, GetTimeoutError) as error:
            raise self._lost(error, method) from error

    def _watch(self) -> None:
        waited = time.monotonic() - self._asked
        if waited < _ASK_EVERY_S:
            return
        if ray.wait([self._sign], timeout=0)[0]:
            self._tell_progress()
            self._sign, self._asked, self._was_seen = self._actor.life_sign.remote(), time.monotonic(), True
        elif waited > (self._silence_s if self._was_seen else START_LIMIT_S):
            self._end(f"no sign of life for {self._silence_s:.0f} s")

    def _end(self, fault: str) -> None:
        """An answer that somebody waits for is an error from now on."""
        self._fault = f"{fault}, so it was ended"
        self.close()

    def _tell_progress(self) -> None:
        """Progress of an actor that this process waits for is progress here: a long update is no stall."""
        idle_s: Any = None
        with suppress(RayError, GetTimeoutError):
            idle_s = ray.get(self._sign, timeout=_POLL_S)
        if idle_s is not None and idle_s < 2 * _ASK_EVERY_S:
            liveness.beat(idle_s)
        elif idle_s is not None and idle_s > self._stall_s:
            before = log_size(self._log)
            self.write_stacks()
            if self._log is not None:
                wait_for_stacks(lambda: log_size(self._log), before)
            self._end(f"no progress for {self._stall_s:.0f} s (cluster.stall_s)")

    def _failed(self, error: RayTaskError, method: str) -> RunError:
        cause = error.cause
        if isinstance(cause, RunError):
            return type(cause)(f"{self.role}: {cause}")
        return RunError(f"{self.role}: {method} failed: {type(cause).__name__}: {cause}")

    def _lost(self, error: Exception, method: str) -> WorkerLost:
        text = " ".join(str(error).split())
        detail = text.partition("Worker exit detail: ")[2].partition(" Some common causes")[0]
        reason = f"{type(error).__name__}: {detail or text[:300]}"
        if self._fault:
            reason = self._fault
        hint = "; its machine may have run out of memory"
        return WorkerLost(f"{self.role} died during {method} ({reason}){hint}{last_lines(self._log)}")


class RayFuture:
    def __init__(self, remote: RayRemote, method: str, reference: ray.ObjectRef) -> None:
        self._remote, self._method, self._reference = remote, method, reference

    def ready(self) -> bool:
        """Whether the answer, or the error, is there without waiting."""
        return self._remote.is_ready(self._reference)

    def result(self) -> Any:
        """Wait for it. Raises RunError when the object failed, WorkerLost when its process died or is silent."""
        return self._remote.value_of(self._reference, self._method)


class RayStream:
    """Values as the actor yields them. number: by which the actor knows the stream."""

    def __init__(self, remote: RayRemote, method: str, number: int, generator: Any) -> None:
        self._remote, self._method, self._number, self._generator = remote, method, number, generator
        self._ended = False

    def __iter__(self) -> Iterator[object]:
        return self

    def __next__(self) -> object:
        if self._ended:
            raise StopIteration
        try:
            self._remote.wait(self._generator, self._method)
            return self._remote.value_of(next(self._generator), self._method)
        except (StopIteration, RunError):
            self._ended = True
            raise

    def ready(self) -> bool:
        return self._ended or self._remote.is_ready(self._generator)

    def cancel(self) -> None:
        """Ask the actor to end early; what it yields until then can still be taken."""
        if not self._ended:
            self._remote.cancel(self._number)

    def close(self) -> None:
        """Cancel the rest and wait until the actor has stopped making it. Does not raise where it is lost."""
        if not self._ended:
            self._remote.cancel(self._number)
            with suppress(WorkerLost):
                for _ in self:
                    pass
