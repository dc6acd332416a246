"""One process that runs a reward function, as its owner sees it: completions in, values out, replaced when it dies."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

import deepscaler
from deepscaler.json_text import parse_json
from deepscaler.observability import liveness
from deepscaler.rewards.functions.worker import FunctionSpec
from deepscaler.rewards.isolation.process import INHERITED
from deepscaler.types import PartOutcome, PartValue, RunError

START_S = 120.0  # to import what the function imports
LOOK_UP_S = 0.2  # how soon a wait notices that the pool is closing
GRACE_S = 2.0  # beyond the waiting time of a call, for a function that keeps its own
MAX_LINE_BYTES = 2**20
# Of the environment, besides what a part names: where programs, packages and models are. No token, no key.
PASSED_ON = (*INHERITED, "HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_OFFLINE")
FOLDER_VARIABLE = "DEEPSCALER_REWARD_DIR"  # a folder that the function may write to, of the run


class FunctionError(ValueError):
    """A function of the user's that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Description:
    """What the process found out about the function (`loading.LoadedFunction`)."""

    batched: bool
    is_async: bool
    wanted: Mapping[str, bool]
    takes_any: bool
    sources: Mapping[str, str]
    network_enforced: bool


class _GoneError(Exception):
    """The process ended, or answered what none answers."""


