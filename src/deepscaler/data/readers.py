"""Rows from local files: JSON, JSON lines, CSV and Parquet. Errors name file and line or row."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepscaler.json_text import parse_json

MAX_CSV_FIELD = 2**30  # characters; Python's own limit of 128 KiB is less than a long problem


class DataError(ValueError):
    """A data file cannot be used; the message names file, row and field."""


def read_rows(path: Path) -> list[Any]:
    """Every row of a .json (list of objects), .jsonl, .csv or .parquet file, in order.

    Row numbers elsewhere are indices into this list, from 0; blank lines of .jsonl are no rows. Raises DataError for a
    file that is missing, of another format, not UTF-8 or not well-formed.
    """
    reader = FORMATS.get(path.suffix.lower())
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a {', '.join(FORMATS)} file or a hub dataset's name")
    if reader is None:
        raise DataError(f"{path}: unknown format; known are {', '.join(FORMATS)}")
    return reader(path)


def decode(path: Path, raw: bytes) -> str:
    """UTF-8 text, with or without a byte order mark. Raises DataError naming line and byte."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 (byte {error.start}); convert the file to UTF-8") from error


def _read_json(path: Path) -> list[Any]:
    text = decode(path, path.read_bytes())
    try:
        rows = parse_json(text)
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: holds a {type(rows).__name__}, expected a list of objects")
    return rows


def _read_lines(path: Path) -> list[Any]:
    rows = []
    # Not splitlines(): it also splits at characters that JSON allows inside a string.
    for number, line in enumerate(decode(path, path.read_bytes()).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(parse_json(line))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
    return rows


def _read_csv(path: Path) -> list[Any]:
    text = decode(path, path.read_bytes())
    csv.field_size_limit(MAX_CSV_FIELD)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}, row {len(rows)} (line {reader.line_num}): not as many fields as the header's "
                    f"{len(reader.fieldnames or ())}; quote fields that hold a comma or a line break"
                )
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    return rows


def _read_parquet(path: Path) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    for name in table.column_names:
        try:
            table[name].validate(full=True)
        except pa.ArrowInvalid as error:  # names the row inside its chunk
            raise DataError(f"{path}, field {name!r}: {error}; write the file again with UTF-8 text") from error
    return table.to_pylist()


FORMATS: dict[str, Callable[[Path], list[Any]]] = {
    ".json": _read_json,
    ".jsonl": _read_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
