"""Near-duplicates inside the training rows: found by MinHash, confirmed by comparing, gathered into clusters."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from deepscaler.data.prepare.normalize import NormalizedTexts, is_number
from deepscaler.data.prepare.shingles import (
    BANDS,
    ROWS,
    WINDOW,
    Hashes,
    Shingles,
    candidate_pairs,
    mix,
    overlap,
    signatures,
    word_shingles,
)
from deepscaler.data.prepare.similarity import Match, SameAnswer, Side, compare
from deepscaler.data.sources.layouts import shown
from deepscaler.data.sources.rows import Drop

Progress = Callable[[int, int], None]  # done, of

SIGNATURE_FLOOR = 0.2  # estimated similarity below which a pair is not looked at; 384 values err by 0.02
REASONS = {
    Match.VERBATIM: "duplicate_verbatim",
    Match.REWORDED: "duplicate_reworded",
    Match.ENCODED: "duplicate_encoded",
}


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Rows `first` < `second` of the table are one problem."""

    first: int
    second: int
    match: Match
    jaccard: float
    containment: float


def find_duplicates(
    normalized: NormalizedTexts,
    answers: Sequence[Sequence[str]],
    same_answer: SameAnswer,
    *,
    seed: int,
    progress: Progress,
) -> list[Duplicate]:
    """Links between problems that are the same; enough of them to connect each cluster, not every pair."""
    clusters = Clusters(len(normalized))
    found = []

    def look(i: int, j: int, jaccard: float, containment: float) -> bool:
        a, b = Side.of(normalized, i, answers[i]), Side.of(normalized, j, answers[j])
        match = compare(a, b, jaccard=jaccard, containment=containment, same_answer=same_answer)
        if match in (None, Match.SIMILAR):
            return False
        clusters.join(i, j)
        found.append(Duplicate(i, j, match, jaccard, containment))
        return True

    kept = []
    for group in _equal_texts(normalized).values():
        # Brackets are no tokens, so equal ones may be several problems; each row is compared with the first of each.
        firsts: list[int] = []
        for row in group:
            if not any(look(first, row, 1.0, 1.0) for first in firsts[:WINDOW]):
                firsts.append(row)
        kept += firsts
    kept_rows = np.array(sorted(kept), dtype=np.int64)
    shingles = word_shingles(normalized)
    same_letters: dict[str, int] = {}
    for row in kept_rows.tolist():  # where formulas begin and end may change many tokens and no letter
        first = same_letters.setdefault(normalized.letters[row], row)
        if first != row:
            look(first, row, *overlap(shingles.of(first), shingles.of(row)))
    numbers = _number_sets(normalized)
    pairs = kept_rows[_candidates(normalized, shingles, kept_rows, seed)]
    for number, (i, j) in enumerate(pairs.tolist()):
        if number % 1000 == 0:
            progress(number, len(pairs))
        # Other numbers make another problem, and variants of one pattern are many: no need to look at their words.
        if clusters.root(i) != clusters.root(j) and (numbers[i] <= numbers[j] or numbers[j] <= numbers[i]):
            look(i, j, *overlap(shingles.of(i), shingles.of(j)))
    progress(len(pairs), len(pairs))
    return found


def _candidates(normalized: NormalizedTexts, shingles: Shingles, rows: np.ndarray, seed: int) -> np.ndarray:
    """Pairs of positions in `rows`, int64 [num_pairs, 2]."""
    signature = signatures(shingles, BANDS * ROWS, seed)[rows]
    return candidate_pairs(signature, _numbers_hash(normalized)[rows], SIGNATURE_FLOOR)


def _equal_texts(normalized: NormalizedTexts) -> dict[bytes, list[int]]:
    """Rows by their tokens and figures."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, figure in enumerate(normalized.figures):
        tokens = normalized.tokens[normalized.offsets[row] : normalized.offsets[row + 1]]
        groups[hashlib.blake2b(tokens.tobytes() + figure.encode(), digest_size=16).digest()].append(row)
    return groups


def _numbers_hash(normalized: NormalizedTexts) -> Hashes:
    """uint64 per row, equal for rows that hold the same numbers, each as often."""
    numeric = np.array([is_number(word) for word in normalized.vocabulary.words], dtype=bool)
    values = mix(normalized.tokens.astype(np.uint64))
    values[~numeric[normalized.tokens]] = 0
    summed = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values)])
    return summed[normalized.offsets[1:]] - summed[normalized.offsets[:-1]]


def _number_sets(normalized: NormalizedTexts) -> list[frozenset[tuple[int, int]]]:
    """Per row its numbers as (token id, how many of the same came before), so that subsets count repetitions."""
    numeric = np.array([is_number(word) for word in normalized.vocabulary.words], dtype=bool)
    sets = []
    for row in range(len(normalized)):
        tokens = normalized.tokens[normalized.offsets[row] : normalized.offsets[row + 1]]
        before: dict[int, int] = defaultdict(int)
        members = []
        for token in tokens[numeric[tokens]].tolist():
            members.append((token, before[token]))
            before[token] += 1
        sets.append(frozenset(members))
    return sets


class Clusters:
    """Union-find over rows; the root is a cluster's first row."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, row: int) -> int:
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def join(self, a: int, b: int) -> None:
        a, b = sorted((self.root(a), self.root(b)))
        self._parent[b] = a


@dataclass(frozen=True, slots=True)
class Conflict:
    """A cluster whose members ask the same and answer differently: indices into the table."""

    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What becomes of each row. roots: the first row of the cluster a row belongs to, itself when it is alone."""

    drops: list[Drop | None]
    conflicts: list[Conflict]
    roots: list[int]


def resolve(table: pa.Table, duplicates: Sequence[Duplicate]) -> Resolution:
    """Of each cluster the first row stays, unless its answers conflict: then all leave, as any may be wrong."""
    clusters = Clusters(len(table))
    for link in duplicates:
        clusters.join(link.first, link.second)
    disputed = {clusters.root(link.first) for link in duplicates if link.match is Match.CONFLICT}
    places = [
        f"{file} row {row}" for file, row in zip(table["file"].to_pylist(), table["row"].to_pylist(), strict=True)
    ]
    answers = table["answer"].to_pylist()
    drops: list[Drop | None] = [None] * len(table)
    for link in sorted(duplicates, key=lambda link: (link.first, link.second)):
        root = clusters.root(link.first)
        for row in (link.second, link.first):
            if row != root and drops[row] is None and root not in disputed:
                drops[row] = Drop(REASONS[link.match], f"same problem as {places[root]}, which stays; {_how(link)}")
    conflicts = []
    for members in _members(clusters, disputed, len(table)):
        conflicts.append(Conflict(tuple(members)))
        said = "; ".join(f"{places[row]} says {shown(answers[row][0])}" for row in members)
        for row in members:
            drops[row] = Drop("conflicting_answers", f"one problem, different answers: {said}")
    return Resolution(drops, conflicts, [clusters.root(row) for row in range(len(table))])


def _members(clusters: Clusters, roots: set[int], count: int) -> Iterator[list[int]]:
    members: dict[int, list[int]] = {root: [] for root in sorted(roots)}
    for row in range(count):
        if (root := clusters.root(row)) in members:
            members[root].append(row)
    yield from members.values()


def _how(link: Duplicate) -> str:
    return f"{link.match.value}, Jaccard {link.jaccard:.2f}, containment {link.containment:.2f}"
