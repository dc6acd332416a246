"""Details behind a score: lengths, budgets, groups of problems, identical completions, the clean subset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscaler.evaluation.benchmark_samples import BenchmarkSamples
from deepscaler.evaluation.estimators import estimate, source_clusters
from deepscaler.json_text import parse_json

QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
MAX_DIFFICULTIES = 10  # more distinct values are grouped by their whole part


def token_statistics(samples: BenchmarkSamples) -> dict[str, object] | None:
    """Mean and quantiles of completion tokens, of all and split by right and wrong; None where counts are unknown."""
    tokens = _tokens(samples)
    if tokens is None:
        return None
    right = samples.rewards > 0
    return {
        **(_lengths(tokens) or {}),
        "total": int(tokens.sum()),
        "correct": _lengths(tokens[right]),
        "wrong": _lengths(tokens[~right]),
    }


def _tokens(samples: BenchmarkSamples) -> NDArray[np.int64] | None:
    column = samples.table.column("num_tokens")
    return None if column.null_count else np.asarray(column, dtype=np.int64)


def _lengths(tokens: NDArray[np.int64]) -> dict[str, float] | None:
    if not len(tokens):
        return None
    quantiles = {name: float(np.quantile(tokens, q)) for name, q in QUANTILES.items()}
    return {"mean": float(tokens.mean()), **quantiles}


def budget_curve(samples: BenchmarkSamples) -> list[dict[str, float]] | None:
    """Pass@1 if completions were truncated at b tokens, so that longer ones count as wrong; None without counts.

    b: powers of two from the shortest completion to the first that truncates none; the last value is Pass@1.
    """
    tokens = _tokens(samples)
    if tokens is None:
        return None
    first, last = (max(0, int(n - 1).bit_length()) for n in (max(1, tokens.min()), max(1, tokens.max())))
    return [
        {
            "max_tokens": 2**power,
            "pass@1": float(samples.per_problem(samples.rewards * (tokens <= 2**power)).mean()),
            "truncated_frac": float(np.mean(tokens > 2**power)),
        }
        for power in range(first, last + 1)
    ]


def by_group(samples: BenchmarkSamples, labels: Sequence[str | None]) -> list[dict[str, object]]:
    """Pass@1 with its interval for every label of problems [P], in sorted order; [] when labels tell nothing apart."""
    present = sorted({label for label in labels if label is not None}, key=_number_then_text)
    if len(present) < 2:
        return []
    groups = []
    rewards = samples.reward_matrix
    for label in present:
        members = np.array([other == label for other in labels])
        e = estimate(rewards[members])
        groups.append({"name": label, "pass@1": e.mean, "low": e.low, "high": e.high, "num_problems": e.num_problems})
    return groups


def difficulty_labels(samples: BenchmarkSamples) -> list[str | None]:
    """Difficulty of every problem as text; whole parts only where there are more than MAX_DIFFICULTIES values."""
    values = samples.of_problems(samples.column("difficulty"))
    many = len({v for v in values if v is not None}) > MAX_DIFFICULTIES
    return [None if v is None else f"{int(v)}" if many else f"{v:g}" for v in values]


def source_labels(samples: BenchmarkSamples) -> list[str | None]:
    return samples.of_problems(samples.column("source"))


def _number_then_text(label: str) -> tuple[bool, float, str]:
    try:
        return False, float(label), label
    except ValueError:
        return True, 0.0, label


def identical_rows(samples: BenchmarkSamples, digests: Sequence[bytes]) -> NDArray[np.bool_]:
    """Per row: whether an earlier sample of the same problem has the very same text."""
    seen: set[tuple[int, bytes]] = set()
    repeated = np.zeros(len(digests), dtype=bool)
    for row, pair in enumerate(zip(samples.problem_of_row.tolist(), digests, strict=True)):
        repeated[row] = pair in seen
        seen.add(pair)
    return repeated


UNKNOWN_RESAMPLING = {"se_resampling": math.nan, "low_resampling": math.nan, "high_resampling": math.nan}


def all_the_same(samples: BenchmarkSamples, digests: Sequence[bytes]) -> bool:
    """Whether some problem has several samples, and no problem two that differ."""
    texts = set(zip(samples.problem_of_row.tolist(), digests, strict=True))
    return len(digests) > len(samples.problem_ids) == len(texts)


def clean_subset(samples: BenchmarkSamples, contaminated: frozenset[str]) -> dict[str, object]:
    """Pass@1 over the problems that are not in the training data, as a contamination record lists them."""
    clean = np.array([identity not in contaminated for identity in samples.problem_ids])
    result: dict[str, object] = {"num_contaminated": int((~clean).sum()), "num_problems": int(clean.sum())}
    if clean.any():
        clusters = source_clusters([s for s, kept in zip(source_labels(samples), clean, strict=True) if kept])
        e = estimate(samples.reward_matrix[clean], clusters)
        result |= {"pass@1": e.mean, "low": e.low, "high": e.high}
    return result


def read_contamination(path: Path) -> dict[str, frozenset[str]]:
    """benchmark -> ids of its problems found in the training data, from a contamination.json.

    Either `{"benchmarks": {NAME: {"problems": [id, ...]}}}`, as `deepscaler data prepare` writes it, or
    `{"matches": {NAME: [id, ...]}}`. Raises ValueError naming file and field.
    """
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    found = _matches(record) if isinstance(record, Mapping) else None
    if found is None:
        raise ValueError(f"{path}: expected an object with the field benchmarks or matches")
    for name, ids in found.items():
        if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
            raise ValueError(f"{path}, field {name}: expected a list of problem ids")
    return {name: frozenset(ids) for name, ids in found.items()}


def _matches(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if isinstance(record.get("benchmarks"), Mapping):
        return {n: v.get("problems") if isinstance(v, Mapping) else v for n, v in record["benchmarks"].items()}
    return record["matches"] if isinstance(record.get("matches"), Mapping) else None
