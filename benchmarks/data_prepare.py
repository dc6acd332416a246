"""What preparing 10K to 80K problems against all benchmarks costs: CPU seconds and peak memory, each size on its own.

    python benchmarks/data_prepare.py --train DIR --benchmarks DIR

Writes benchmarks/data_prepare.json and the two tables of docs/data.md: what became of the rows of DIR/*.json as they
are, and the cost by size. For the latter the rows are those problems, then noisy copies of them, seeded: half are
paraphrases (other phrasing and typesetting, same numbers and answer), half have other numbers and another answer. Every
size runs in a process of its own, with the same command a user calls.
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

import pyarrow.parquet as pq
from markers import replace_between_markers

DOCS = Path("docs/data.md")
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


def prepare(sources: list[Path], benchmarks: Path, out: Path) -> None:
    """The command itself, in this process."""
    from deepscaler.cli.main import app

    inputs = [argument for source in sources for argument in ("--input", str(source))]
    app(["data", "prepare", *inputs, "--benchmarks", str(benchmarks), "--out", str(out)], standalone_mode=False)


def real_files(files: list[Path], benchmarks: Path) -> dict[str, Any]:
    """What became of the given files: the manifest's counts, benchmark problems found, duplicates across files."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        prepare(files, benchmarks, out)
        manifest = json.loads((out / "manifest.json").read_text())
        found = json.loads((out / "contamination.json").read_text())["benchmarks"]
        dropped = pq.read_table(out / "dropped.parquet", columns=["source", "reason", "detail"]).to_pylist()
    repeats = [row for row in dropped if row["reason"].startswith("duplicate")]
    across = sum(Path(row["source"]).name not in row["detail"].split(" row ")[0] for row in repeats)
    return {
        "files": [{"name": Path(i["name"]).name, "rows": i["rows"], "sha256": i["sha256"]} for i in manifest["inputs"]],
        "steps": manifest["steps"],
        "conflicts": len(manifest["conflicts"]),
        "duplicates": len(repeats),
        "duplicates_across_files": across,
        "benchmarks": {
            name: {
                "problems": entry["num_problems"],
                "found": entry["problems"],
                "verbatim": len({m["id"] for m in entry["matches"] if m["match"] == "verbatim"}),
                "similar": len({m["id"] for m in entry["similar"]}),
            }
            for name, entry in found.items()
        },
    }


def real_table(real: dict[str, Any]) -> str:
    """Markdown: rows in and out of every step, then what was found of each benchmark."""
    lines = ["| step | rows in | rows out | dropped |", "|---|---:|---:|---|"]
    for step in real["steps"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in step["dropped"].items())
        lines.append(f"| {step['step']} | {step['in']:,} | {step['out']:,} | {reasons} |")
    lines.append(
        f"\n{real['duplicates']} duplicates, {real['duplicates_across_files']} of them of a row of another file; "
        f"{real['conflicts']} clusters with conflicting answers.\n"
    )
    lines += ["| benchmark | problems | found in training rows | of them verbatim | alike, kept | which |"]
    lines += ["|---|---:|---:|---:|---:|---|"]
    for name, entry in real["benchmarks"].items():
        which = ", ".join(identity.split("/")[1] for identity in entry["found"])
        counts = (entry["problems"], len(entry["found"]), entry["verbatim"], entry["similar"])
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {which} |")
    return "\n".join(lines)


def size_table(sizes: list[dict[str, Any]]) -> str:
    """Markdown: cost by number of rows."""
    lines = ["| rows | CPU s | CPU ms per row | peak MiB | rows kept |", "|---:|---:|---:|---:|---:|"]
    for size in sizes:
        per_row = 1000 * size["cpu_s"] / size["rows"]
        lines.append(f"| {size['rows']:,} | {size['cpu_s']} | {per_row:.2f} | {size['peak_mib']} | {size['kept']:,} |")
    return "\n".join(lines)


def child(source: Path, benchmarks: Path, out: Path) -> None:
    """Prepare in this process and print what it used."""
    prepare([source], benchmarks, out)
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
    files = sorted(options.train.glob("*.json"))
    rows = [row for file in files for row in json.loads(file.read_text()) if row["answer"]]
    real = real_files(files, options.benchmarks)
    results = []
    for size in SIZES:
        results.append(measure(size, rows, options.benchmarks))
        print(json.dumps(results[-1]), flush=True)
    options.out.write_text(json.dumps({"real": real, "base_problems": len(rows), "sizes": results}, indent=1) + "\n")
    replace_between_markers(DOCS, "data_prepare.py (rows)", real_table(real))
    replace_between_markers(DOCS, "data_prepare.py (cost)", size_table(results))


if __name__ == "__main__":
    main()
