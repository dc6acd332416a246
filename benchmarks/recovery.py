"""How long a run takes to go on, or to end, after one of its processes was killed.

    python benchmarks/recovery.py [--json FILE] [--write]

Runs of the quickstart's base with small steps, as commands of their own. Of a worker whose loss a run survives: seconds
from the kill until the step is done, beside a step of the same run without a kill. Else: until no process is left.
--write puts the table into docs/robustness.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from markers import replace_between_markers
from records import ROOT, machine

OUTPUT = Path(tempfile.gettempdir()) / "recovery.log"  # of the newest run
LIMIT_S = 300.0
STEPS_BEFORE = 4  # without a kill, for the seconds of a step; the first one is left out
SMALL = ("num_steps=1000", "rollout.prompts_per_step=16", "checkpoint.every_steps=1")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
RAY = ("cluster.kind=ray", "cluster.address=local")


@dataclass(frozen=True, slots=True)
class Case:
    """victim: log of the worker below `workers/`, or a rank, or the driver. survives: the run goes on by itself."""

    what: str
    victim: str
    settings: Sequence[str]
    survives: bool = True
    launcher: Sequence[str] = ()


CASES = (
    Case("local: worker process", "worker-process-1", ("training.processes=2",)),
    Case("Ray: one of two samplers", "sampler-0", (*RAY, "cluster.samplers=2")),
    Case("Ray: one of two learner ranks", "learner-rank-1", (*RAY, "cluster.learner_ranks=2")),
    Case("torchrun: one of two ranks", "1", ("cluster.kind=torchrun",), False, TORCHRUN),
    Case("local: driver", "", ("training.processes=2",), False),
    Case("Ray: driver", "", (*RAY, "cluster.samplers=2"), False),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """seconds: from the kill until the run had done its step, or had ended. step_s: of a step without a kill."""

    what: str
    then: str
    seconds: float
    step_s: float
    load: float


def measure(case: Case, directory: Path) -> Measured:
    with started(case, directory) as process:
        wait_for(lambda: len(step_seconds(directory)) >= STEPS_BEFORE, process)
        everyone = descendants(process.pid)
        usual = statistics.median(step_seconds(directory)[1:])
        time.sleep(usual / 3)  # into the step
        done = len(step_seconds(directory))
        os.kill(victim(case, process.pid, directory), signal.SIGKILL)
        since = time.monotonic()
        if case.survives:
            wait_for(lambda: len(step_seconds(directory)) > done, process)
        else:
            process.wait(LIMIT_S)
            wait_for(lambda: not any(map(is_running, everyone)))
        seconds = time.monotonic() - since
    then = "step done" if case.survives else "no process left"
    return Measured(case.what, then, round(seconds, 1), round(usual, 1), round(os.getloadavg()[0], 1))


@contextmanager
def started(case: Case, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = [sys.executable, *case.launcher, "-m", "deepscaler", "train", str(ROOT / "recipes" / "quickstart.toml")]
    settings = [part for each in (*SMALL, *case.settings) for part in ("--set", each)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [*program, "--run-dir", str(directory), *settings]
    with OUTPUT.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait(10)


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise SystemExit(f"the run ended, or did nothing for {LIMIT_S:.0f} s; its output is in {OUTPUT}")
        time.sleep(0.05)


def step_seconds(directory: Path) -> list[float]:
    """Of every step that was done."""
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return [row["step_s"] for row in rows if row["kind"] == "step"]


def victim(case: Case, job: int, directory: Path) -> int:
    """Process id. Workers are known by the file of their standard error, ranks by their environment."""
    if not case.victim:
        return job
    for pid in descendants(job):
        with suppress(OSError):
            if case.launcher and f"\0RANK={case.victim}\0" in Path(f"/proc/{pid}/environ").read_text():
                return pid
            if Path(f"/proc/{pid}/fd/2").readlink() == directory / "workers" / f"{case.victim}.log":
                return pid
    raise SystemExit(f"{case.what}: no such process")


def descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return [*found, *(each for child in found for each in descendants(child))]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="the table into docs/robustness.md")
    arguments = parser.parse_args()
    measured = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as directory:
            measured.append(measure(case, Path(directory) / "run"))
        print(measured[-1], flush=True)
    record = {"machine": machine(), "cases": [asdict(one) for one in measured]}
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))
    if arguments.write:
        replace_between_markers(ROOT / "docs" / "robustness.md", "recovery.py", table(measured))


def table(measured: Sequence[Measured]) -> str:
    lines = ["| killed | then | after | a step without a kill | load |", "|---|---|---|---|---|"]
    lines += [f"| {m.what} | {m.then} | {m.seconds:g} s | {m.step_s:g} s | {m.load:g} |" for m in measured]
    return "\n".join([*lines, "", ", ".join(f"{key} {value}" for key, value in machine().items())])


if __name__ == "__main__":
    main()
