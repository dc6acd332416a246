"""Graders that misbehave on command; the pool's tests start them in its worker processes."""

from __future__ import annotations

import faulthandler
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Outcome, Verdict

CORRECT = Verdict(Outcome.CORRECT, 1.0, "7", "fine")
hoard: list[np.ndarray] = []


def misbehave(item: GradeItem) -> Verdict:
    """Do what the completion says, `command:argument`; grade everything else as correct."""
    command, _, argument = item.completion.partition(":")
    act = _ACTS.get(command)
    if act is None:
        return CORRECT
    told = act(argument)
    return CORRECT if told is None else Verdict(Outcome.CORRECT, 1.0, str(told))


def grade_or_misbehave(item: GradeItem) -> Verdict:
    """The real grader, except where the completion is a command; for benchmarks/grading_isolation.py."""
    chosen = misbehave if item.completion.partition(":")[0] in _ACTS else grade
    return chosen(item)


def _spin(_: str) -> None:
    while True:
        pass


def _one_long_operation(_: str) -> int:
    return len(str(7 ** (10**8)))  # one call into C that no Python code can interrupt


def _raise(_: str) -> None:
    raise RuntimeError("cannot grade this")


def _hoard(_: str) -> None:
    while True:
        hoard.append(np.empty(2**26, np.uint8))  # address space only: filling it would cost processor time


def _print(_: str) -> None:
    print("['correct', 1.0, null, '', 0, false, false]", flush=True)
    sys.stderr.write("x" * 2**20)


def _recurse(argument: str) -> None:
    _recurse(argument)


_ACTS: dict[str, Callable[[str], object]] = {
    "hang": lambda _: time.sleep(3600),
    "spin": _spin,
    "long": _one_long_operation,
    "die": lambda _: os._exit(3),
    "segfault": lambda _: faulthandler._sigsegv(),  # type: ignore[attr-defined]  # private: made for such tests
    "raise": _raise,
    "eat": lambda _: len(bytearray(2**34)),
    "hoard": _hoard,
    "print": _print,
    "write": lambda path: Path(path).write_text("written"),
    "run": lambda _: subprocess.run(["true"], check=True),
    "dial": lambda _: socket.create_connection(("127.0.0.1", 9)),
    "fork": lambda _: os.fork(),
    "environment": lambda _: ",".join(sorted(os.environ)),
    "pid": lambda _: os.getpid(),
    "supervisor": lambda _: os.getppid(),
    "length": lambda argument: len(argument),
    "recurse": _recurse,
    "sleep": lambda seconds: time.sleep(float(seconds)),
}
