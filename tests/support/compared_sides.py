"""Two evaluations that were made under different conditions, to be compared."""

from __future__ import annotations

from pathlib import Path

from made_comparison import NAMES, write_evaluation_of
from made_samples import row

SETTINGS = {"temperature": 0.6, "top_p": 0.95, "max_completion_tokens": 32768, "model": {"name": "some"}}


def side(path: Path, **changes: object) -> Path:
    """Four problems of each benchmark of the suite, as `--limit 4` leaves it; a quarter is truncated at the budget."""
    rows = []
    for name in NAMES:
        for p in range(4):
            cut = {"outcome": "truncated", "answer": None, "finish_reason": "length"} if p == 0 else {}
            rows.append(row(p, 0, benchmark=name, **cut))
    return write_evaluation_of(path, rows, **{**SETTINGS, **changes})
