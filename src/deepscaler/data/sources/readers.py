"""Rows from local files: JSON, JSON lines, CSV, TSV, Parquet and Arrow, gzipped or not.

Errors name file and line or row.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepscaler.json_text import parse_json

if TYPE_CHECKING:
    import pyarrow as pa

MAX_CSV_FIELD = 2**30  # characters; Python's own limit of 128 KiB is less than a long problem
_GZIP = ".gz"


class DataError(ValueError):
    """A data file cannot be used; the message names file, row and field."""


def read_rows(path: Path) -> list[object]:
    """Every row of a file of one of FORMATS, in order.

    Row numbers elsewhere are indices into this list, from 0; blank lines of .jsonl are no rows. Raises DataError for a
    file that is missing, of another format, not UTF-8 or not well-formed.
    """
    reader = FORMATS.get(format_of(path))
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a {', '.join(FORMATS)} file or a hub dataset's name")
    if reader is None:
        raise DataError(f"{path}: unknown format; known are {', '.join(FORMATS)}, also with {_GZIP}")
    return reader(path, _content(path))


def format_of(path: Path) -> str:
    """The suffix that says how a file is read, `.jsonl` for `rows.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == _GZIP else "".join(suffixes[-1:])


def is_data_file(path: Path) -> bool:
    return format_of(path) in FORMATS


def _content(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.suffix.lower() != _GZIP:
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a readable gzip file ({error})") from error


def decode(path: Path, raw: bytes) -> str:
    """UTF-8 text, with or without a byte order mark. Raises DataError naming line and byte."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 (byte {error.start}); convert the file to UTF-8") from error


def _read_json(path: Path, raw: bytes) -> list[object]:
    """A list of objects; `{"train": [...]}`; or JSON lines under the wrong name, as pandas and datasets write them."""
    text = decode(path, raw)
    try:
        rows = parse_json(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _read_lines(path, raw)
        raise DataError(f"{path}: not JSON ({error})") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    if isinstance(rows, dict):
        rows = _only_list(path, rows)
    if not isinstance(rows, list):
        raise DataError(f"{path}: holds a {type(rows).__name__}, expected a list of objects")
    return rows


def _only_list(path: Path, holder: dict[str, object]) -> list[object]:
    """The rows of an object that holds them under a name: `train`, or its only list of objects."""
    lists = {n: v for n, v in holder.items() if isinstance(v, list) and v and all(isinstance(row, dict) for row in v)}
    if "train" in lists:
        return lists["train"]
    if len(lists) == 1:
        return next(iter(lists.values()))
    raise DataError(
        f'{path}: holds a dict, expected a list of objects, alone or as {{"train": [...]}}; its keys are '
        f"{', '.join(map(str, list(holder)[:6])) or 'none'}"
    )


def _read_lines(path: Path, raw: bytes) -> list[object]:
    rows = []
    # Not splitlines(): it also splits at characters that JSON allows inside a string.
    for number, line in enumerate(decode(path, raw).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(parse_json(line))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
    return rows


def _read_csv(path: Path, raw: bytes, *, delimiter: str = ",") -> list[object]:
    text = decode(path, raw)
    csv.field_size_limit(MAX_CSV_FIELD)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    rows = []
    try:
        _refuse_twins(path, reader.fieldnames or ())
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


def _read_tsv(path: Path, raw: bytes) -> list[object]:
    return _read_csv(path, raw, delimiter="\t")


def _read_parquet(path: Path, raw: bytes) -> list[object]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(raw)).read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    return _arrow_rows(path, table)


def _read_arrow(path: Path, raw: bytes) -> list[object]:
    """What `save_to_disk` of datasets writes: an Arrow stream; Arrow's file format as well."""
    import pyarrow as pa

    try:
        is_file = raw.startswith(b"ARROW1")
        with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(pa.BufferReader(raw)) as reader:
            table = reader.read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Arrow file ({error})") from error
    return _arrow_rows(path, table)


def _refuse_twins(path: Path, columns: Sequence[str]) -> None:
    twins = sorted({name for name in columns if columns.count(name) > 1})
    if twins:
        raise DataError(f"{path}: two columns are called {', '.join(map(repr, twins))}; rename one of them")


def _arrow_rows(path: Path, table: pa.Table) -> list[object]:
    import pyarrow as pa

    _refuse_twins(path, table.column_names)
    for name in table.column_names:
        try:
            table[name].validate(full=True)
        except pa.ArrowInvalid as error:  # names the row inside its chunk
            raise DataError(f"{path}, field {name!r}: {error}; write the file again with UTF-8 text") from error
    return [*arrow_to_rows(table)]


def arrow_to_rows(table: pa.Table | pa.RecordBatch) -> list[dict[str, object]]:
    """The rows of an Arrow table or record batch, 32- and 16-bit floats as the shortest decimal that gives them."""
    rows = table.to_pylist()
    for field in table.schema:
        if _has_short_float(field.type):
            for row in rows:
                row[field.name] = _as_written(row[field.name], field.type)
    return rows


def _has_short_float(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return True
    return any(_has_short_float(kind.field(index).type) for index in range(kind.num_fields))


def _as_written(value: Any, kind: pa.DataType) -> object:
    """0.1 for the 32-bit float that to_pylist gives as 0.10000000149011612, also inside lists and structs."""
    import numpy as np
    import pyarrow as pa

    if value is None:
        return None
    if pa.types.is_float32(kind):
        return float(str(np.float32(value)))
    if pa.types.is_float16(kind):
        return float(str(np.float16(value)))
    if pa.types.is_struct(kind):
        return {field.name: _as_written(value[field.name], field.type) for field in kind}
    if isinstance(value, list) and kind.num_fields == 1 and not pa.types.is_map(kind):
        return [_as_written(item, kind.field(0).type) for item in value]
    return value


FORMATS: dict[str, Callable[[Path, bytes], list[object]]] = {
    ".json": _read_json,
    ".jsonl": _read_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".tsv": _read_tsv,
    ".arrow": _read_arrow,
}
