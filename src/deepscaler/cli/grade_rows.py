"""Saved completions, row by row: JSONL, JSON, CSV or Parquet in, one checked item per row out.

A row that cannot be graded is a ValueError that names file, row and field.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepscaler.data.sources.readers import arrow_to_rows
from deepscaler.data.sources.references import NoAnswerError, read_reference
from deepscaler.json_text import parse_json
from deepscaler.types import GradeItem

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
SHOWN_COLUMNS = 8


class Number(str):
    """A number as the file spells it: `0.10` stays `0.10`, and a million digits stay text."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns. id: None = `id` where a row has it, else the row's index; tolerance: None = no column."""

    response: str
    reference: str
    id: str | None = None
    tolerance: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    id: object
    item: GradeItem


def read_rows(path: Path, columns: Columns, *, thinking_prefilled: bool) -> Iterator[Row]:
    """Every row of the file in order. Raises ValueError at the first that is not as `columns` says."""
    for index, (place, record) in enumerate(_records(path, columns)):
        where = f"{path}: {place}"
        if not isinstance(record, dict):
            raise ValueError(f"{where}: {_kind(record)} instead of an object with columns")
        response = _field(record, columns.response, where, "--response-column")
        if type(response) is not str:
            raise ValueError(
                f"{where}: field {columns.response!r} is {_kind(response)}; a response is one string. "
                "--response-column names another column"
            )
        references = _references(_field(record, columns.reference, where, "--reference-column"), columns, where)
        tolerance = None if columns.tolerance is None else _tolerance(record, columns.tolerance, where)
        if columns.id is None:
            identity = index if record.get("id") is None else record["id"]
        else:
            identity = _field(record, columns.id, where, "--id-column")
        yield Row(_json_id(identity, where), GradeItem(response, references, thinking_prefilled, tolerance))


def _records(path: Path, columns: Columns) -> Iterator[tuple[str, object]]:
    """(place, content). One object per row in every format."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: format not known; give one of {', '.join(FORMATS)}")
    if suffix == ".parquet":
        yield from _parquet(path, columns)
    elif suffix == ".csv":
        yield from _csv(path)
    elif suffix == ".json":
        content = _json(_text(path.read_bytes(), f"{path}"), f"{path}")
        if not isinstance(content, list):
            raise ValueError(f"{path}: {_kind(content)} instead of a list of rows; one object a line is .jsonl")
        yield from ((f"row {index}", record) for index, record in enumerate(content))
    else:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    where = f"line {number}"
                    yield where, _json(_text(line, f"{path}: {where}"), f"{path}: {where}")


def _csv(path: Path) -> Iterator[tuple[str, object]]:
    csv.field_size_limit(2**31 - 1)
    with path.open("rb") as binary:
        lines = (_text(line, f"{path}: line {number}") for number, line in enumerate(binary, start=1))
        reader = csv.DictReader(lines, strict=True)
        try:
            for record in reader:
                if None in record or None in record.values():
                    raise ValueError(
                        f"{path}: line {reader.line_num}: not as many fields as the header's "
                        f"{len(reader.fieldnames or ())}; quote fields that hold commas or line breaks"
                    )
                yield f"line {reader.line_num}", record
        except csv.Error as error:
            raise ValueError(f"{path}: line {reader.line_num}: no CSV: {error}") from error


def _parquet(path: Path, columns: Columns) -> Iterator[tuple[str, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            wanted = {columns.response, columns.reference, columns.id or "id", columns.tolerance}
            present = [name for name in file.schema_arrow.names if name in wanted]
            index = 0
            for batch in file.iter_batches(batch_size=256, columns=present):
                for record in arrow_to_rows(batch):
                    yield f"row {index}", {name: _as_number(value) for name, value in record.items()}
                    index += 1
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no readable Parquet: {error}") from error


def _as_number(value: object) -> object:
    if isinstance(value, list):
        return [_as_number(v) for v in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return None if value != value else Number(value)  # NaN is how tables spell a missing number


def _text(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: no UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}; convert the file first"
        ) from error


def _json(text: str, where: str) -> object:
    def no_number(word: str) -> object:
        raise ValueError(f"{word} is no JSON")

    try:
        return parse_json(text, parse_int=Number, parse_float=Number, parse_constant=no_number)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON: {error}") from error


def _field(record: dict[str, object], name: str, where: str, flag: str) -> object:
    if name not in record:
        there = [str(column) for column in record][:SHOWN_COLUMNS]
        raise ValueError(
            f"{where}: field {name!r} is missing; there is {', '.join(there) or 'nothing'}. {flag} names another column"
        )
    return record[name]


def _references(value: object, columns: Columns, where: str) -> list[str]:
    """Alternatives. None and "" stay, as an empty one: the grader's `bad_reference` is for that."""
    alternatives: list[Any] = value if isinstance(value, list) else [value]
    for alternative in alternatives:
        if not isinstance(alternative, str | None):
            kind = _kind(alternative) + (" inside a list" if isinstance(value, list) else "")
            raise ValueError(
                f"{where}: field {columns.reference!r} holds {kind}; a reference is a string, a number, or a list "
                "of these. --reference-column names another column"
            )
    return [_reference(alternative) for alternative in alternatives]


def _reference(text: str | None) -> str:
    """The answer that a worked solution marks; any other text as it is, for the grader to judge."""
    if not text or isinstance(text, Number):
        return str(text or "")
    try:
        return read_reference(text)
    except NoAnswerError:
        return text


def _tolerance(record: dict[str, object], name: str, where: str) -> float | None:
    value = _field(record, name, where, "--tolerance-column")
    if value is None or value == "":
        return None
    try:
        tolerance = float(value) if isinstance(value, str) else -1.0
    except ValueError:
        tolerance = -1.0
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"{where}: field {name!r} is {value!r:.40}; a tolerance is a number of at least 0, or empty")
    return tolerance


def _json_id(value: object, where: str) -> object:
    """The id as it goes out: numbers as numbers, texts as texts."""
    if isinstance(value, Number):
        return int(value) if value.lstrip("-").isdigit() and len(value) < 19 else str(value)
    if value is None or isinstance(value, list | dict):
        raise ValueError(f"{where}: the id is {_kind(value)}; an id is a string or a number")
    return value


def _kind(value: object) -> str:
    """The type as JSON's users call it."""
    names = {Number: "a number", bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")
