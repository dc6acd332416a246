"""Local files: every format gives the same rows, and a broken one is named with its line or row."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepscaler.data.sources.readers import DataError, read_rows

ROWS = [
    {"problem": 'Say "one, two"\nand count', "answer": "2"},
    {"problem": "A line separator\u2028inside", "answer": "1"},
    {"problem": "Ein Dreieck mit Höhe 3", "answer": ""},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".gz":
            path.write_bytes(gzip.compress(write(path.with_suffix(""), rows).read_bytes()))
        case ".jsonl":
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            path.write_bytes(("\r\n".join(lines) + "\r\n\r\n").encode())
        case ".csv" | ".tsv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, ["problem", "answer"], delimiter="," if path.suffix == ".csv" else "\t")
                writer.writeheader()
                writer.writerows(rows)
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".arrow":
            table = pa.Table.from_pylist(rows)
            with pa.ipc.new_stream(path, table.schema) as stream:
                stream.write_table(table)
    return path


@pytest.mark.parametrize(
    "suffix", [".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".json.gz", ".jsonl.gz", ".csv.gz", ".tsv.gz"]
)
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
        ("a.json", b'{"problem": ["a"], "answer": ["1"]}', "holds a dict, expected a list .*keys are problem, answer"),
        ("a.json", b'{"problem": "a"}\n{"problem": \n', r"a\.json, line 2: not JSON"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz: not a readable gzip file"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], r"a\.jsonl\.gz: not a readable gzip file"),
        ("a.arrow", b"ARROW1 not really", "not a readable Arrow file"),
        ("a.arrow", b"nor this one", "not a readable Arrow file"),
        ("a.tsv", b"problem\tanswer\na\t1\t2\n", r"a\.tsv, row 0 \(line 2\): not as many fields"),
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


@pytest.mark.parametrize(
    "text",
    [
        '{"train": %s, "test": [{"problem": "held out", "answer": "1"}]}',
        '{"version": "1.0", "data": %s}',
        '{"rows": %s}',
    ],
)
def test_a_list_of_rows_under_a_name_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text.replace("%s", json.dumps(ROWS)))
    assert read_rows(tmp_path / "a.json") == ROWS


def test_json_lines_under_the_name_of_json_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("\n".join(map(json.dumps, ROWS)))
    assert read_rows(tmp_path / "a.json") == ROWS


def test_arrows_file_format_is_read_as_well(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    assert read_rows(tmp_path / "a.arrow") == ROWS


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_a_float_keeps_the_decimal_it_was_written_as(tmp_path: Path, kind: pa.DataType) -> None:
    numbers = np.array([0.1, 2.5, 0.3], dtype=kind.to_pandas_dtype())
    table = pa.table(
        {
            "answer": pa.array(numbers, kind),
            "nested": pa.array([[numbers[0]], [], None], pa.list_(kind)),
            "deep": pa.array([{"ground_truth": number} for number in numbers], pa.struct({"ground_truth": kind})),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows: list[Any] = read_rows(tmp_path / "a.parquet")
    assert [row["answer"] for row in rows] == [0.1, 2.5, 0.3]
    assert [row["nested"] for row in rows] == [[0.1], [], None]
    assert [row["deep"]["ground_truth"] for row in rows] == [0.1, 2.5, 0.3]


def test_two_columns_of_one_name_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["solution"] * 2), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("problem,solution,solution\na,b,c\n")
    for name in ("a.parquet", "a.csv"):
        with pytest.raises(DataError, match="two columns are called 'solution'"):
            read_rows(tmp_path / name)
