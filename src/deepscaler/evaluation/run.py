"""Evaluate a sampler on named problem sets: sample, grade, estimate, write files."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepscaler.evaluation.estimators import Estimate, combine_sets, estimate, pass_at_k
from deepscaler.observability.files import write_atomically
from deepscaler.protocols import Fleet, Grader
from deepscaler.types import Outcome, Problem, SamplingParams, ScoredGroup

EVALUATION_STEP = -1  # keeps evaluation's draws apart from those of training steps


@dataclass(frozen=True, slots=True)
class SetResult:
    """One problem set: rewards float64 [num_problems, num_samples] and the graded completions behind them."""

    name: str
    groups: tuple[ScoredGroup, ...]
    rewards: np.ndarray
    estimate: Estimate

    def share(self, outcome: Outcome) -> float:
        verdicts = [v for g in self.groups for v in g.verdicts]
        return sum(v.outcome is outcome for v in verdicts) / len(verdicts)

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
    )


def results_json(evaluation: Evaluation) -> dict[str, Any]:
    """The content of results.json; shares and estimates are fractions of 1, lengths tokens."""
    benchmarks = {}
    for name, result in evaluation.sets.items():
        e = result.estimate
        benchmarks[name] = {
            "pass@1": e.mean,
            "pass@k": {str(k): v for k, v in pass_at_powers_of_two(result.rewards).items()},
            "se_problems": _finite(e.se_problems),
            "se_resampling": e.se_resampling,
            "low": e.low,
            "high": e.high,
            "num_problems": e.num_problems,
            "num_samples": e.num_samples,
            "truncated_frac": result.truncated_frac,
            "no_answer_frac": result.share(Outcome.NO_ANSWER),
            "length_mean": float(np.mean(result.lengths)),
        }
    average = {name: _finite(value) for name, value in asdict(evaluation.average).items()}
    average["pass@1"] = average.pop("mean")
    return {
        "benchmarks": benchmarks,
        "average": average,
        "settings": evaluation.settings,
        "seconds": evaluation.seconds,
        "num_tokens": evaluation.num_tokens,
    }


def table_figures(table: Any) -> dict[str, Any]:
    """The figures of results.json from a samples table without texts."""
    benchmarks: dict[str, Any] = {}
    estimates: list[Estimate] = []
    columns = {name: np.array(table.column(name).to_pylist(), dtype=object) for name in table.column_names}
    for name in dict.fromkeys(columns["benchmark"]):
        mine = columns["benchmark"] == name
        ids = list(dict.fromkeys(columns["problem_id"][mine]))
        rewards = columns["reward"][mine].astype(np.float64).reshape(len(ids), -1)
        e = estimate(rewards)
        estimates.append(e)
        outcomes = columns["outcome"][mine]
        lengths = [n for n in columns["num_tokens"][mine] if n is not None]
        benchmarks[name] = {
            "pass@1": e.mean,
            "pass@k": {str(k): v for k, v in pass_at_powers_of_two(rewards).items()},
            "se_problems": _finite(e.se_problems),
            "se_resampling": e.se_resampling,
            "low": e.low,
            "high": e.high,
            "num_problems": e.num_problems,
            "num_samples": e.num_samples,
            "truncated_frac": float(np.mean(columns["finish_reason"][mine] == "length")),
            "no_answer_frac": float(np.mean(outcomes == Outcome.NO_ANSWER.value)),
            "length_mean": float(np.mean(lengths)) if lengths else None,
        }
    average = {name: _finite(value) for name, value in asdict(combine_sets(estimates)).items()}
    average["pass@1"] = average.pop("mean")
    return {"benchmarks": benchmarks, "average": average}


def pass_at_powers_of_two(rewards: np.ndarray) -> dict[int, float]:
    """Unbiased pass@k for k = 1, 2, 4, … up to the number of samples, mean over problems. rewards [P, S] of 0 and 1."""
    num_samples = rewards.shape[1]
    correct = np.rint(rewards.sum(axis=1)).astype(np.int64)
    ks = [2**i for i in range(num_samples.bit_length())]
    return {k: float(pass_at_k(num_samples, correct, k).mean()) for k in ks}


def _finite(value: float) -> float | None:
    """None where a single problem leaves the error unknown: JSON has no infinity."""
    return value if math.isfinite(value) else None


def write_evaluation(evaluation: Evaluation, directory: Path) -> None:
    """`samples.parquet` first, `results.json` last: where the latter stands, the evaluation is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "set": result.name,
            "problem_id": scored.group.problem.id,
            "prompt": scored.group.problem.prompt,
            "references": list(scored.group.problem.references),
            "difficulty": scored.group.problem.difficulty,
            "sample_index": rollout.sample_index,
            "completion": text,
            "num_tokens": rollout.num_tokens,
            "finish_reason": rollout.finish_reason.value,
            "outcome": verdict.outcome.value,
            "reward": verdict.reward,
            "answer": verdict.answer,
            "detail": verdict.detail,
        }
        for result in evaluation.sets.values()
        for scored in result.groups
        for rollout, text, verdict in zip(scored.group.rollouts, scored.texts, scored.verdicts, strict=True)
    ]
    write_atomically(directory / "samples.parquet", lambda path: pq.write_table(pa.Table.from_pylist(rows), path))
    text = json.dumps(results_json(evaluation), indent=1) + "\n"
    write_atomically(directory / "results.json", lambda path: path.write_text(text))
