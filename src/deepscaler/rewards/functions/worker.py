"""The process that runs a reward function: loads it, then answers requests over a socket until that is closed.

Standard library only, so that the function's imports are the only ones it waits for.
"""

from __future__ import annotations

import faulthandler
import json
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from deepscaler.own_code import LoadError
from deepscaler.rewards.functions.calling import Caller, Returned
from deepscaler.rewards.functions.loading import LoadedFunction, load_function
from deepscaler.rewards.functions.network import switch_off

MAX_FILE_BYTES = 2**28  # of a file that the function writes
STACKS_AT = 0.9  # of the waiting time: then the stacks are written, before the process is killed


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """path: `FILE.py:NAME` or `MODULE:NAME`. arguments: keyword arguments of every call. wall_s, cpu_s: per call.

    memory_mib: address space of the process. network: whether it may open connections.
    """

    path: str
    arguments: Mapping[str, object]
    wall_s: float
    cpu_s: float
    memory_mib: int
    network: bool


def serve(line: socket.socket, spec: FunctionSpec) -> None:
    """First one line that describes the function or says why it cannot be used, then a line for every completion."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    _limit(spec.memory_mib)
    enforced = spec.network or switch_off()
    requests, answers = line.makefile("r", encoding="ascii"), line.makefile("w", encoding="ascii")

    def write(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        function = load_function(spec.path, spec.arguments)
    except LoadError as error:
        write({"error": str(error), "trace": error.trace})
        return
    write({**_described(function), "network_enforced": enforced})
    caller = Caller(function, spec.arguments, spec.wall_s)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    for request in requests:
        items = json.loads(request)

        def reply(index: int, returned: Returned) -> None:
            _arm(spec)
            write([index, returned.as_json()])

        _arm(spec)
        caller(items, reply)
        _disarm()


def _described(function: LoadedFunction) -> dict[str, object]:
    return {
        "batched": function.batched,
        "is_async": function.is_async,
        "wanted": dict(function.wanted),
        "takes_any": function.takes_any,
        "sources": dict(function.sources),
    }


def _arm(spec: FunctionSpec) -> None:
    """Processor time that ends the process, and the stacks of a call that will be over its waiting time."""
    signal.setitimer(signal.ITIMER_PROF, spec.cpu_s)
    faulthandler.dump_traceback_later(STACKS_AT * spec.wall_s, file=sys.stderr)


def _disarm() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    faulthandler.cancel_dump_traceback_later()


def _limit(memory_mib: int) -> None:
    limits = (
        (resource.RLIMIT_AS, memory_mib * 2**20),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    )
    for kind, most in limits:
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))
