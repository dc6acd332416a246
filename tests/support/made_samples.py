"""Made-up rows of a samples table with known rates."""

from __future__ import annotations

from typing import Any

import numpy as np


def row(problem: int, sample: int, **changes: Any) -> dict[str, Any]:
    """A row of benchmark `made` whose reward follows its outcome."""
    values: dict[str, Any] = {
        "benchmark": "made",
        "problem_id": f"p{problem}",
        "sample_index": sample,
        "completion": f"problem {problem}, sample {sample}",
        "num_tokens": 10,
        "finish_reason": "stop",
        "outcome": "wrong",
        "answer": "0",
        "detail": "",
        "references": ["1"],
    }
    values |= changes
    return {**values, "reward": float(values["outcome"] == "correct")}


def made_rows(problems: int, samples: int, *, rate: float, seed: int, **changes: Any) -> list[dict[str, Any]]:
    """Right with probability near `rate`, problem by problem; right ones are shorter."""
    rng = np.random.default_rng(seed)
    rows = []
    for problem in range(problems):
        chance = rng.beta(2 * rate, 2 * (1 - rate))
        for sample in range(samples):
            right = rng.random() < chance
            rows.append(
                row(
                    problem,
                    sample,
                    outcome="correct" if right else "wrong",
                    answer="1" if right else str(rng.integers(2, 6)),
                    num_tokens=int(rng.lognormal(4 if right else 5, 0.6)) + 1,
                    **changes,
                )
            )
    return rows
