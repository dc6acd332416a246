"""Figures in documents: what stands between a benchmark's markers is written by it, and by nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

END = "<!-- end -->"


def replace_between_markers(path: Path, script: str, text: str) -> None:
    """Put `text` after the marker of `script` (a file in benchmarks/). Raises ValueError when there is none."""
    begin = f"<!-- begin: written by benchmarks/{script} -->"
    before, found, rest = path.read_text().partition(begin)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise ValueError(f"{path} lacks the markers {begin} and {END}")
    path.write_text(f"{before}{begin}\n{text}\n{END}{after}")
    print(path, file=sys.stderr)
