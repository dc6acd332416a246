"""Local files: every format gives the same rows, and a broken one is named with its line or row."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepscaler.data.readers import DataError, read_rows

ROWS = [
    {"problem": 'Say "one, two"\nand count', "answer": "2"},
    {"problem": "A line separator\u2028inside", "answer": "1"},
    {"problem": "Ein Dreieck mit Höhe 3", "answer": ""},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".jsonl":
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            path.write_bytes(("\r\n".join(lines) + "\r\n\r\n").encode())
        case ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, ["problem", "answer"])
                writer.writeheader()
                writer.writerows(rows)
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    assert read_rows(write(tmp_path / f"rows{suffix}", ROWS)) == ROWS


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_a_row_of_ten_megabytes_is_a_row(tmp_path: Path, suffix: str) -> None:
    rows = [{"problem": "x" * 10_000_000, "answer": "1"}]
    assert read_rows(write(tmp_path / f"rows{suffix}", rows)) == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"problem": "\xff"}]', r"a\.json, line 1: not UTF-8 \(byte 14\)"),
        ("a.jsonl", b'{"problem": "a"}\r\n{"problem": "\xc3"}\r\n', r"a\.jsonl, line 2: not UTF-8"),
        ("a.csv", b"problem,answer\r\na,1\r\n\xe9,2\r\n", r"a\.csv, line 3: not UTF-8"),
        ("a.csv", b"problem,answer\na,1,2\n", r"a\.csv, row 0 \(line 2\): not as many fields as the header's 2"),
        ("a.csv", b'problem,answer\na,1\n"b\n', r"a\.csv, line 2: not CSV \(unexpected end"),
        ("a.csv", b"problem,answer\na\n", r"a\.csv, row 0"),
        ("a.jsonl", b'{"problem": "a"}\n{"problem": \n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl, line 1: not JSON"),
        ("a.json", b'{"data": []}', "holds a dict, expected a list"),
        ("a.parquet", b"PAR1 not really", "not a readable Parquet file"),
        ("a.xlsx", b"", "unknown format; known are .json, .jsonl, .csv, .parquet"),
    ],
)
def test_a_broken_file_is_named_with_line_or_row(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name)


def test_broken_utf8_inside_parquet_is_named_with_its_column_and_row(tmp_path: Path) -> None:
    texts = pa.StringArray.from_buffers(2, pa.py_buffer(b"\x00\0\0\0\x01\0\0\0\x02\0\0\0"), pa.py_buffer(b"a\xff"))
    pq.write_table(pa.table({"problem": texts}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, field 'problem': .*Invalid UTF8 sequence at string index 1"):
        read_rows(tmp_path / "a.parquet")
