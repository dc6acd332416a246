"""What preparing 10K to 80K problems against all benchmarks costs: CPU seconds and peak memory, each size on its own.

    python benchmarks/data_prepare.py --train DIR --benchmarks DIR [--out FILE]

The rows are the problems of DIR/*.json, then noisy copies of them, seeded: half are paraphrases (other phrasing and
typesetting, same numbers and answer), half have other numbers and another answer. Every size runs in a process of its
own on one core, with the same command a user calls.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = (10_000, 20_000, 40_000, 80_000)
LIMIT_S = 1800
_PHRASES = (
    ("What is", "Determine"),
    ("Find", "Compute"),
    ("Compute", "Evaluate"),
    ("positive integers", "natural numbers"),
    ("Let", "Suppose that"),
    (" such that ", " so that "),
    ("\\frac", "\\dfrac"),
    ("$.", "$ ."),
    (" and ", ", and "),
    ("How many", "Find how many"),
)


def noisy_rows(rows: list[dict[str, Any]], size: int, seed: int) -> list[dict[str, Any]]:
    """`size` rows: the given ones, then noisy copies of them in a random order."""
    rng = random.Random(seed)
    made = [{"problem": row["problem"], "answer": row["answer"]} for row in rows[:size]]
    while len(made) < size:
        row = rng.choice(rows)
        made.append(_paraphrase(row, rng) if rng.random() < 0.5 else _other_numbers(row, rng))
    return made


def _paraphrase(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    text = row["problem"]
    for old, new in rng.sample(_PHRASES, 4):
        text = text.replace(old, new)
    words = text.split(" ")
    for _ in range(max(1, len(words) // 40)):
        words.insert(rng.randrange(len(words) + 1), rng.choice(("then", "clearly", "also", "")))
    return {"problem": " ".join(words), "answer": row["answer"]}


def _other_numbers(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    def other(found: re.Match[str]) -> str:
        return str(int(found[0]) + rng.randint(1, 50)) if len(found[0]) < 7 else found[0]

    return {"problem": re.sub(r"\d+", other, row["problem"]), "answer": str(rng.randint(2, 999))}


def measure(size: int, rows: list[dict[str, Any]], benchmarks: Path) -> dict[str, Any]:
    """One preparation: rows, CPU seconds (user and system), wall seconds, peak resident MiB, rows kept."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "rows.jsonl", Path(folder) / "out"
        source.write_text("\n".join(json.dumps(row) for row in noisy_rows(rows, size, seed=size)) + "\n")
        command = [sys.executable, __file__, "--child", str(source), "--benchmarks", str(benchmarks), "--out", str(out)]
        started = time.monotonic()
        child = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S)
        wall_s = time.monotonic() - started
        used = json.loads(child.stdout.splitlines()[-1])
        manifest = json.loads((out / "manifest.json").read_text())
    steps = {step["step"]: step["out"] for step in manifest["steps"]}
    return {"rows": size, "wall_s": round(wall_s, 1), **used, "kept": manifest["rows"]["train"], "steps": steps}


def child(source: Path, benchmarks: Path, out: Path) -> None:
    """Run the command in this process and print what it used."""
    from deepscaler.cli.main import app

    arguments = ["data", "prepare", "--input", str(source), "--benchmarks", str(benchmarks), "--out", str(out)]
    app(arguments, standalone_mode=False)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cpu_s": round(usage.ru_utime + usage.ru_stime, 1), "peak_mib": usage.ru_maxrss // 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, help="directory of JSON files with problem and answer")
    parser.add_argument("--benchmarks", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data_prepare.json"))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.benchmarks, options.out)
        return
    if options.train is None:
        parser.error("--train is needed")
    rows = [
        row for file in sorted(options.train.glob("*.json")) for row in json.loads(file.read_text()) if row["answer"]
    ]
    results = []
    for size in SIZES:
        results.append(measure(size, rows, options.benchmarks))
        print(json.dumps(results[-1]), flush=True)
    options.out.write_text(json.dumps({"base_problems": len(rows), "sizes": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
