"""`deepscaler data lint-benchmarks`: reads the five benchmarks with the grader's eyes and writes what is odd."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from deepscaler.config.evaluation import COMPETITION
from deepscaler.data.benchmarks.lint import lint_benchmark
from deepscaler.data.benchmarks.load import BENCHMARKS, load_benchmark, read_rows
from deepscaler.data.benchmarks.page import LintedBenchmark, lint_page
from deepscaler.observability.counts import counted
from deepscaler.observability.files import write_atomically
from deepscaler.rewards.profiles.deepscaler import grade


def lint_benchmarks(directory: Path, *, out: Path) -> None:
    """Write benchmarks-lint.md and benchmarks-lint.json into `out`; a changed file is linted and named as such."""
    out.mkdir(parents=True, exist_ok=True)
    linted = []
    for name in COMPETITION:
        spec = BENCHMARKS[name]
        loaded = load_benchmark(name, directory, allow_changed=True)
        rows, _ = read_rows(directory / spec.file)
        findings = lint_benchmark(spec, rows, loaded.problems, grade)
        linted.append(LintedBenchmark(loaded, tuple(findings)))
        changed = "" if loaded.registered else "  (not the registered file)"
        found = counted(len(findings), "finding")
        print(f"{name:14} {counted(len(loaded.problems), 'problem'):>13}  {found:>12}{changed}")
    page, table = out / "benchmarks-lint.md", out / "benchmarks-lint.json"
    write_atomically(page, lambda path: path.write_text(lint_page(linted), encoding="utf-8"))
    rows_out = [asdict(finding) for benchmark in linted for finding in benchmark.findings]
    write_atomically(table, lambda path: path.write_text(json.dumps(rows_out, indent=1) + "\n", encoding="utf-8"))
    print(f"written to {page} and {table}")
