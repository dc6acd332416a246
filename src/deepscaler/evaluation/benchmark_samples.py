"""The rows of one benchmark, ordered by problem and sample, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BenchmarkSamples:
    """N completions of P problems. table: N rows, ordered by problem (as they first appear), then by sample index.

    problem_of_row: int64 [N], the problem's number. rewards: float64 [N] in [0, 1].
    """

    name: str
    problem_ids: tuple[str, ...]
    table: pa.Table
    problem_of_row: NDArray[np.int64]
    rewards: Floats

    def column(self, name: str) -> list[Any]:
        return self.table.column(name).to_pylist()

    @property
    def sample_counts(self) -> NDArray[np.int64]:
        """Samples per problem, int64 [P]."""
        return np.bincount(self.problem_of_row, minlength=len(self.problem_ids))

    def per_problem(self, values_N: NDArray[Any]) -> Floats:
        """Mean of the values of each problem's samples, float64 [P]."""
        return np.bincount(self.problem_of_row, weights=values_N, minlength=len(self.problem_ids)) / self.sample_counts

    @property
    def means(self) -> Floats:
        """Mean reward of every problem, float64 [P]."""
        return self.per_problem(self.rewards)

    @property
    def reward_matrix(self) -> Floats:
        """Rewards float64 [P, S], NaN where a problem has fewer samples than others."""
        counts = self.sample_counts
        matrix = np.full((len(counts), int(counts.max())), np.nan)
        matrix[self.problem_of_row, self._place_in_problem()] = self.rewards
        return matrix

    def _place_in_problem(self) -> NDArray[np.int64]:
        starts = np.concatenate([[0], np.cumsum(self.sample_counts)[:-1]])
        return np.arange(len(self.problem_of_row)) - starts[self.problem_of_row]

    def of_problems(self, values: list[T]) -> list[T]:
        """The value of each problem's first row, from one value per row."""
        firsts = np.searchsorted(self.problem_of_row, np.arange(len(self.problem_ids)))
        return [values[i] for i in firsts]


def split_benchmarks(table: pa.Table) -> list[BenchmarkSamples]:
    """One value per benchmark of a samples table, in the order in which they appear."""
    names = np.asarray(table.column("benchmark").to_pylist(), dtype=object)
    found = []
    for name in dict.fromkeys(names.tolist()):
        rows = table.filter(pa.array(names == name))
        ids = rows.column("problem_id").to_pylist()
        numbers = {identity: number for number, identity in enumerate(dict.fromkeys(ids))}
        problem = np.array([numbers[i] for i in ids], dtype=np.int64)
        order = np.lexsort((np.asarray(rows.column("sample_index")), problem))
        ordered = rows.take(pa.array(order))
        rewards = np.asarray(ordered.column("reward"), dtype=np.float64)
        found.append(BenchmarkSamples(name, tuple(numbers), ordered, problem[order], rewards))
    return found
