"""The processes that grade. A supervisor, started by `process` as a clean program, imports the grader and forks the one
that reads model text; when that one is over a limit or dies, the next is there in milliseconds.

The supervisor never sees a completion: over its standard input it gets one socket per grading process, ends the process
before, and answers how that one ended. The grading process reads from its socket, per completion, one line of JSON and
the text itself, and answers one line. It holds no secrets, has limits of processor time and address space, may open no
file for writing, start no process and open no connection, and dies with the supervisor, which dies with its owner.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable

from deepscaler.lifetime import die_with_parent
from deepscaler.rewards.isolation.cache import VerdictCache
from deepscaler.rewards.letters import by_answer_kind
from deepscaler.types import GradeItem, Outcome, Verdict

READY = b"ready\n"
WARM_UP = "\\boxed{\\frac{1}{2} + \\sqrt{2} \\cdot \\pi - \\sin(1)}"
MAX_TEXT_CHARACTERS = 500  # of what a verdict quotes
Grade = Callable[[GradeItem], Verdict]
_ALLOWED = ("os.listdir", "os.scandir")  # the import system's
_REFUSED_KINDS = ("os.", "subprocess.", "socket.", "ctypes.", "shutil.", "pty.")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main(arguments: list[str]) -> None:
    """MEMORY_MIB CPU_S MODULE:FUNCTION, with a Unix socket as standard input."""
    die_with_parent()
    memory_mib, cpu_s, path = int(arguments[0]), float(arguments[1]), arguments[2]
    module_name, _, function = path.partition(":")
    module = importlib.import_module(module_name)
    version = getattr(module, "GRADER_VERSION", "")
    control = socket.socket(fileno=os.dup(0))
    control.setblocking(True)
    grade: Grade = getattr(module, function)
    # Caches of the interpreter and of number libraries are filled once here instead of in every new process.
    _grade_one(grade, GradeItem(WARM_UP, ["\\cos{2}"], thinking_prefilled=False))
    _limit(memory_mib)
    control.sendall(READY)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # whatever prints goes nowhere
        os.dup2(nowhere, standard)
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, the pages that are shared after a fork
    _oversee(control, lambda line: _serve(line, grade, f"{path} {version}", cpu_s))


def _oversee(control: socket.socket, serve: Callable[[int], None]) -> None:
    """One grading process at a time, a new one for every socket received, until the owner hangs up."""
    child = 0
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        status = _end(child)
        if not descriptors:
            return
        child = os.fork()
        if child == 0:
            control.close()
            try:
                die_with_parent()
                serve(descriptors[0])
            finally:
                os._exit(1)
        os.close(descriptors[0])
        control.sendall(b"%d\n" % status)


def _end(child: int) -> int:
    """How the process ended: its exit status, or minus the signal that killed it, which may be ours."""
    if not child:
        return 0
    done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _serve(line: int, grade: Grade, identity: str, cpu_s: float) -> None:
    os.set_blocking(line, True)
    requests, answers = os.fdopen(line, "rb"), os.fdopen(os.dup(line), "wb", buffering=0)
    remembering = VerdictCache(by_answer_kind(grade), identity).grade
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})  # the owner's mask was inherited
    sys.addaudithook(refuse)
    for request in requests:
        size, references, prefilled, tolerance, answer_kind, rules = json.loads(request)
        completion = requests.read(size).decode("utf-8", "surrogatepass")
        item = GradeItem(
            completion, references, prefilled, tolerance, answer_kind=answer_kind, answer_rules=tuple(rules)
        )
        # Counts this process's own processor time, however busy the machine is, and kills it in the midst of C code.
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        answer, exhausted = _grade_one(remembering, item)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps([*answer, exhausted]).encode("ascii") + b"\n")
        if exhausted:  # what is left of the memory may not do for the next one
            return


def _grade_one(grade: Grade, item: GradeItem) -> tuple[list[object], bool]:
    """([outcome, reward, answer, detail, seconds, cached], out of memory). What a grader raises is `grader_failed`."""
    start = time.perf_counter()
    exhausted = False
    try:
        v = grade(item)
    except (Exception, MemoryError) as error:
        exhausted = isinstance(error, MemoryError)
        v = Verdict(Outcome.GRADER_FAILED, 0.0, detail=f"{type(error).__name__}: {error}")
    answer = None if v.answer is None else v.answer[:MAX_TEXT_CHARACTERS]
    seconds = time.perf_counter() - start
    return [v.outcome.value, v.reward, answer, v.detail[:MAX_TEXT_CHARACTERS], seconds, v.cached], exhausted


def refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Audit hook of the grading process, a second wall behind a grammar that evaluates nothing."""
    if event == "open":
        flags = arguments[2]
        if isinstance(flags, int) and flags & _WRITING:
            raise PermissionError(f"the grading process opens no file for writing: {arguments[0]!r:.200}")
    elif event.startswith(_REFUSED_KINDS) and event not in _ALLOWED:
        raise PermissionError(f"the grading process does not do this: {event}")


def _limit(memory_mib: int) -> None:
    for kind, most in ((resource.RLIMIT_AS, memory_mib * 2**20), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    main(sys.argv[1:])
