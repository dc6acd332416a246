"""Startup and the cost of a step outside sampling, grading and learning.

    python benchmarks/startup.py [--rounds 3] [--write]

`import deepscaler`, and `deepscaler train` to its first sampled token, on a Qwen2 model of half a million parameters:
CPU seconds of the whole process, children apart, each in a process of its own. The overhead is what `metrics.jsonl`
of a short run leaves of `step_s` after sampling, grading and the update. Prints JSON; --write puts the table into
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from records import ROOT, machine, middle, with_range, write_table

RECIPE = """
extends = "{quickstart}"
name = "startup"
num_steps = 4
[sft]
output = "{directory}"
steps = 2
warmup_steps = 1
[[stages]]
name = "224"
max_completion_tokens = 224
[training]
processes = 1
[evaluation]
during_training_problems = 1
during_training_samples = 1
[alarms]
stop = false
"""
# The engine is replaced once the command has imported it, so that the imports are the command's own.
FIRST_TOKEN = """
import os, sys, time
from deepscaler.cli import main, startup
def prepare(inner=startup.prepare):
    from deepscaler.engines.torch.engine import TorchEngine
    def first(self, requests, params, generate=TorchEngine.generate):
        next(iter(generate(self, requests, params)))
        print("first token", time.process_time(), flush=True)
        os._exit(0)
    TorchEngine.generate = first
    return inner()
startup.prepare = prepare
sys.argv = ["deepscaler", *sys.argv[1:]]
main.main()
"""


def run(*command: str) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:6])} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def import_seconds() -> float:
    code = "import time; start = time.process_time(); import deepscaler; print(time.process_time() - start)"
    return float(run(sys.executable, "-c", code))


def train_command(directory: Path) -> list[str]:
    recipe = directory / "startup.toml"
    recipe.write_text(RECIPE.format(quickstart=ROOT / "recipes" / "quickstart.toml", directory=directory))
    return ["train", str(recipe), "--run-dir", str(directory / "run")]


def overhead(directory: Path) -> dict[str, float]:
    """Median share of a step, by what is left after sampling, grading and the update; the first step warms up."""
    run(sys.executable, "-m", "deepscaler.cli.main", *train_command(directory))
    rows = [json.loads(line) for line in (directory / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row.get("kind") == "step"][1:]
    spent = ("sample_s", "grade_s", "update_s")
    return {
        "rest": statistics.median(1 - sum(row[name] for name in spent) / row["step_s"] for row in steps),
        "publish": statistics.median(row["publish_s"] / row["step_s"] for row in steps),
        "step_s": statistics.median(row["step_s"] for row in steps),
    }


def first_token_seconds(directory: Path) -> float:
    """The base model is there already, the run is not."""
    base = directory / "run"
    if base.exists():
        base.rename(directory / f"run-{time.monotonic_ns()}")
    lines = run(sys.executable, "-c", FIRST_TOKEN, *train_command(directory)).splitlines()
    return float(next(line for line in lines if line.startswith("first token")).split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        share = overhead(Path(name))
        first = middle([first_token_seconds(Path(name)) for _ in range(arguments.rounds)])
    imports = middle([import_seconds() for _ in range(arguments.rounds)])
    result: dict[str, Any] = {"import_s": imports, "first_token_s": first, "overhead": share}
    info = machine()
    print(json.dumps({"machine": info, **result}, indent=1))
    if arguments.write:
        rows = [
            ("`import deepscaler`, s", with_range(imports, 3), "0.3"),
            ("`deepscaler train` to the first sampled token, s", with_range(first), "6"),
            ("step outside sampling, grading and learning", f"{100 * share['rest']:.1f}%", "3%"),
            ("of it, publishing with both digests", f"{100 * share['publish']:.1f}%", ""),
        ]
        write_table("startup.py", ("what", "measured", "bar"), rows, "CPU seconds; one process.", info)


if __name__ == "__main__":
    main()
