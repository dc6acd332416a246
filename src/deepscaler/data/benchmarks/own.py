"""Benchmarks that people bring: any data file with a problem and an answer in every row, recorded by hash."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from deepscaler.data.benchmarks.choices import CHOICE_ORDER
from deepscaler.data.benchmarks.definition import ColumnsSection, Definition, parse_definition, read_definition
from deepscaler.data.benchmarks.load import LoadedBenchmark, row_hash
from deepscaler.data.benchmarks.own_rows import own_problem
from deepscaler.data.benchmarks.problems import ABSENT, column_of
from deepscaler.data.sources.readers import DataError, read_rows
from deepscaler.types import Problem


def find_own(entry: str, directory: Path | None, reserved: Sequence[str]) -> Definition:
    """The definition that a suite's entry names: by its text, or as DIR/ENTRY.toml. Raises DataError.

    reserved: names of built-in benchmarks and suites, which no other benchmark may have.
    """
    found = parse_definition(entry)
    beside = None if directory is None else directory / f"{entry}.toml"
    if found is None and beside is not None and beside.is_file():
        found = read_definition(beside)
    if found is None:
        there = sorted(path.stem for path in directory.glob("*.toml")) if directory is not None else []
        known = [*reserved, *there]
        near = difflib.get_close_matches(entry, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        raise DataError(
            f"unknown benchmark {entry!r}; {hint} A benchmark of your own is NAME=FILE:PROBLEM,ANSWER or a .toml file "
            "(docs/your-benchmark.md)"
        )
    if found.name in reserved:
        raise DataError(
            f"{found.where}: {found.name} is a built-in benchmark or suite, and results of two things under one name "
            f"would be mixed up; choose another name, for example my-{found.name}"
        )
    return found


def load_own(definition: Definition) -> LoadedBenchmark:
    """The problems of a benchmark of one's own. Raises DataError naming file, row and field; nothing is left out."""
    path, own = definition.path, definition.own
    rows = read_rows(path)
    if not rows:
        raise DataError(f"{path} holds no rows; a benchmark needs at least one problem")
    _check_columns(path, rows[0], own.columns, definition.where)
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        problem = own_problem(definition, f"{path}, row {number}", number, row)
        if problem.id in seen:
            raise DataError(
                f"{path}, row {number}, field {own.columns.id!r}: same id as row {seen[problem.id]} ({problem.id}); "
                "give every row an id of its own, or leave out columns.id"
            )
        seen[problem.id] = number
        problems.append(problem)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    hashes = tuple(row_hash(problem) for problem in problems)
    return LoadedBenchmark(
        name=definition.name,
        problems=tuple(problems),
        sha256=digest,
        row_hashes=hashes,
        registered=False,
        warnings=tuple(_repeated(hashes)),
        origin=_origin(definition, digest),
    )


def _origin(definition: Definition, digest: str) -> dict[str, object]:
    own = definition.own
    shaping = own.model_dump(
        mode="json", include={"answer", "tolerance", "relative_tolerance", "instruction"}, exclude_none=True
    )
    origin = {
        "own": True,
        "file_sha256": digest,
        "columns": own.columns.model_dump(mode="json", exclude_none=True),
        **shaping,
        **{name: value for name in ("title", "source", "licence") if (value := getattr(own, name))},
    }
    if own.answer == "letter":
        origin["answer_kind"] = "letter"
        origin |= {"choice_order": CHOICE_ORDER} if isinstance(own.columns.choices, tuple) else {}
    return origin


def _check_columns(path: Path, row: object, columns: ColumnsSection, where: str) -> None:
    """Raises DataError for a named column that the first row lacks, with the nearest it has."""
    if not isinstance(row, Mapping):
        raise DataError(f"{path}, row 0: expected an object with fields, found {type(row).__name__}")
    named = columns.model_dump(exclude_none=True)
    for role, value in named.items():
        for column in value if isinstance(value, tuple) else (value,):
            if column_of(row, column) is ABSENT:
                near = difflib.get_close_matches(column, list(map(str, row)), n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise DataError(
                    f"{path}, row 0: no field {column!r}, which {where} names for the {role}{hint} It has "
                    f"{', '.join(map(str, row))}"
                )


def _repeated(hashes: Sequence[str]) -> list[str]:
    first: dict[str, int] = {}
    pairs = [(first[h], i) for i, h in enumerate(hashes) if first.setdefault(h, i) != i]
    if not pairs:
        return []
    shown_pairs = ", ".join(f"{b} like {a}" for a, b in pairs[:3]) + (", …" if len(pairs) > 3 else "")
    return [f"problems that are asked twice count twice: rows {shown_pairs}"]
