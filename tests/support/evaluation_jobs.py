"""Made-up problems of known difficulty, and evaluations of them: what tests of the evaluator share."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from deepscaler.config.evaluation import load_evaluation
from deepscaler.evaluation.datasets import Datasets, describe
from deepscaler.evaluation.samples import read_results, read_samples
from deepscaler.loop.evaluate import (
    Job,
)
from deepscaler.loop.progress import Progress
from deepscaler.types import Problem
from scripted_server import right_with_probability

QUICK = ("client.backoff_s=0.01", "client.backoff_max_s=0.05", "client.total_s=20", "client.concurrency=32")


RATES = {"easy": 0.8, "hard": 0.2}


def problems(rate: float, count: int = 40) -> list[Problem]:
    return [Problem(f"{rate}/{i}", f"What is {i} at {rate}?", (str(i),), difficulty=float(i % 3)) for i in range(count)]


SETS = {name: problems(rate) for name, rate in RATES.items()}


ANSWERS = {p.prompt: p.references[0] for ps in SETS.values() for p in ps}


REPLY = right_with_probability(ANSWERS, lambda q: 0.8 if "at 0.8" in q else 0.2)


def job(out: Path, *overrides: str, datasets: Datasets | None = None, log: StringIO | None = None) -> Job:
    recipe = load_evaluation(None, [*QUICK, *overrides])
    return Job(recipe, datasets or describe(SETS), out, Progress(log or StringIO(), terminal=False))


def table(out: Path) -> list[dict[str, Any]]:
    """All of samples.parquet but how long each request took."""
    rows = read_samples(out).to_pylist()
    return [{k: v for k, v in row.items() if k != "latency_s"} for row in rows]


def figures(out: Path) -> Any:
    results = read_results(out)
    return {k: results[k] for k in ("benchmarks", "average", "settings")}
