"""Our grader, math-verify and TRL's accuracy reward on labelled cases, side by side, into docs/grading.md.

    python benchmarks/grading.py [--cases ../shared/grading/dev.jsonl] [--again]

Each grader runs in a process of its own; a case that takes longer than LIMIT_S is killed and counted as over time.
Times are processor seconds of the grading process, so a busy machine does not change them; one that is killed counts
what it had used. Results of the others are kept in runs/grading until their version or the cases change, so a run that
was interrupted goes on where it was. Prints JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graders import GRADERS, golds_of, version
from markers import replace_between_markers

from deepscaler.observability.environment import cpu_name

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 15.0
SLOW_S = 0.5
START_S = 180.0
HOSTILE = "adversarial"  # the source of the cases made to hang, crash or deceive
OURS = "ours"
Case = dict[str, Any]


class Judge:
    """One grader in its own process, started again after a kill."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    def judge(self, case: Case) -> Case:
        if self._process is None:
            command = [sys.executable, str(Path(__file__).with_name("graders.py")), self._name]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            if self._answer(START_S) is None:
                raise RuntimeError(f"{self._name} did not start")
        assert self._process.stdin is not None
        before = self._cpu_s()
        self._process.stdin.write((json.dumps(case) + "\n").encode())
        answer = self._answer(LIMIT_S)
        if answer is not None:
            return answer
        died = self._process.poll() is not None
        used = LIMIT_S if died else self._cpu_s() - before
        self.close()
        return {
            "id": case["id"],
            "error" if died else "killed": "ended" if died else f"over {LIMIT_S:g} s",
            "cpu_s": used,
        }

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _answer(self, seconds: float) -> Case | None:
        """The next line, or None when the time is over or the process ended."""
        assert self._process is not None and self._process.stdout is not None
        received, deadline = b"", time.monotonic() + seconds
        while not received.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            piece = os.read(self._process.stdout.fileno(), 2**16)
            if not piece:
                self._process.wait(10)
                return None
            received += piece
        return json.loads(received)

    def _cpu_s(self) -> float:
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def results_of(name: str, cases: list[Case], again: bool) -> list[Case]:
    """One result per case, in order, from the file of earlier ones as far as it goes."""
    content = json.dumps([version(name), [[c["response"], golds_of(c)] for c in cases]])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    path = ROOT / "runs" / "grading" / f"{name.split()[0]}-{digest}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if again or not path.exists():
        path.write_text("")
    lines = path.read_text().split("\n")
    done = {r["id"]: r for r in map(json.loads, lines[:-1])}  # what stands after the last line feed is half a line
    path.write_text("".join(json.dumps(r) + "\n" for r in done.values()))
    judge = Judge(name)
    try:
        with path.open("a", buffering=1) as file:
            for case in cases:
                if case["id"] not in done:
                    done[case["id"]] = judge.judge(case)
                    file.write(json.dumps(done[case["id"]]) + "\n")
    finally:
        judge.close()
    return [done[case["id"]] for case in cases]


def wilson(count: int, total: int) -> tuple[float, float]:
    """95% interval of a rate (Wilson 1927)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    rate, center = count / total, count / total + z * z / (2 * total)
    half = z * (rate * (1 - rate) / total + z * z / (4 * total * total)) ** 0.5
    return (center - half) / (1 + z * z / total), (center + half) / (1 + z * z / total)


def figures(cases: list[Case], results: list[Case]) -> dict[str, Any]:
    """What the table shows. An answer that raised, was killed or skipped is a verdict of incorrect."""
    said = [bool(r.get("correct")) for r in results]
    wanted = [c["expected"] for c in cases]
    seconds = [r["cpu_s"] for r in results]
    ordinary = [r["cpu_s"] for c, r in zip(cases, results, strict=True) if c["source"] != HOSTILE]
    negatives, positives = wanted.count(False), wanted.count(True)
    return {
        "right": (sum(s == w for s, w in zip(said, wanted, strict=True)), len(cases)),
        "false_positives": (sum(s and not w for s, w in zip(said, wanted, strict=True)), negatives),
        "false_negatives": (sum(w and not s for s, w in zip(said, wanted, strict=True)), positives),
        "crashes": sum("error" in r for r in results),
        "over_time": sum(s > SLOW_S or "killed" in r for s, r in zip(seconds, results, strict=True)),
        "median_ms": 1000 * statistics.median(seconds),
        "p99_ms": 1000 * sorted(seconds)[int(0.99 * len(seconds))],
        "longest_ms": 1000 * max(seconds),
        "per_s": len(seconds) / sum(seconds),
        "per_s_ordinary": len(ordinary) / sum(ordinary),
    }


def table(measured: dict[str, dict[str, Any]]) -> Iterator[str]:
    def share(figure: tuple[int, int]) -> str:
        low, high = wilson(*figure)
        return f"{figure[0]} = {100 * figure[0] / figure[1]:.2f}% [{100 * low:.2f}, {100 * high:.2f}]"

    yield "| | " + " | ".join(f"{name} {version(name)}" for name in measured) + " |"
    yield "|---|" + "---|" * len(measured)
    rows = {
        "right": lambda f: share(f["right"]),
        "false positives, of what is incorrect": lambda f: share(f["false_positives"]),
        "false negatives, of what is correct": lambda f: share(f["false_negatives"]),
        "crashes": lambda f: str(f["crashes"]),
        f"over {SLOW_S:g} s": lambda f: str(f["over_time"]),
        "median, ms": lambda f: f"{f['median_ms']:.2f}",
        "99th percentile, ms": lambda f: f"{f['p99_ms']:,.1f}",
        "longest, ms": lambda f: f"{f['longest_ms']:,.0f}",
        "verdicts/s": lambda f: f"{f['per_s']:,.0f}",
        "verdicts/s without the hostile cases": lambda f: f"{f['per_s_ordinary']:,.0f}",
    }
    for label, cell in rows.items():
        yield f"| {label} | " + " | ".join(cell(f) for f in measured.values()) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, default=ROOT / ".." / "shared" / "grading" / "dev.jsonl")
    parser.add_argument("--again", action="store_true", help="measure anew what earlier runs have measured")
    arguments = parser.parse_args()
    cases = [json.loads(line) for line in arguments.cases.read_text().splitlines()]
    measured = {name: figures(cases, results_of(name, cases, arguments.again or name == OURS)) for name in GRADERS}
    hostile = sum(c["source"] == HOSTILE for c in cases)
    note = (
        f"{len(cases):,} labelled cases, {hostile} of them hostile; 95% Wilson intervals in brackets. Times are "
        f"processor seconds of one core ({cpu_name()}, {time.strftime('%Y-%m-%d')}); {LIMIT_S:g} s was the limit."
    )
    replace_between_markers(ROOT / "docs" / "grading.md", "grading.py", "\n".join([*table(measured), "", note]))
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
