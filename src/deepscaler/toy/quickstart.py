"""The small replica in one go: base, evaluation, training, evaluation, comparison, report, summary."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepscaler.config import Recipe
from deepscaler.evaluation.compare import compare_directories
from deepscaler.evaluation.comparison_files import write_comparison
from deepscaler.evaluation.paired import Difference
from deepscaler.evaluation.results import Results
from deepscaler.loop.build import open_run
from deepscaler.loop.evaluate import evaluate_directory
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.observability.files import write_atomically
from deepscaler.observability.run_directory import read_metrics
from deepscaler.toy.base_model import ensure_base
from deepscaler.training.checkpoint import newest_checkpoint

SUMMARY_FIELDS = (
    "pass@1",
    "pass@k",
    "se_problems",
    "se_resampling",
    "low",
    "high",
    "num_problems",
    "num_samples",
    "truncated_frac",
    "no_answer_frac",
    "length_mean",
)
END_WINDOW = 5  # steps averaged for the figures at the end of a stage


def quickstart(recipe: Recipe, root: Path, progress: Progress) -> dict[str, Any]:
    """Run the whole replica below `root/seed-N`; returns the summary, also written to `root/summary.json`."""
    start = time.monotonic()
    directory = _directory_for(root, recipe.seed)
    resumed = (directory / "metrics.jsonl").exists()
    base, base_record, reused = ensure_base(recipe, progress)
    progress.message("evaluating the base model on the held-out sets")
    before = evaluate_directory(base, recipe, directory / "evaluations" / "base", progress)
    with open_run(recipe, base, directory, progress) as run:
        train(run)
        if run.stop.requested:
            raise KeyboardInterrupt
    newest = newest_checkpoint(directory / "checkpoints")
    assert newest is not None
    progress.message("evaluating the trained model on the held-out sets")
    after = evaluate_directory(newest[0], recipe, directory / "evaluations" / "trained", progress)
    comparison = compare_directories(directory / "evaluations" / "base", directory / "evaluations" / "trained")
    write_comparison(directory / "evaluations" / "comparison.json", comparison)
    wall = time.monotonic() - start + (base_record["seconds"] if reused else 0.0)
    summary = {
        "seed": recipe.seed,
        "wall_s": wall,
        "resumed": resumed,
        "sft_s": base_record["seconds"],
        "base": _side(before),
        "trained": _side(after),
        "difference": _difference(comparison.total),
        "set_differences": {name: _difference(c.difference) for name, c in comparison.benchmarks.items()},
        **speeds(directory),
        "stages": stage_summaries(directory),
        "model": str(newest[0]),
        "report": str(directory / "report.html"),
    }
    for path in (directory / "summary.json", root / "summary.json"):
        text = json.dumps(summary, indent=1) + "\n"
        write_atomically(path, lambda temporary, text=text: temporary.write_text(text))
    return summary


def _directory_for(root: Path, seed: int) -> Path:
    """`root/seed-N`, continued when unfinished; a finished run of that seed is moved aside, never overwritten."""
    directory = root / f"seed-{seed}"
    if (directory / "summary.json").exists():
        number = 1
        while (root / f"seed-{seed}.{number}").exists():
            number += 1
        directory.rename(root / f"seed-{seed}.{number}")
    return directory


def _side(results: Results) -> dict[str, Any]:
    average = results.average
    sets = {
        name: {field: record[field] for field in SUMMARY_FIELDS}
        for name, record in results.content["benchmarks"].items()
    }
    return {"pass@1": average.mean, "low": average.low, "high": average.high, "sets": sets}


def _difference(difference: Difference) -> dict[str, float]:
    values = asdict(difference)
    return {name: values[name] for name in ("mean", "low", "high", "p_value")}


def _steps(directory: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(directory / "metrics.jsonl") if row["kind"] == "step"]


def speeds(directory: Path) -> dict[str, float]:
    """Tokens per second of sampling (completion tokens) and of training (prompt and completion tokens)."""
    steps = _steps(directory)
    sampled = sum(s["num_sampled_tokens"] for s in steps)
    trained = sum(s["num_trained_tokens"] for s in steps)
    return {
        "sampling_tokens_per_s": sampled / sum(s["sample_s"] for s in steps),
        "training_tokens_per_s": trained / sum(s["update_s"] for s in steps),
    }


def stage_summaries(directory: Path) -> list[dict[str, Any]]:
    """Per stage: figures of its first step and means over its last END_WINDOW, and Pass@1 on the validation sets."""
    rows = read_metrics(directory / "metrics.jsonl")
    evaluations = {row["step"]: row for row in rows if row["kind"] == "evaluation"}
    stages: dict[str, list[dict[str, Any]]] = {}
    for step in _steps(directory):
        stages.setdefault(step["stage"], []).append(step)
    summaries = []
    for name, steps in stages.items():
        first, last = steps[0], steps[-END_WINDOW:]
        evaluation = evaluations.get(steps[-1]["step"], {})
        summaries.append(
            {
                "name": name,
                "budget": first["max_completion_tokens"],
                "steps": len(steps),
                "truncated_frac_start": first["truncated_frac"],
                "truncated_frac_end": _mean([s["truncated_frac"] for s in last]),
                "truncated_frac_lowest": _lowest([s["truncated_frac"] for s in steps]),
                "length_mean_start": first["length_mean"],
                "length_mean_end": _mean([s["length_mean"] for s in last]),
                "length_correct_mean_start": first.get("length_correct_mean"),
                "length_wrong_mean_start": first.get("length_wrong_mean"),
                "reward_mean_start": first.get("reward_mean"),
                "reward_mean_end": _mean([s.get("reward_mean", 0.0) for s in last]),
                "pass@1_end": evaluation.get("pass@1"),
            }
        )
    return summaries


def _lowest(values: list[float]) -> float:
    """The smallest mean of END_WINDOW values in a row, of all of them where there are fewer."""
    window = min(END_WINDOW, len(values))
    return min(_mean(values[i : i + window]) for i in range(len(values) - window + 1))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
