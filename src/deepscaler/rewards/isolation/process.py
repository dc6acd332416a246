"""One grading process as its owner sees it: items in, verdicts out, killed and replaced when over a limit."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import deepscaler
from deepscaler.json_text import parse_json
from deepscaler.rewards.isolation.worker import READY
from deepscaler.types import GradeItem, Outcome, RunError, Verdict

START_S = 60.0
LOOK_UP_S = 0.2  # how soon a wait notices that the pool is closing
MAX_LINE_BYTES = 2**20
AHEAD_BYTES, AHEAD_ITEMS = 2**16, 64  # sent before the verdicts on them are in
# Nothing else of the environment reaches a process that reads model text: no token, no key.
INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class Limits:
    """wall_s and cpu_s: seconds per item; memory_mib: address space of the process."""

    wall_s: float
    cpu_s: float
    memory_mib: int


class _GoneError(Exception):
    """The grading process ended, or answered what none answers."""


class GradingProcess:
    """Owned by one thread. `grade` always returns one verdict per item, whatever happens to the process."""

    def __init__(self, grader: str, limits: Limits, closing: Event | None = None) -> None:
        arguments = [str(limits.memory_mib), str(limits.cpu_s), grader]
        self._command = [sys.executable, "-P", "-B", "-m", "deepscaler.rewards.isolation.worker", *arguments]
        self._limits = limits
        self._closing = closing or Event()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None  # to the supervisor
        self._line: socket.socket | None = None  # to the grading process
        self._buffer = b""
        self._asked = 0.0

    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
        """Verdicts in order. An item that takes too much, or kills the process, costs its own verdict only.

        Raises RunError when no process can be started, ValueError when the pool closes meanwhile.
        """
        verdicts: list[Verdict] = []
        while len(verdicts) < len(items):
            before = len(verdicts)
            fresh = self._ready()
            try:
                self._exchange(items, verdicts)
            except TimeoutError:
                detail = f"no verdict within {self._limits.wall_s:g} s"
                verdicts.append(Verdict(Outcome.TIMEOUT, 0.0, detail=detail, seconds=time.perf_counter() - self._asked))
                self._drop_line()
            except (_GoneError, OSError) as error:
                if fresh or len(verdicts) > before:
                    verdicts.append(self._autopsy(error))
                else:  # it may have been dying before it read a word: the next one tells
                    self._drop_line()
        return verdicts

    def kill(self) -> None:
        """End supervisor and grading process. A no-op when none runs."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(supervisor.pid, signal.SIGKILL)
            supervisor.wait()
        for end in (self._control, self._line):
            if end is not None:
                end.close()
        self._control = self._line = None

    def _exchange(self, items: Sequence[GradeItem], verdicts: list[Verdict]) -> None:
        """Send what is left of `items`, a little ahead of the verdicts, and append these as they come."""
        assert self._line is not None
        sent, outgoing = len(verdicts), memoryview(b"")
        deadline = self._expect()
        while len(verdicts) < len(items):
            if not outgoing:
                frames = _frames(items[sent : len(verdicts) + AHEAD_ITEMS])
                sent, outgoing = sent + len(frames), memoryview(b"".join(frames))
            events = self._wait(self._line, select.POLLIN | (select.POLLOUT if outgoing else 0), deadline)
            if events == select.POLLOUT:
                try:
                    outgoing = outgoing[self._line.send(outgoing[: 2**18]) :]
                except (BrokenPipeError, ConnectionResetError):  # what it answered before it ended is still to be read
                    sent, outgoing = len(items), memoryview(b"")
                continue
            for line in self._read_lines(self._line):
                verdict, leaving = _verdict(line)
                verdicts.append(verdict)
                deadline = self._expect()
                if leaving:
                    self._drop_line()
                    return

    def _expect(self) -> float:
        """The next verdict is due from now on. Returns its deadline, in monotonic seconds."""
        self._asked = time.perf_counter()
        return time.monotonic() + self._limits.wall_s

    def _ready(self) -> bool:
        """Start what is missing: the supervisor, the grading process or one that died idle. True for a new one."""
        if self._line is not None and not _readable(self._line):
            return False
        try:
            if self._supervisor is None:
                self._start()
            self._replace()
        except (_GoneError, OSError):  # the supervisor died or hangs
            self.kill()
            self._start()
            self._replace()
        return True

    def _replace(self) -> int:
        """End the grading process and have a new one. Returns how the old one ended, as `waitstatus_to_exitcode`."""
        assert self._control is not None
        self._drop_line()
        self._line, theirs = socket.socketpair()
        self._line.setblocking(False)
        with theirs:
            socket.send_fds(self._control, [b"n"], [theirs.fileno()])
        return int(self._read_control())

    def _drop_line(self) -> None:
        """The next `_ready` then replaces the process."""
        if self._line is not None:
            self._line.close()
        self._line, self._buffer = None, b""

    def _autopsy(self, error: Exception) -> Verdict:
        """The verdict on the item that killed the grading process, with a new process in its place."""
        seconds = time.perf_counter() - self._asked
        try:
            status = self._replace()
        except (_GoneError, OSError):  # the supervisor is gone as well
            self.kill()
            words = str(error)
        else:
            if status == -signal.SIGPROF:
                detail = f"over {self._limits.cpu_s:g} s of processor time"
                return Verdict(Outcome.TIMEOUT, 0.0, detail=detail, seconds=seconds)
            words = f"killed by {signal.Signals(-status).name}" if status < 0 else f"{error}, exit status {status}"
        return Verdict(Outcome.GRADER_FAILED, 0.0, detail=f"the grading process died: {words}", seconds=seconds)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(True)
        with theirs, tempfile.TemporaryFile() as errors:
            self._control = ours
            self._supervisor = subprocess.Popen(
                self._command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=_environment(),
                start_new_session=True,
            )
            theirs.close()  # else its end would keep the conversation alive
            try:
                ready = self._read_control() == READY.strip()
            except (TimeoutError, _GoneError, OSError):
                ready = False
            if not ready:
                self.kill()
                errors.seek(0)
                words = errors.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
                raise RunError(
                    f"the grading process did not start: {words[0]}. Raise grader.memory_mib, or run "
                    "`deepscaler doctor`"
                )

    def _read_control(self) -> bytes:
        assert self._control is not None
        received, deadline = b"", time.monotonic() + START_S
        while not received.endswith(b"\n"):
            self._wait(self._control, select.POLLIN, deadline)
            piece = self._control.recv(64)
            if not piece:
                raise _GoneError("the supervisor of the grading process ended")
            received += piece
        return received[:-1]

    def _read_lines(self, line: socket.socket) -> list[bytes]:
        received = line.recv(2**16)
        if not received:
            raise _GoneError("it closed its socket")
        *lines, self._buffer = (self._buffer + received).split(b"\n")
        if len(self._buffer) > MAX_LINE_BYTES:
            raise _GoneError("it answered without end")
        return lines

    def _wait(self, end: socket.socket, events: int, deadline: float) -> int:
        """The events that came; raises TimeoutError at the deadline and ValueError once the pool is closing."""
        poll = select.poll()
        poll.register(end, events)
        while True:
            left = deadline - time.monotonic()
            if self._closing.is_set():
                raise ValueError("the grader pool was closed while it was grading")
            if ready := poll.poll(max(0.0, min(left, LOOK_UP_S)) * 1000):
                return ready[0][1]
            if left <= 0:
                raise TimeoutError


