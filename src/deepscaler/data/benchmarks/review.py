"""References that were read against their own solutions, one by one, with what came of it (`*_review.json`).

The files of a benchmark stay as they are for comparability; a corrected set is the same problems with the references
of the rows listed here replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from deepscaler.data.sources.load import DataError
from deepscaler.types import Problem

Reading = Literal["reference_wrong", "partly_wrong", "solution_wrong", "both_readings"]
REVIEWED = ("minerva",)


@dataclass(frozen=True, slots=True)
class ReviewedRow:
    """One row on which reference and solution disagree.

    verdict: whose fault it is. `partly_wrong`: one of several alternatives is wrong. `both_readings`: either is
        defensible, so the reference stays and the other may count too.
    certain: whether the reading leaves no doubt. original, corrected: alternatives, cleaned as the loader does.
    """

    row: int
    verdict: Reading
    certain: bool
    original: tuple[str, ...]
    corrected: tuple[str, ...]
    why: str
    evidence: str

    @property
    def changes(self) -> bool:
        return self.original != self.corrected


@cache
def reviewed_rows(benchmark: str) -> Mapping[int, ReviewedRow]:
    """Row -> review; empty for a benchmark nobody reviewed."""
    if benchmark not in REVIEWED:
        return {}
    text = files("deepscaler.data.benchmarks").joinpath(f"{benchmark}_review.json").read_text(encoding="utf-8")
    return {entry["row"]: _row(entry) for entry in json.loads(text)["rows"]}


def _row(entry: dict[str, Any]) -> ReviewedRow:
    return ReviewedRow(**{**entry, "original": tuple(entry["original"]), "corrected": tuple(entry["corrected"])})


def correct(benchmark: str, path: str, problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """The problems with corrected references. Raises DataError where a row is not the one that was reviewed."""
    reviews = reviewed_rows(benchmark)
    if not reviews:
        raise DataError(f"no corrected references are registered for {benchmark}; set suite.corrected = false")
    corrected = list(problems)
    for row, review in reviews.items():
        found = problems[row].references if row < len(problems) else None
        if found != review.original:
            raise DataError(
                f"{path}, row {row}, field 'answer': the corrections were made for {list(review.original)}, found "
                f"{'no such row' if found is None else list(found)}; set suite.corrected = false"
            )
        corrected[row] = replace(problems[row], references=review.corrected)
    return tuple(corrected)
