"""Rows put through preparation, with simple tools in place of the grader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deepscaler.data.benchmarks.load import LoadedBenchmark
from deepscaler.data.prepare.preparation import Preparation, Settings, Tools, prepare
from deepscaler.data.sources.layouts import Columns
from deepscaler.types import Problem

GOOD: list[dict[str, Any]] = [
    {"problem": "How many primes are there between 20 and 30?", "answer": "2", "difficulty": 1.5},
    {"problem": "A farmer has 17 sheep and all but 9 run away. How many sheep are left?", "answer": 9.0},
    {"problem": "Find all real roots of $x^2=4$.", "answer": ["2", "-2"], "solution": "Take roots."},
]


def plain_same(first: str, second: str) -> bool:
    return first.strip("$ ") == second.strip("$ ")


def tools(**changes: Any) -> Tools:
    return Tools(**{"same_answer": plain_same, "readable": lambda text: "?" not in text} | changes)


def run(path: Path, rows: list[Any], *, benchmarks: tuple[LoadedBenchmark, ...] = (), **changes: Any) -> Preparation:
    source = path / "rows.json"
    source.write_text(json.dumps(rows))
    return prepare([source], benchmarks, Settings(Columns(), **changes), tools())


def dropped(done: Preparation) -> dict[int, tuple[str, str]]:
    table = done.dropped_table().to_pylist()
    return {row["row"]: (row["reason"], row["detail"]) for row in table}


def benchmark(*problems: tuple[str, str]) -> LoadedBenchmark:
    made = tuple(Problem(f"tiny/{number}", text, (answer,)) for number, (text, answer) in enumerate(problems))
    return LoadedBenchmark("tiny", made, "0" * 64, ("",) * len(made), True, (), {})
