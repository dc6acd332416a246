"""One grading process as its owner sees it: batches in, verdicts out, killed and replaced when over its time."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepscaler
from deepscaler.rewards.worker import READY
from deepscaler.types import Outcome, RunError, Verdict

START_S = 60.0
MAX_LINE_BYTES = 2**20
# Nothing else of the environment reaches a process that reads model text: no token, no key.
INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "VIRTUAL_ENV")
Item = tuple[str, list[str], bool]  # completion, references, thinking_prefilled


class _GoneError(Exception):
    """The worker ended, or answered what no worker answers."""


class GradingProcess:
    """Owned by one thread. `grade` always returns one verdict per item, whatever happens to the process."""

    def __init__(self, grader: str, memory_mib: int, wall_s: float) -> None:
        self._command = [sys.executable, "-P", "-B", "-m", "deepscaler.rewards.worker", str(memory_mib), grader]
        self._wall_s = wall_s
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def grade(self, items: Sequence[Item]) -> list[Verdict]:
        """Verdicts in order. An item that takes too long, or kills the worker, costs its own verdict only."""
        verdicts: list[Verdict] = []
        while len(verdicts) < len(items):
            rest = items[len(verdicts) :]
            start = time.perf_counter()
            try:
                self._start()
                self._write((json.dumps(rest) + "\n").encode("ascii"))
                for index in range(len(rest)):
                    start = time.perf_counter()
                    verdicts.append(_verdict(self._read_line(self._wall_s), index))
            except TimeoutError:
                self.kill()
                detail = f"no verdict within {self._wall_s:g} s"
                verdicts.append(Verdict(Outcome.TIMEOUT, 0.0, detail=detail, seconds=time.perf_counter() - start))
            except (_GoneError, OSError) as error:
                self.kill()
                verdicts.append(Verdict(Outcome.GRADER_FAILED, 0.0, detail=f"the grading process died: {error}"))
        return verdicts

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _start(self) -> None:
        if self._process is not None:
            return
        self._buffer = b""
        with tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                env=_environment(),
                start_new_session=True,
            )
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)
            try:
                ready = json.loads(self._read_line(START_S)) == [READY]
            except (TimeoutError, _GoneError, ValueError):
                ready = False
            if not ready:
                self.kill()
                errors.seek(0)
                words = errors.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
                raise RunError(
                    f"the grading process did not start: {words[0]}. Raise grader.memory_mib, or run "
                    "`deepscaler doctor`"
                )

    def _write(self, data: bytes) -> None:
        process = self._process
        assert process is not None and process.stdin is not None
        view, deadline = memoryview(data), time.monotonic() + START_S
        while view:
            _wait(process.stdin.fileno(), select.POLLOUT, deadline)
            view = view[os.write(process.stdin.fileno(), view[: 2**16]) :]

    def _read_line(self, seconds: float) -> bytes:
        process = self._process
        assert process is not None and process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            _wait(process.stdout.fileno(), select.POLLIN, deadline)
            received = os.read(process.stdout.fileno(), 2**16)
            if not received or len(self._buffer) > MAX_LINE_BYTES:
                code = process.poll()
                raise _GoneError("it closed its output" if code is None else f"exit status {code}")
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _verdict(line: bytes, expected_index: int) -> Verdict:
    try:
        index, outcome, reward, answer, detail, seconds = json.loads(line)
        verdict = Verdict(Outcome(outcome), float(reward), answer, detail, float(seconds))
    except (ValueError, TypeError) as error:
        raise _GoneError(f"unreadable answer ({error})") from error
    if index != expected_index:
        raise _GoneError("answers out of order")
    return verdict


def _environment() -> dict[str, Any]:
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    # `-P` keeps the working directory off the path, so the package's own place has to be said; tests add theirs.
    places = [str(Path(deepscaler.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(places), "OPENBLAS_NUM_THREADS": "1"}
