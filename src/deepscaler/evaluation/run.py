"""Evaluate a sampler on named problem sets: sample, grade, estimate, write files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from deepscaler.evaluation.estimators import Estimate, combine_sets, estimate
from deepscaler.evaluation.results import Results, compute_results, write_results
from deepscaler.evaluation.samples import SAMPLES_FILE, samples_table, write_samples
from deepscaler.protocols import Fleet, Grader
from deepscaler.types import Problem, SamplingParams, ScoredGroup

EVALUATION_STEP = -1  # keeps evaluation's draws apart from those of training steps


@dataclass(frozen=True, slots=True)
class SetResult:
    """One problem set: rewards float64 [num_problems, num_samples] and the graded completions behind them."""

    name: str
    groups: tuple[ScoredGroup, ...]
    rewards: np.ndarray
    estimate: Estimate

    @property
    def lengths(self) -> list[int]:
        return [r.num_tokens for g in self.groups for r in g.group.rollouts]

    @property
    def truncated_frac(self) -> float:
        rollouts = [r for g in self.groups for r in g.group.rollouts]
        return sum(r.truncated for r in rollouts) / len(rollouts)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All sets of one evaluation and their equally weighted average."""

    sets: dict[str, SetResult]
    average: Estimate
    settings: dict[str, Any]
    seconds: float
    num_tokens: int
    seed: int


def evaluate(
    fleet: Fleet,
    grader: Grader,
    sets: Mapping[str, Sequence[Problem]],
    *,
    num_samples: int,
    params: SamplingParams,
    settings: dict[str, Any],
) -> Evaluation:
    """Sample every problem `num_samples` times and grade. Raises ValueError for an empty set."""
    for name, problems in sets.items():
        if not problems:
            raise ValueError(f"evaluation set {name} is empty; give it problems or leave it out")
    start = time.perf_counter()
    everything = [problem for problems in sets.values() for problem in problems]
    # All sets at once, longest problems first: the engine stays full and the tail short.
    order = sorted(range(len(everything)), key=lambda i: -(everything[i].difficulty or 0.0))
    groups = fleet.sample([everything[i] for i in order], num_samples, params)
    scored = dict(zip(order, grader.score(groups), strict=True))
    results: dict[str, SetResult] = {}
    position = 0
    for name, problems in sets.items():
        members = tuple(scored[position + i] for i in range(len(problems)))
        position += len(problems)
        rewards = np.array([g.rewards for g in members], dtype=np.float64)
        results[name] = SetResult(name, members, rewards, estimate(rewards))
    return Evaluation(
        sets=results,
        average=combine_sets([r.estimate for r in results.values()]),
        settings=settings,
        seconds=time.perf_counter() - start,
        num_tokens=sum(sum(r.lengths) for r in results.values()),
        seed=params.seed,
    )


def samples_of(evaluation: Evaluation) -> pa.Table:
    """One row per completion."""
    return samples_table(
        {
            "benchmark": result.name,
            "problem_id": scored.group.problem.id,
            "sample_index": rollout.sample_index,
            "completion": text,
            "token_ids": rollout.completion_ids.tolist(),
            "num_tokens": rollout.num_tokens,
            "finish_reason": rollout.finish_reason.value,
            "outcome": verdict.outcome.value,
            "reward": verdict.reward,
            "answer": verdict.answer,
            "detail": verdict.detail,
            "seed": evaluation.seed,
            "references": list(scored.group.problem.references),
            "source": scored.group.problem.source or None,
            "difficulty": scored.group.problem.difficulty,
            "tolerance": scored.group.problem.tolerance,
        }
        for result in evaluation.sets.values()
        for scored in result.groups
        for rollout, text, verdict in zip(scored.group.rollouts, scored.texts, scored.verdicts, strict=True)
    )


def write_evaluation(evaluation: Evaluation, directory: Path) -> Results:
    """`samples.parquet` first, `results.json` last: where the latter stands, the evaluation is whole."""
    directory.mkdir(parents=True, exist_ok=True)
    table = samples_of(evaluation)
    results = compute_results(table, evaluation.settings, seconds=evaluation.seconds, num_tokens=evaluation.num_tokens)
    write_samples(table, directory / SAMPLES_FILE)
    write_results(results, directory)
    return results