class FunctionProcess:
    """Owned by one thread at a time. `call` always returns one value per completion, whatever happens to the process.

    name: of the part, for messages. folder: for what the function prints and keeps; None: nowhere.
    """

    def __init__(
        self,
        name: str,
        spec: FunctionSpec,
        *,
        environment: Sequence[str] = (),
        folder: Path | None = None,
        closing: Event | None = None,
    ) -> None:
        self._name, self._spec, self._folder = name, spec, folder
        self._environment = environment
        self._closing = closing or Event()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None  # to the supervisor
        self._line: socket.socket | None = None  # to the worker
        self._buffer = b""

    def describe(self) -> Description:
        """Start a process if there is none. Raises FunctionError for a function that cannot be used."""
        self._replace()
        try:
            found = self._read_line(time.monotonic() + START_S)
        except TimeoutError:
            raise FunctionError(f"{self._place()} does not import within {START_S:.0f} s") from None
        except (_GoneError, OSError):
            status, tail = self._replace()
            words = f": {tail.strip().splitlines()[-1]}" if tail.strip() else ""
            raise FunctionError(
                f"{self._place()}: its process ended {_ended(status)} while it was imported{words}"
            ) from None
        if "error" in found:
            trace = f"\n{found['trace'].rstrip()}" if found["trace"] else ""
            raise FunctionError(f"{self._place()}: {found['error']}{trace}")
        return Description(**found)

    def call(self, items: Sequence[Mapping[str, object]]) -> list[PartValue]:
        """The values of the completions of one request. A failure costs those that were not answered yet.

        Raises RunError when no process can be started, ValueError when the pool closes meanwhile.
        """
        values: dict[int, PartValue] = {}
        start = time.perf_counter()
        try:
            if self._line is None or _readable(self._line):  # none yet, or it died idle
                self.describe()
            self._exchange(items, values)
        except FunctionError as error:  # it could be imported at the start of the run
            missing = PartValue(self._name, PartOutcome.CRASHED, detail=str(error))
        except TimeoutError:
            _, tail = self._replaced()
            detail = f"no value within {self._spec.wall_s:g} s\n{tail}".rstrip()
            missing = PartValue(self._name, PartOutcome.TIMEOUT, detail=detail, seconds=time.perf_counter() - start)
        except (_GoneError, OSError) as error:
            missing = self._autopsy(error, time.perf_counter() - start)
        else:
            return [values[index] for index in range(len(items))]
        return [values.get(index, missing) for index in range(len(items))]

    def kill(self) -> None:
        """End supervisor and worker, with all that they started. A no-op when none runs."""
        self._close_line()
        if self._control is not None:
            self._control.close()  # the supervisor ends all that is below it
        supervisor, self._supervisor, self._control = self._supervisor, None, None
        if supervisor is None:
            return
        try:
            supervisor.wait(timeout=2 * START_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(supervisor.pid, signal.SIGKILL)
            supervisor.wait()

    def _exchange(self, items: Sequence[Mapping[str, object]], values: dict[int, PartValue]) -> None:
        assert self._line is not None
        deadline = time.monotonic() + self._spec.wall_s + GRACE_S
        outgoing = memoryview(json.dumps(items).encode("ascii") + b"\n")
        while outgoing:
            self._wait(self._line, select.POLLOUT, deadline)
            outgoing = outgoing[self._line.send(outgoing[: 2**18]) :]
        while len(values) < len(items):
            index, returned = self._read_line(deadline)
            values[int(index)] = _value(self._name, returned)
            liveness.beat()
            deadline = time.monotonic() + self._spec.wall_s + GRACE_S

    def _autopsy(self, error: Exception, seconds: float) -> PartValue:
        """What the completion gets that killed the process."""
        status, tail = self._replaced()
        if status == -signal.SIGPROF:
            detail = f"over {self._spec.cpu_s:g} s of processor time\n{tail}".rstrip()
            return PartValue(self._name, PartOutcome.TIMEOUT, detail=detail, seconds=seconds)
        words = f"the process ended {_ended(status)}" if status else f"the process ended: {error}"
        return PartValue(self._name, PartOutcome.CRASHED, detail=f"{words}\n{tail}".rstrip(), seconds=seconds)

    def _replaced(self) -> tuple[int, str]:
        """How the worker ended, whose place a new one takes, and the last that it printed."""
        try:
            found = self._replace()
        except (_GoneError, OSError, TimeoutError):  # the supervisor is gone as well
            self.kill()
            return 0, ""
        self._close_line()  # the next call asks for one that is described
        return found

    def _replace(self) -> tuple[int, str]:
        """End the worker and have a new one, in which the function is being imported."""
        if self._supervisor is None or self._supervisor.poll() is not None:
            self.kill()
            self._start()
        assert self._control is not None
        self._close_line()
        self._line, theirs = socket.socketpair()
        self._line.setblocking(False)
        with theirs:
            socket.send_fds(self._control, [b"n"], [theirs.fileno()])
        received, deadline = b"", time.monotonic() + START_S
        while not received.endswith(b"\n"):
            self._wait(self._control, select.POLLIN, deadline)
            piece = self._control.recv(2**16)
            if not piece:
                raise _GoneError("its supervisor ended")
            received += piece
        status, tail = parse_json(received)
        return int(status), _without_our_frames(str(tail))

    def _close_line(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line, self._buffer = None, b""

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(True)
        self._control = ours
        printed = ""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            printed = str(self._folder / f"{self._name}.log")
        with theirs:
            try:
                self._supervisor = subprocess.Popen(
                    [
                        *(sys.executable, "-P", "-B", "-m", "deepscaler.rewards.functions.supervisor"),
                        *(json.dumps(asdict(self._spec)), printed),
                    ],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=self._environment_of_process(),
                    start_new_session=True,
                )
            except OSError as error:
                raise RunError(
                    f"{self._place()}: no process can be started: {error}; free memory or processes"
                ) from error

    def _environment_of_process(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in (*PASSED_ON, *self._environment) if name in os.environ}
        if self._folder is not None:
            kept[FOLDER_VARIABLE] = str(self._folder.absolute())
        places = [str(Path(deepscaler.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**kept, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}

    def _read_line(self, deadline: float) -> Any:
        assert self._line is not None
        while b"\n" not in self._buffer:
            self._wait(self._line, select.POLLIN, deadline)
            received = self._line.recv(2**16)
            if not received:
                raise _GoneError("it closed its socket")
            self._buffer += received
            if len(self._buffer) > MAX_LINE_BYTES:
                raise _GoneError("it answered without end")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return parse_json(line)
        except ValueError as error:
            raise _GoneError(f"unreadable answer ({error})") from error

    def _wait(self, end: socket.socket, events: int, deadline: float) -> None:
        """Raises TimeoutError at the deadline and ValueError once the pool is closing."""
        poll = select.poll()
        poll.register(end, events)
        while True:
            left = deadline - time.monotonic()
            if self._closing.is_set():
                raise ValueError("the reward functions were closed while they were called")
            if poll.poll(max(0.0, min(left, LOOK_UP_S)) * 1000):
                return
            if left <= 0:
                raise TimeoutError

    def _place(self) -> str:
        return f"reward part {self._name!r} ({self._spec.path})"


def _value(name: str, returned: Mapping[str, Any]) -> PartValue:
    try:
        metrics = tuple((str(key), float(number)) for key, number in returned["metrics"].items())
        value = None if returned["value"] is None else float(returned["value"])
        outcome, detail = PartOutcome(returned["outcome"]), str(returned["detail"])
        return PartValue(name, outcome, value, detail, float(returned["seconds"]), metrics)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _GoneError(f"unreadable answer ({error})") from error


def _without_our_frames(text: str) -> str:
    """Stacks that faulthandler wrote end with the frames of this program, which say nothing about the function."""
    ours = (f'  File "{Path(deepscaler.__file__).parent}', '  File "<frozen runpy>')
    return "\n".join(line for line in text.splitlines() if not line.startswith(ours))


def _ended(status: int) -> str:
    return f"by signal {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"


def _readable(end: socket.socket) -> bool:
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(0))
