"""Problems from files: what is read, and what bad input is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepscaler.data.sources.load import DataError, load_problems
from shared_data import shared

ROWS: list[dict[str, Any]] = [
    {"problem": "1+1?", "answer": "2"},
    {"problem": "Half of 284?", "answer": 142.0, "id": "b", "difficulty": 3},
    {"problem": "A root of x^2=4?", "answer": ["2", "-2"], "source": "algebra"},
]


def write(path: Path, rows: list[Any]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(
            pa.Table.from_pylist([{"problem": r["problem"], "answer": str(r["answer"])} for r in rows]), path
        )
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_answers_may_be_texts_numbers_or_lists(tmp_path: Path, name: str) -> None:
    first, second, third = load_problems(write(tmp_path / name, ROWS))
    assert (first.references, second.references, third.references) == (("2",), ("142",), ("2", "-2"))
    assert (second.id, second.difficulty, third.source, first.source) == ("b", 3.0, "algebra", "a")


def test_parquet_gives_the_same_problems(tmp_path: Path) -> None:
    assert [p.prompt for p in load_problems(write(tmp_path / "a.parquet", ROWS))] == [r["problem"] for r in ROWS]


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode())
    assert len(load_problems(path)) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "x"}, r"row 3: no field 'answer'; it has problem"),
        ({"problem": "x", "answer": ""}, r"row 3, field 'answer': empty answer"),
        ({"problem": "x", "answer": []}, r"row 3, field 'answer': empty list"),
        ({"problem": "x", "answer": None}, r"row 3, field 'answer': expected text, a number or a list"),
        ({"problem": "x", "answer": True}, r"row 3, field 'answer'"),
        ({"problem": "x", "answer": [{"a": 1}]}, r"row 3, field 'answer'"),
        ({"problem": " ", "answer": "1"}, r"row 3, field 'problem': expected a problem's text"),
        ({"problem": 5, "answer": "1"}, r"row 3, field 'problem'"),
        ("text", r"row 3: expected an object"),
        ({"problem": "1+1?", "answer": "3"}, r"row 3: same id as row 0"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path / "a.json", [*ROWS, row])
    with pytest.raises(DataError, match=message) as caught:
        load_problems(path)
    assert str(path) in str(caught.value)


def test_broken_utf8_is_named_by_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"problem": "a", "answer": "1"}\n{"problem": "\xff", "answer": "1"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: not UTF-8 \(byte 45\)"):
        load_problems(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"problem": "a"\n', "line 1: not JSON"),
        ("a.json", "{", "not JSON"),
        ("a.json", "{}", "expected a list of objects"),
        ("a.json", "[]", "holds no rows"),
        ("a.parquet", "PAR1", "not a readable Parquet file"),
        ("a.csv", "a,b", "holds no rows"),
        ("a.txt", "a,b", "unknown format"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_problems(path)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match=r"nowhere\.json does not exist"):
        load_problems("nowhere.json")


def test_every_real_benchmark_file_is_read_or_its_row_named() -> None:
    files = sorted(shared("data", "benchmarks").glob("*.json"))
    assert files
    for file in files:
        try:
            assert load_problems(file)
        except DataError as error:
            assert f"{file}, row " in str(error)


def test_a_validation_file_may_have_the_training_files_columns_or_the_default_ones(tmp_path: Path) -> None:
    named: Any = {"prompt_field": "question", "answer_field": "solution"}
    (tmp_path / "own.jsonl").write_text(json.dumps({"question": "1+1?", "solution": "So \\boxed{2}.", "answer": "9"}))
    (tmp_path / "plain.jsonl").write_text(json.dumps({"problem": "1+1?", "answer": "2"}))
    for name in ("own", "plain"):
        (problem,) = load_problems(tmp_path / f"{name}.jsonl", **named, or_default_fields=True)
        assert (problem.prompt, problem.references) == ("1+1?", ("2",))
    with pytest.raises(DataError, match=r"row 0: no field 'question'; it has problem, answer"):
        load_problems(tmp_path / "plain.jsonl", **named)
