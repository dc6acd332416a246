"""Many evaluations as one table, a model in each row. The best is marked only where a paired test tells it apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from deepscaler.evaluation.breakdown import source_labels
from deepscaler.evaluation.compare import (
    CONDITIONS,
    EXPECTED_TO_DIFFER,
    Side,
    compare_benchmark,
    match_problems,
    read_side,
)
from deepscaler.evaluation.estimators import Estimate, combine_sets, estimate, source_clusters
from deepscaler.evaluation.paired import Difference, combine_differences, holm
from deepscaler.evaluation.samples import model_name
from deepscaler.evaluation.tables import num_whole
from deepscaler.json_text import differences
from deepscaler.observability.counts import counted

LEVEL = 0.05  # of the Holm-adjusted p-values of the best against every other
# Settings without which two scores cannot stand in one column, whatever else differs.
SHAPING = (
    *CONDITIONS,
    "instruction",
    "limit",
    "limit_seed",
    "corrected",
    "stop",
    "stop_token_ids",
    "omit",
    "extra_body",
)
MAX_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Cell:
    """A model's score on a benchmark. best: better than every other by the paired test. comparable: same problems."""

    estimate: Estimate
    best: bool = False
    comparable: bool = True


@dataclass(frozen=True, slots=True)
class ModelRow:
    """cells: by benchmark, without those that were not evaluated. average: where all of them are there.

    differs: how its settings differ from those of the first row, in words; empty where they do not.
    """

    label: str
    cells: dict[str, Cell]
    average: Cell | None
    differs: str


@dataclass(frozen=True, slots=True)
class ModelTable:
    """sizes: problems of each benchmark, `30` or `4 of 30`. samples: `16`, or `4 to 16`."""

    rows: tuple[ModelRow, ...]
    sizes: dict[str, str]
    samples: str
    notes: tuple[str, ...]

    @property
    def benchmarks(self) -> list[str]:
        return list(self.sizes)


def read_table(directories: Sequence[Path], names: Sequence[str] = (), *, mixed: bool = False) -> ModelTable:
    """The table of evaluation directories. names: of the rows, instead of the models'.

    Raises ValueError for evaluations of other settings or other problems, unless `mixed`: these are then marked, and
    nothing is compared with them.
    """
    if len(directories) < 2:
        raise ValueError("a table needs at least two evaluations; `deepscaler eval` prints the figures of one")
    if names and len(names) != len(directories):
        raise ValueError(
            f"{counted(len(names), '--name')} for {len(directories)} evaluations; give one for each, in order"
        )
    sides = [read_side(directory) for directory in directories]
    differs = [_other_settings(sides[0], side) for side in sides]
    other_problems = _other_problems(sides)
    if not mixed:
        _refuse(sides, differs, other_problems)
    return _table(sides, list(names) or labels(sides), differs, set(other_problems))


def labels(sides: Sequence[Side]) -> list[str]:
    """The models' names without their directories; with that of the evaluation where two would be the same."""
    names = [PurePath(model_name(side.settings)).name or side.path.name for side in sides]
    return [
        f"{name} ({side.path.name})" if names.count(name) > 1 else name for name, side in zip(names, sides, strict=True)
    ]


def _other_settings(first: Side, side: Side) -> str:
    """What differs of the settings that shape a score, in words."""
    found = [d for d in differences(first.settings, side.settings) if _shapes_a_score(d.key)]
    words = "; ".join(d.words() for d in found[:MAX_SHOWN])
    return f"{words}; and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else words


def _shapes_a_score(key: str) -> bool:
    parts = key.split(".")
    return parts[0] == "grader" or (not set(parts) & set(EXPECTED_TO_DIFFER) and bool(set(parts) & set(SHAPING)))


def _other_problems(sides: Sequence[Side]) -> dict[tuple[int, str], str]:
    """(row, benchmark) -> how its problems differ from those of the first row that has the benchmark."""
    first: dict[str, Side] = {}
    found: dict[tuple[int, str], str] = {}
    for number, side in enumerate(sides):
        for name in side.benchmarks:
            unpaired, _ = match_problems(name, first.setdefault(name, side), side)
            if len(unpaired):
                found[number, name] = unpaired.words()
    return found


