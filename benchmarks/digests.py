"""Digests of what the program computes, to prove that a change of the code changed none of its results.

    python benchmarks/digests.py --checkout OLD --json old.json
    python benchmarks/digests.py --checkout . --json new.json --against old.json

Through the command line only, so that both checkouts may be built differently inside: a supervised base, runs of 6
steps with one and with two processes (weights, metrics, rollouts and samples of their evaluations), drawn
samples of `eval`, verdicts of the labelled grading sets where ../shared is there, and the golden tests. Compare on one
machine: the last bits depend on the processor. Ends with status 1 where a digest differs. About four minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

LIMIT_S = 600
SMALL = ("sft.steps=300", "rollout.prompts_per_step=8", "evaluation.num_samples=2", "checkpoint.every_steps=3")
# What depends on the clock, on the machine's load or on a cache, and where a file lies.
UNSTEADY = ("_s", "_per_s", "time", "_cached_frac", "_bytes", "_mib")
ADDED = ("effective_sample_size", "policy_lag", "solved_frac")  # metrics that earlier checkouts do not write
COLUMNS = ("step", "problem_id", "sample_index", "completion", "num_tokens", "finish_reason", "outcome", "reward")


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def command(checkout: Path, *arguments: object) -> None:
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "HF_HUB_OFFLINE": "1"}
    call = [sys.executable, "-m", "deepscaler.cli.main", *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=LIMIT_S, env=environment, cwd=checkout)
    if done.returncode:
        raise SystemExit(f"{' '.join(call)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def weights(directory: Path) -> str:
    return digest(*(file.read_bytes() for file in sorted(directory.rglob("*.safetensors"))))


def steady(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.endswith(UNSTEADY) and key not in ADDED}


def metrics(run: Path) -> str:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return digest(*(json.dumps(steady(line), sort_keys=True).encode() for line in lines if line["kind"] != "event"))


def table(files: list[Path]) -> str:
    """Of the columns that old and new checkouts share, rows in their order."""
    parts = []
    for file in sorted(files):
        rows = pq.read_table(file)
        parts += [json.dumps(rows[name].to_pylist()).encode() for name in COLUMNS if name in rows.column_names]
    return digest(*parts)


def training(checkout: Path, folder: Path) -> Iterator[tuple[str, str]]:
    recipe = checkout / "recipes" / "quickstart.toml"
    settings = [part for setting in SMALL for part in ("--set", setting)]
    for processes in (1, 2):
        base, run = folder / f"base-{processes}", folder / f"run-{processes}"
        chosen = [*settings, "--set", f"training.processes={processes}"]
        command(checkout, "sft", recipe, "--out", base, *chosen)
        yield f"base, {processes} processes", weights(base)
        command(checkout, "train", recipe, "--run-dir", run, *chosen, "--set", "num_steps=6")
        yield f"weights after 6 steps, {processes} processes", weights(run / "checkpoints" / "step-000006")
        yield f"metrics of 6 steps, {processes} processes", metrics(run)
        yield f"rollouts of 6 steps, {processes} processes", table(list((run / "rollouts").glob("*.parquet")))
        samples = list((run / "evaluations").rglob("samples.parquet"))
        yield f"samples of evaluations, {processes} processes", table(samples)


def sampling(checkout: Path, folder: Path) -> Iterator[tuple[str, str]]:
    recipe, model = checkout / "recipes" / "quickstart.toml", folder / "base-1"
    for temperature in (0.3, 1.0):
        out = folder / f"eval-{temperature}"
        chosen = ("--set", "evaluation.num_samples=2", "--set", f"evaluation.temperature={temperature}")
        command(checkout, "eval", model, "--recipe", recipe, "--out", out, *chosen)
        yield f"samples at temperature {temperature}", table(list(out.rglob("samples.parquet")))


def verdicts(checkout: Path, folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted((checkout.resolve().parent / "shared" / "grading").glob("*.jsonl")):
        out = folder / f"{file.stem}-verdicts.jsonl"
        command(checkout, "grade", file, "--response-column", "response", "--reference-column", "gold", "--out", out)
        found = [json.loads(line)["verdict"] for line in out.read_text().splitlines()]
        yield f"verdicts on {file.name}", digest(json.dumps(found).encode())


def golden_tests(checkout: Path, folder: Path) -> Iterator[tuple[str, str]]:
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "HF_HUB_OFFLINE": "1"}
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/golden"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=LIMIT_S, env=environment, cwd=checkout)
    yield "golden tests", f"exit code {done.returncode}"


PARTS = {part.__name__: part for part in (training, sampling, verdicts, golden_tests)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, default=Path())
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--against", type=Path, help="digests of another checkout, made on this machine")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="sampling needs training")
    arguments = parser.parse_args()
    checkout, found = arguments.checkout.resolve(), {}
    with tempfile.TemporaryDirectory() as folder:
        for part in arguments.parts:
            for name, value in PARTS[part](checkout, Path(folder)):
                found[name] = value
                print(f"{value}  {name}", flush=True)
                arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.against:
        expected = json.loads(arguments.against.read_text())
        if len(arguments.parts) < len(PARTS):
            expected = {name: value for name, value in expected.items() if name in found}
        different = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        print(f"{len(different)} of {len(expected)} digests differ{': ' * bool(different)}{', '.join(different)}")
        raise SystemExit(bool(different))


if __name__ == "__main__":
    main()
