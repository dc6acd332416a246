"""Starts the process that runs a reward function, ends it with everything it started, and keeps what it prints.

Started by `process` with a control socket as standard input. Per byte on it: end the worker, answer how it ended, and
start a new one on the socket that came along. It adopts orphans (PR_SET_CHILD_SUBREAPER), so a process that the
function forks cannot outlive a kill. Its own end is that of its owner, whose hang-up it waits for.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

from deepscaler.lifetime import die_with_parent
from deepscaler.rewards.functions.worker import FunctionSpec, serve

_PR_SET_CHILD_SUBREAPER = 36
LOOK_UP_S = 1.0
KILL_S = 10.0
MAX_OUTPUT_BYTES = 2**18
TAIL_BYTES = 4000


class Output:
    """What the function prints: the first MAX_OUTPUT_BYTES go to a file, the newest TAIL_BYTES are remembered."""

    def __init__(self, path: str) -> None:
        self._path, self._room = Path(path) if path else None, MAX_OUTPUT_BYTES
        self._tail = b""
        self.end, self.writing_end = os.pipe()
        os.set_blocking(self.end, False)

    def read(self) -> None:
        """Take what is there, so that a function that prints without end waits for nothing."""
        while True:
            try:
                piece = os.read(self.end, 2**16)
            except BlockingIOError:
                return
            if not piece:
                return
            self._tail = (self._tail + piece)[-TAIL_BYTES:]
            if self._path is not None and self._room > 0:
                kept = piece[: self._room]
                self._room -= len(kept)
                with self._path.open("ab") as file:
                    file.write(kept + (b"" if self._room else b"\n[more was printed, and dropped]\n"))

    def take_tail(self) -> str:
        tail, self._tail = self._tail.decode(errors="replace"), b""
        return tail


def main(arguments: list[str]) -> None:
    """SPEC as JSON, and the file for what the function prints (empty: none)."""
    spec, output = FunctionSpec(**json.loads(arguments[0])), Output(arguments[1])
    control = socket.socket(fileno=os.dup(0))
    control.setblocking(True)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    owner, worker = os.getppid(), 0
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(output.end, select.POLLIN)
    while os.getppid() == owner:
        ready = {descriptor for descriptor, _ in poll.poll(LOOK_UP_S * 1000)}
        output.read()
        if control.fileno() not in ready:
            continue
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        status = end_all(worker)
        output.read()
        if not descriptors:
            return
        line = socket.socket(fileno=descriptors[0])
        worker = os.fork()
        if worker == 0:
            _become_worker(control, output, line, spec)
        line.close()
        control.sendall(json.dumps([status, output.take_tail()]).encode("ascii") + b"\n")
    end_all(worker)


def _become_worker(control: socket.socket, output: Output, line: socket.socket, spec: FunctionSpec) -> None:
    """Does not return."""
    try:
        die_with_parent()
        control.close()
        for standard in (1, 2):
            os.dup2(output.writing_end, standard)
        os.close(output.end)
        os.close(output.writing_end)
        serve(line, spec)
    finally:
        os._exit(1)


def end_all(worker: int) -> int:
    """Kill the worker and all that it left behind.

    Returns its exit status, or minus the signal that killed it, which may be ours.
    """
    status = 0
    if worker:
        done, found = os.waitpid(worker, os.WNOHANG)
        if not done:
            os.kill(worker, signal.SIGKILL)
            _, found = os.waitpid(worker, 0)
        status = os.waitstatus_to_exitcode(found)
    deadline = time.monotonic() + KILL_S
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                _kill(_descendants(os.getpid()))
                time.sleep(0.001)
        except ChildProcessError:  # none is left
            break
    return status


def _kill(processes: list[int]) -> None:
    """Stopped first: what is stopped forks no more."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


def _descendants(root: int) -> list[int]:
    """Ids of all processes below `root`, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir() if Path("/proc/self").is_dir() else ():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
