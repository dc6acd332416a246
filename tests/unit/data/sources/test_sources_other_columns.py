"""Columns beside problem and answer, for the reward functions that take them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepscaler.data.sources.load import DataError, load_problems
from deepscaler.data.sources.other_columns import MAX_CHARACTERS
from deepscaler.types import WantedColumns

ROW = {"problem": "1+1?", "answer": "2", "level": 3, "tests": [{"in": 1}], "note": None}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, "problem": "2+2?"}) + "\n")
    return path


def columns(file: Path, wanted: WantedColumns) -> object:
    text = load_problems(file, others=wanted)[0].columns
    return json.loads(text) if text else None


def test_columns_are_kept_only_where_a_function_takes_them(file: Path) -> None:
    assert load_problems(file)[0].columns == ""
    assert columns(file, WantedColumns({"level": "mine"}, frozenset({"level", "absent"}))) == {"level": 3}
    assert columns(file, WantedColumns({}, None)) == {"level": 3, "tests": [{"in": 1}], "note": None}


def test_a_column_that_a_function_cannot_do_without_is_missed_by_file_row_and_name(file: Path) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl, row 0: no field 'rubric', which reward part 'mine' takes"):
        load_problems(file, others=WantedColumns({"rubric": "mine"}, frozenset({"rubric"})))


def test_columns_too_large_to_carry_along_are_refused_by_name(file: Path) -> None:
    file.write_text(json.dumps({**ROW, "log": "x" * MAX_CHARACTERS}))
    with pytest.raises(DataError, match=r"row 0, field 'log': columns that reward functions take hold 262,"):
        load_problems(file, others=WantedColumns({}, None))
