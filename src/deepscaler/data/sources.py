"""Problems from files and the hub, with errors that name file, row and field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepscaler.config.models import SourceSection
from deepscaler.data.identity import problem_id
from deepscaler.types import Problem

FORMATS = (".json", ".jsonl", ".parquet")


class DataError(ValueError):
    """A data file cannot be used; the message names file, row and field."""


def load_problems(source: str | Path, *, prompt_field: str = "problem", answer_field: str = "answer") -> list[Problem]:
    """Every row of a .json (list of objects), .jsonl or .parquet file, or of a hub dataset's train split.

    Answers may be strings, numbers (142.0 becomes "142") or lists of alternatives. Raises DataError for the first
    row without prompt or answer, of a wrong type, or with a repeated id; nothing is dropped silently.
    """
    path = Path(source)
    if path.suffix in FORMATS or path.exists():
        name, rows = str(path), _read(path)
    else:
        name, rows = str(source), _from_hub(str(source))
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        problem = _problem(name, number, row, prompt_field, answer_field)
        if problem.id in seen:
            raise DataError(
                f"{name}, row {number}: same id as row {seen[problem.id]} ({problem.id}); "
                "give every row an id of its own, or remove the repeated problem"
            )
        seen[problem.id] = number
        problems.append(problem)
    if not problems:
        raise DataError(f"{name} holds no rows")
    return problems


def load_mixture(sources: Sequence[SourceSection]) -> tuple[list[Problem], list[int]]:
    """(the problems of all sources, per problem the index of its source). Raises DataError for one in two sources."""
    problems: list[Problem] = []
    source_of: list[int] = []
    place: dict[str, int] = {}
    for index, source in enumerate(sources):
        for problem in load_problems(source.path, prompt_field=source.prompt_field, answer_field=source.answer_field):
            other = place.setdefault(problem.id, index)
            if other != index:
                raise DataError(
                    f"{source.path}: problem {problem.id} ({problem.prompt[:60]!r}) stands in "
                    f"{sources[other].path} as well and would be drawn for both; remove it from one of them"
                )
            problems.append(problem)
            source_of.append(index)
    return problems, source_of


def _read(path: Path) -> Iterable[Any]:
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a {', '.join(FORMATS)} file or a hub dataset's name")
    if path.suffix == ".parquet":
        return _read_parquet(path)
    if path.suffix not in FORMATS:
        raise DataError(f"{path}: unknown format; known are {', '.join(FORMATS)}")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 (byte {error.start}); convert the file to UTF-8") from error
    return _parse_lines(path, text) if path.suffix == ".jsonl" else _parse_list(path, text)


def _parse_lines(path: Path, text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
    return rows


def _parse_list(path: Path, text: str) -> list[Any]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: holds a {type(rows).__name__}, expected a list of objects")
    return rows


def _read_parquet(path: Path) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


def _from_hub(name: str) -> Iterable[Any]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError(
            f"{name} is no local file, and reading hub datasets needs the `hub` extra: pip install 'deepscaler[hub]'. "
            "Without network, download the dataset elsewhere and give its .parquet or .json file as data.source"
        ) from error
    try:
        return datasets.load_dataset(name, split="train")
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"dataset {name} could not be loaded from the hub ({type(error).__name__}: {error}); download it on a "
            "machine with network and give its .parquet or .json file as data.source"
        ) from error


def _problem(name: str, number: int, row: Any, prompt_field: str, answer_field: str) -> Problem:
    where = f"{name}, row {number}"
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected an object with fields, found {type(row).__name__}")
    for field in (prompt_field, answer_field):
        if field not in row:
            raise DataError(f"{where}: no field {field!r}; it has {', '.join(map(str, row))}")
    prompt = row[prompt_field]
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{where}, field {prompt_field!r}: expected a problem's text, found {prompt!r:.80}")
    difficulty = row.get("difficulty")
    return Problem(
        id=str(row.get("id") or problem_id(prompt)),
        prompt=prompt.strip(),
        references=_references(where, answer_field, row[answer_field]),
        source=str(row.get("source") or Path(name).stem),
        difficulty=float(difficulty) if isinstance(difficulty, int | float) else None,
        solution=row["solution"] if isinstance(row.get("solution"), str) else None,
    )


def _references(where: str, field: str, value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    references = []
    for item in values:
        if isinstance(item, float) and item.is_integer():
            item = int(item)
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            raise DataError(f"{where}, field {field!r}: expected text, a number or a list of them, found {item!r:.80}")
        if not str(item).strip():
            raise DataError(f"{where}, field {field!r}: empty answer; fill it in or remove the row")
        references.append(str(item).strip())
    if not references:
        raise DataError(f"{where}, field {field!r}: empty list of answers; fill it in or remove the row")
    return tuple(references)
