"""Two evaluations of the same problems, paired by problem."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscaler.evaluation.estimators import Difference, combine_differences, paired_difference
from deepscaler.observability.files import write_atomically

Rewards = dict[str, dict[str, list[float]]]  # set -> problem id -> rewards by sample index


def read_rewards(directory: Path) -> Rewards:
    """Rewards of a written evaluation. Raises ValueError when the directory holds none."""
    import pyarrow.parquet as pq

    file = directory / "samples.parquet"
    if not (directory / "results.json").is_file() or not file.is_file():
        raise ValueError(f"{directory} holds no finished evaluation; make one with `deepscaler eval`")
    table = pq.read_table(file, columns=["set", "problem_id", "sample_index", "reward"])
    rewards: Rewards = {}
    for row in sorted(table.to_pylist(), key=lambda r: r["sample_index"]):
        rewards.setdefault(row["set"], {}).setdefault(row["problem_id"], []).append(row["reward"])
    return rewards


def compare_rewards(before: Rewards, after: Rewards) -> tuple[dict[str, Difference], Difference]:
    """after - before, per set and as the equally weighted average of the sets.

    Raises ValueError when the two do not hold the same sets of the same problems.
    """
    if before.keys() != after.keys():
        raise ValueError(f"the evaluations hold different sets: {sorted(before)} and {sorted(after)}")
    differences: dict[str, Difference] = {}
    for name in before:
        first, second = before[name], after[name]
        if first.keys() != second.keys():
            missing = len(first.keys() ^ second.keys())
            raise ValueError(
                f"set {name}: {missing} problems stand in only one of the evaluations, so they cannot be paired; "
                "evaluate both with the same recipe and limit"
            )
        ids = sorted(first)
        differences[name] = paired_difference(_means(first, ids), _means(second, ids))
    return differences, combine_differences(list(differences.values()))


def _means(rewards: Mapping[str, list[float]], ids: Sequence[str]) -> NDArray[np.float64]:
    return np.array([sum(rewards[i]) / len(rewards[i]) for i in ids], dtype=np.float64)


def compare_directories(before: Path, after: Path) -> tuple[dict[str, Difference], Difference]:
    return compare_rewards(read_rewards(before), read_rewards(after))


def comparison_json(differences: Mapping[str, Difference], total: Difference) -> dict[str, Any]:
    return {"sets": {name: asdict(d) for name, d in differences.items()}, "total": asdict(total)}


def write_comparison(path: Path, differences: Mapping[str, Difference], total: Difference) -> None:
    text = json.dumps(comparison_json(differences, total), indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))
