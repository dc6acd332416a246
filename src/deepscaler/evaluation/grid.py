"""The rows of one benchmark, ordered by problem and sample, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BenchmarkSamples:
    """N completions of P problems. table: N rows, ordered by problem (as they first appear), then by sample index.

    problem_N: int64, the problem's number of every row. rewards_N: float64 in [0, 1].
    """

    name: str
    problem_ids: tuple[str, ...]
    table: pa.Table
    problem_N: NDArray[np.int64]
    rewards_N: Floats

    def column(self, name: str) -> list[Any]:
        return self.table.column(name).to_pylist()

    @property
    def counts_P(self) -> NDArray[np.int64]:
        """Samples per problem."""
        return np.bincount(self.problem_N, minlength=len(self.problem_ids))

    def per_problem(self, values_N: NDArray[Any]) -> Floats:
        """Mean of the values of each problem's samples, float64 [P]."""
        return np.bincount(self.problem_N, weights=values_N, minlength=len(self.problem_ids)) / self.counts_P

    @property
    def means_P(self) -> Floats:
        return self.per_problem(self.rewards_N)

    @property
    def rewards_PS(self) -> Floats:
        """float64 [P, S], NaN where a problem has fewer samples than others."""
        counts = self.counts_P
        grid = np.full((len(counts), int(counts.max())), np.nan)
        grid[self.problem_N, self._place_in_problem()] = self.rewards_N
        return grid

    def _place_in_problem(self) -> NDArray[np.int64]:
        starts = np.concatenate([[0], np.cumsum(self.counts_P)[:-1]])
        return np.arange(len(self.problem_N)) - starts[self.problem_N]

    def of_problems(self, values: list[Any]) -> list[Any]:
        """The value of each problem's first row, from one value per row."""
        firsts = np.searchsorted(self.problem_N, np.arange(len(self.problem_ids)))
        return [values[i] for i in firsts]

    def only(self, problems: NDArray[np.bool_]) -> BenchmarkSamples:
        """The chosen problems alone; problems is a mask [P]."""
        return split_benchmarks(self.table.filter(pa.array(problems[self.problem_N])))[0]


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
