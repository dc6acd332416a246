"""Records of a step and of an evaluation: metrics, observation of the curriculum, notes on the base model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepscaler.curriculum.controller import StepObservation
from deepscaler.loop.experience import Collected, Step
from deepscaler.observability.memory import resident_bytes
from deepscaler.observability.part_metrics import part_metrics
from deepscaler.observability.rollout_metrics import RolloutStats
from deepscaler.observability.step_stats import StepStats
from deepscaler.types import UpdateStats

FEW_RIGHT = 0.01  # below this share few groups have a right answer, and the others have no signal


def step_metrics(
    step: Step, collected: Collected, stats: RolloutStats, figures: StepStats, update: UpdateStats
) -> dict[str, Any]:
    """The line of a step in metrics.jsonl (docs/metrics.md)."""
    return {
        "stage": step.stage.name,
        "max_completion_tokens": step.stage.max_completion_tokens,
        **stats.metrics(),
        **part_metrics(collected.sampled),
        "correct_by_chance_frac": figures.chance_correct / figures.num_completions,
        **update.metrics,
        **step.clock.metrics(),
        "policy_lag": figures.policy_lag,
        "driver_memory_mib": resident_bytes() / 2**20,
        "num_refills": collected.num_refills,
        "num_trained_groups": len(collected.trained),
    }


def observation(step: int, stats: RolloutStats) -> StepObservation:
    """Input of the curriculum."""
    return StepObservation(
        step=step,
        truncated_frac=stats.truncated_frac,
        reward_mean=stats.solved_frac,
        length_correct_mean=stats.length_correct_mean,
        length_wrong_mean=stats.length_wrong_mean,
    )


def notes_on_base(results: Mapping[str, Any]) -> list[str]:
    """Notes on the base from the evaluation before the first step, with likely causes if almost nothing is right."""
    records = results["benchmarks"].values()
    total = sum(r["num_completions"] for r in records)
    right = sum(r["outcomes"]["correct"] for r in records)
    truncated = sum(r["truncated_frac"] * r["num_completions"] for r in records) / total
    unanswered = sum(r["no_answer_frac"] * r["num_completions"] for r in records) / total
    said = [f"base model: {right:,} of {total:,} right, {truncated:.0%} truncated, {unanswered:.0%} without an answer"]
    if right >= FEW_RIGHT * total:
        return said
    if truncated > 0.5:
        said.append(
            "most completions reach the budget: raise stages.0.max_completion_tokens and "
            "evaluation.max_completion_tokens, or check whether the model stops at all (its eos token, "
            "the chat template)"
        )
    if unanswered > 0.5:
        said.append(
            "most completions end without an answer where grader.answer looks for it (\\boxed{} by default): check the "
            "chat template and data.instruction, name other places, or start from a model that follows instructions"
        )
    if truncated <= 0.5 and unanswered <= 0.5:
        said.append(
            "completions have answers, but wrong ones: check a few references with `deepscaler grade "
            "--explain`, begin with easier problems (stages.0.max_difficulty), or use a stronger base"
        )
    return [*said, "where no completion of a group is right, training learns nothing from it"]


def evaluation_line(results: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The line of an evaluation in metrics.jsonl (docs/run-directory.md)."""
    benchmarks, average = results["benchmarks"], results["average"]
    counts = [b["num_completions"] for b in benchmarks.values()]
    lengths = [b["length_mean"] * count for b, count in zip(benchmarks.values(), counts, strict=True)]
    return {
        "stage": stage,
        "pass@1": average["pass@1"],
        "low": average["low"],
        "high": average["high"],
        "num_problems": sum(b["num_problems"] for b in benchmarks.values()),
        "num_samples": max(b["num_samples"] for b in benchmarks.values()),
        "sets": {name: {key: b[key] for key in ("pass@1", "low", "high")} for name, b in benchmarks.items()},
        "truncated_frac": sum(b["truncated_frac"] for b in benchmarks.values()) / len(benchmarks),
        "length_mean": sum(lengths) / sum(counts),
        "test_sets": results["inside_training"]["test_sets"],
    }