def _frames(items: Sequence[GradeItem]) -> list[bytes]:
    """Per item a line of JSON and the completion; the first item always, then as many as fit AHEAD_BYTES."""
    frames, size = [], 0
    for item in items:
        if frames and size + len(item.completion) > AHEAD_BYTES:
            break
        completion = item.completion.encode("utf-8", "surrogatepass")
        about = [list(item.references), item.thinking_prefilled, item.tolerance, item.answer_kind, item.answer_rules]
        head = json.dumps([len(completion), *about])
        frames.append(b"%s\n%s" % (head.encode("ascii"), completion))
        size += len(frames[-1])
    return frames


def _readable(end: socket.socket) -> bool:
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(0))


def _verdict(line: bytes) -> tuple[Verdict, bool]:
    """The verdict, and whether the process leaves after it."""
    try:
        outcome, reward, answer, detail, seconds, cached, leaving = parse_json(line)
        return Verdict(Outcome(outcome), float(reward), answer, detail, float(seconds), bool(cached)), bool(leaving)
    except (ValueError, TypeError) as error:
        raise _GoneError(f"unreadable answer ({error})") from error


def _environment() -> dict[str, Any]:
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    # `-P` keeps the working directory off the path, so the package's own place has to be said; tests add theirs.
    places = [str(Path(deepscaler.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(places), "OPENBLAS_NUM_THREADS": "1"}
