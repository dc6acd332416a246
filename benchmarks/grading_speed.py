"""Verdicts per processor second of the grader itself, in one process, nothing remembered. Into docs/grading.md.

    python benchmarks/grading_speed.py [--shared ../shared] [--rounds 3]

Each round is a fresh process that sees every case once: the benchmarks' reference answers as they stand, the same ones
rewritten (so that no comparison ends with "same text"), and the labelled cases without the hostile ones. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from grading import HOSTILE
from markers import replace_between_markers

from deepscaler.config.evaluation import COMPETITION
from deepscaler.data.benchmarks.load import load_benchmark
from deepscaler.rewards.profiles.deepscaler import GRADER_VERSION, grade
from deepscaler.types import GradeItem

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 300
GOALS = {"benchmark references": "10,000", "the same, rewritten": "–", "labelled cases, not hostile": "2,000"}
Case = tuple[str, list[str]]  # completion, references


def cases(shared: Path) -> dict[str, list[Case]]:
    loaded = [load_benchmark(name, shared / "data" / "benchmarks") for name in COMPETITION]
    references = [reference for benchmark in loaded for p in benchmark.problems for reference in p.references]
    rows = [json.loads(line) for line in (shared / "grading" / "dev.jsonl").read_text().splitlines()]
    golds = [row["gold"] if isinstance(row["gold"], list) else [row["gold"]] for row in rows]
    return {
        "benchmark references": [(f"\\boxed{{{text}}}", [text]) for text in references],
        "the same, rewritten": [(f"\\boxed{{\\displaystyle {text}}}", [text]) for text in references],
        "labelled cases, not hostile": [
            (row["response"], [str(g) for g in gold])
            for row, gold in zip(rows, golds, strict=True)
            if row["source"] != HOSTILE and "[resource]" not in row["note"]
        ],
    }


def measure(shared: Path) -> dict[str, float]:
    """Verdicts per processor second of each kind, in this process."""
    rates = {}
    for kind, items in cases(shared).items():
        start = time.process_time()
        for completion, references in items:
            grade(GradeItem(completion, references, thinking_prefilled=False))
        rates[kind] = len(items) / (time.process_time() - start)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help="one round in this process; prints its rates")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.shared)))
        return
    command = [sys.executable, __file__, "--measure", "--shared", str(options.shared)]
    rounds = [json.loads(subprocess.check_output(command, timeout=LIMIT_S)) for _ in range(options.rounds)]
    counts = {kind: len(items) for kind, items in cases(options.shared).items()}
    lines = ["| | cases | verdicts per processor second | goal |", "|---|---|---|---|"]
    for kind, goal in GOALS.items():
        rates = [one[kind] for one in rounds]
        spread = f"{statistics.median(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f})"
        lines.append(f"| {kind} | {counts[kind]:,} | {spread} | {goal} |")
    lines.append(
        f"\nGrader version {GRADER_VERSION}; median and range of {options.rounds} fresh processes, one core each."
    )
    replace_between_markers(ROOT / "docs" / "grading.md", "grading_speed.py", "\n".join(lines))
    print(json.dumps(rounds))


if __name__ == "__main__":
    main()