def _refuse(sides: Sequence[Side], differs: Sequence[str], other_problems: dict[tuple[int, str], str]) -> None:
    faults = [
        f"{side.path} was made with other settings than {sides[0].path} ({words})"
        for side, words in zip(sides, differs, strict=True)
        if words
    ]
    faults += [
        f"{sides[row].path} holds other problems of {name}: {words}" for (row, name), words in other_problems.items()
    ]
    if faults:
        more = f"; and {len(faults) - MAX_SHOWN} more" if len(faults) > MAX_SHOWN else ""
        raise ValueError(
            f"{'; '.join(faults[:MAX_SHOWN])}{more}. One table of them would mislead: evaluate alike, or say --mixed, "
            "which marks these rows and compares nothing with them"
        )


def _table(
    sides: Sequence[Side], names: Sequence[str], differs: Sequence[str], other: set[tuple[int, str]]
) -> ModelTable:
    benchmarks = list(dict.fromkeys(name for side in sides for name in side.benchmarks))
    estimates = {(i, name): _estimate(side, name) for i, side in enumerate(sides) for name in side.benchmarks}
    compared = [i for i, words in enumerate(differs) if not words]
    best = {name: _best(sides, estimates, [name], compared, other) for name in benchmarks}
    whole = [i for i, side in enumerate(sides) if len(side.benchmarks) == len(benchmarks)]
    averages = {i: combine_sets([estimates[i, name] for name in benchmarks]) for i in whole}
    best_average = _best(sides, estimates, benchmarks, [i for i in compared if i in whole], other)
    rows = [
        ModelRow(
            label=names[i],
            cells={n: Cell(estimates[i, n], best[n] == i, (i, n) not in other) for n in side.benchmarks},
            average=Cell(averages[i], best_average == i) if i in averages else None,
            differs=differs[i],
        )
        for i, side in enumerate(sides)
    ]
    counts = sorted({e.num_samples for e in estimates.values()})
    samples = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return ModelTable(tuple(rows), {name: _size(sides, name) for name in benchmarks}, samples, _notes(sides, names))


def _estimate(side: Side, name: str) -> Estimate:
    samples = side.benchmarks[name]
    return estimate(samples.reward_matrix, source_clusters(source_labels(samples)))


def _best(
    sides: Sequence[Side],
    estimates: dict[tuple[int, str], Estimate],
    benchmarks: Sequence[str],
    rows: Sequence[int],
    other: set[tuple[int, str]],
) -> int | None:
    """The row that is better than every other on these benchmarks, by paired tests adjusted for their number (Holm).

    None where one of them cannot be told apart from it.
    """
    rows = [i for i in rows if all((i, n) in estimates and (i, n) not in other for n in benchmarks)]
    if len(rows) < 2:
        return None
    means = {i: sum(estimates[i, n].mean for n in benchmarks) for i in rows}
    top = max(rows, key=lambda i: means[i])
    found = [_difference(sides[i], sides[top], benchmarks) for i in rows if i != top]
    return top if max(holm([d.p_value for d in found])) < LEVEL and min(d.mean for d in found) > 0 else None


def _difference(before: Side, after: Side, benchmarks: Sequence[str]) -> Difference:
    found = []
    for name in benchmarks:
        unpaired, shared = match_problems(name, before, after)
        found.append(compare_benchmark(name, before, after, shared, unpaired).difference)
    return found[0] if len(found) == 1 else combine_differences(found)


def _size(sides: Sequence[Side], name: str) -> str:
    """`30`, or `4 of 30` of a registered benchmark that was not asked whole."""
    sizes = sorted({len(side.benchmarks[name].problem_ids) for side in sides if name in side.benchmarks})
    shown = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    whole = next((size for side in sides if (size := num_whole(name, side.settings)) is not None), sizes[0])
    return f"{shown} of {whole}" if sizes[0] < whole else shown


def _notes(sides: Sequence[Side], names: Sequence[str]) -> tuple[str, ...]:
    """What results.json warns about, once for each warning."""
    found: dict[str, list[str]] = {}
    for name, side in zip(names, sides, strict=True):
        for warning in side.warnings:
            found.setdefault(warning, []).append(name)
    return tuple(f"WARNING {', '.join(rows)}: {warning}" for warning, rows in found.items())
