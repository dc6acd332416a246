"""Benchmark problems among the training rows: every pair that shares words is scored, exactly, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deepscaler.data.identity import asked_text
from deepscaler.data.prepare.dedupe import Progress
from deepscaler.data.prepare.normalize import NormalizedTexts
from deepscaler.data.prepare.shingles import Shingles, overlap, share_of, word_shingles
from deepscaler.data.prepare.similarity import Match, SameAnswer, Side, compare, holds_letters, holds_numbers
from deepscaler.data.prepare.whole_text import beginnings
from deepscaler.data.sources.rows import Drop
from deepscaler.types import Problem

# A benchmark problem of so many tokens of whose word pairs a training row holds this share is in it, whatever the
# row's answer says.
CONTAINED_TOKENS = 20
CONTAINED_SHARE = 0.95
CONTAINED_LETTERS = 80  # the same for its letters
_LEAST_JACCARD, _LEAST_CONTAINMENT = 0.25, 0.8  # below both, `compare` is not asked
_CHUNK_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """Training row `row` (index into the table) resembles `problem` of `benchmark`. `SIMILAR` ones are only listed."""

    row: int
    benchmark: str
    problem: Problem
    match: Match
    jaccard: float
    containment: float

    @property
    def contaminates(self) -> bool:
        return self.match is not Match.SIMILAR


def find_contamination(
    rows: NormalizedTexts,
    answers: Sequence[Sequence[str]],
    benchmarks: dict[str, Sequence[Problem]],
    same_answer: SameAnswer,
    progress: Progress,
) -> list[Finding]:
    """Every training row that is a benchmark's problem, or looks like one, by row and then by benchmark."""
    tests = [(name, problem) for name, members in benchmarks.items() for problem in members]
    asked = NormalizedTexts([asked_text(problem.prompt, problem.earlier) for _, problem in tests], rows.vocabulary)
    row_shingles, test_shingles = word_shingles(rows), word_shingles(asked)
    found = []
    pairs = {(row, test) for row, test, _ in _overlaps(row_shingles, test_shingles, progress)}
    pairs.update(beginnings(rows.letters, asked.letters))
    for row, test in sorted(pairs):
        jaccard, containment = overlap(row_shingles.of(row), test_shingles.of(test))
        name, problem = tests[test]
        match = compare(
            Side.of(rows, row, answers[row]),
            Side.of(asked, test, problem.references),
            jaccard=jaccard,
            containment=containment,
            same_answer=same_answer,
        )
        if match in (None, Match.SIMILAR) and _stands_whole(rows, row, asked, test, row_shingles, test_shingles):
            match = Match.CONTAINED
        if match is not None:
            found.append(Finding(row, name, problem, match, jaccard, containment))
    return found


def _stands_whole(
    rows: NormalizedTexts, row: int, asked: NormalizedTexts, test: int, row_shingles: Shingles, test_shingles: Shingles
) -> bool:
    """Whether a row holds a benchmark problem to the last word pair or letter, and is long enough to be told."""
    if holds_letters(rows.letters[row], asked.letters[test], least=CONTAINED_LETTERS):
        return True
    share = share_of(test_shingles.of(test), row_shingles.of(row))
    enough = share >= CONTAINED_SHARE and len(asked[test]) >= CONTAINED_TOKENS
    return enough and holds_numbers(rows[row], asked[test])


def _overlaps(rows: Shingles, tests: Shingles, progress: Progress) -> Iterator[tuple[int, int, int]]:
    """(row, test, number of shingles in common) of all pairs that share enough to be compared."""
    order = np.argsort(tests.hashes, kind="stable")
    known, owner = tests.hashes[order], tests.owners()[order]
    count = max(len(tests), 1)
    row_sizes, test_sizes = rows.sizes, tests.sizes
    for start in range(0, len(rows), _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, len(rows))
        progress(start, len(rows))
        hashes = rows.hashes[rows.offsets[start] : rows.offsets[stop]]
        of_row = np.repeat(np.arange(start, stop), row_sizes[start:stop])
        low, high = np.searchsorted(known, hashes, "left"), np.searchsorted(known, hashes, "right")
        hits = high - low
        place = np.repeat(low - np.concatenate([[0], np.cumsum(hits)[:-1]]), hits) + np.arange(hits.sum())
        pairs, common = np.unique(np.repeat(of_row, hits) * count + owner[place], return_counts=True)
        row, test = pairs // count, pairs % count
        smaller = np.minimum(row_sizes[row], test_sizes[test])
        jaccard = common / (row_sizes[row] + test_sizes[test] - common)
        enough = (jaccard >= _LEAST_JACCARD) | (common >= _LEAST_CONTAINMENT * smaller)
        yield from zip(row[enough].tolist(), test[enough].tolist(), common[enough].tolist(), strict=True)
    progress(len(rows), len(rows))


def contamination_drops(
    roots: Sequence[int], findings: Sequence[Finding], place: Callable[[int], str]
) -> list[Drop | None]:
    """A Drop for each row that is a benchmark's problem, and for the first row of its cluster: they are one problem.

    roots: the first row of each row's cluster of duplicates (dedupe.Resolution).
    """
    drops: list[Drop | None] = [None] * len(roots)
    for finding in findings:
        if not finding.contaminates:
            continue
        through = "" if roots[finding.row] == finding.row else f" (as {place(finding.row)}, its duplicate)"
        detail = (
            f"{finding.problem.id} of {finding.benchmark}{through}; {finding.match.value}, "
            f"Jaccard {finding.jaccard:.2f}, containment {finding.containment:.2f}"
        )
        for row in (finding.row, roots[finding.row]):
            drops[row] = drops[row] or Drop("contaminated", f"{place(row)}: {detail}")
    return drops
