"""Files of a preparation: rows for training, manifest, page, and nothing half written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from deepscaler.data.prepare.files import sha256, write_preparation
from deepscaler.data.prepare.preparation import Settings
from deepscaler.data.sources.layouts import Columns
from deepscaler.data.sources.load import load_problems
from prepared_rows import GOOD, run


def test_difficulty_and_solution_come_along_and_training_reads_the_file(tmp_path: Path) -> None:
    done = run(tmp_path, GOOD)
    write_preparation(done, (), Settings(Columns()), tmp_path / "out")
    problems = load_problems(tmp_path / "out" / "train.parquet")
    assert [p.references for p in problems] == [("2",), ("9",), ("2", "-2")]
    assert [p.difficulty for p in problems] == [1.5, None, None]
    assert problems[2].solution == "Take roots."
    assert len({p.id for p in problems}) == 3


def test_the_manifest_accounts_for_files_and_rows(tmp_path: Path) -> None:
    done = run(tmp_path, [*GOOD, {"problem": "x", "answer": None}])
    write_preparation(done, (), Settings(Columns()), tmp_path / "out", recorded={"tokenizer": None})
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["inputs"][0]["sha256"] == sha256(tmp_path / "rows.json")
    assert manifest["inputs"][0]["rows"] == 4
    for output in manifest["outputs"]:
        assert output["sha256"] == sha256(tmp_path / "out" / output["name"])
    assert [s["out"] for s in manifest["steps"]] == [4, 4, 3, 3, 3]
    assert manifest["rows"] == {"train": 3, "validation": 0}
    assert manifest["difficulty"] == {"2": 1, "none": 2}
    assert {"deepscaler", "numpy", "pyarrow"} <= manifest["versions"].keys()
    gone = pq.read_table(tmp_path / "out" / "dropped.parquet").to_pylist()
    assert [(row["source"], row["row"], row["reason"]) for row in gone] == [
        (str(tmp_path / "rows.json"), 3, "missing_answer")
    ]
    assert json.loads(gone[0]["record"]) == {"problem": "x", "answer": None}


def test_a_write_that_fails_leaves_the_former_output_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, settings, out = run(tmp_path, GOOD), Settings(Columns()), tmp_path / "out"
    write_preparation(done, (), settings, out)
    before = {path.name: sha256(path) for path in out.iterdir()}

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deepscaler.data.prepare.files.pair_page", full)
    for target in (out, tmp_path / "new"):
        with pytest.raises(OSError, match="No space left"):
            write_preparation(done, (), settings, target)
    assert {path.name: sha256(path) for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows.json"]


def test_problems_are_only_text_in_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> How many of the 12 boxes hold more than 3 of the 40 balls?"
    done = run(tmp_path, [{"problem": evil, "answer": "7"}, {"problem": evil + " ", "answer": "7"}, *GOOD])
    write_preparation(done, (), Settings(Columns()), tmp_path / "out")
    page = (tmp_path / "out" / "contamination.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_the_page_shows_one_text_once_and_answers_as_they_are_written(tmp_path: Path) -> None:
    """Pairs whose texts differ, which somebody has to read, come before exact copies."""
    text = "How many of the 12 boxes hold more than 3 of the 40 balls?"
    twice = [{"problem": text, "answer": [r"\frac{7}{2}", "3.5"]} for _ in range(2)]
    first, second = (
        "What is the area of a square with a side of 17 cm?",
        "What is the area of a square with side of 17 cm?",
    )
    reworded = [{"problem": other, "answer": "289"} for other in (first, second)]
    done = run(tmp_path, [*twice, *reworded, *GOOD])
    write_preparation(done, (), Settings(Columns()), tmp_path / "out")
    page = (tmp_path / "out" / "contamination.html").read_text()
    assert page.count(text) == 1
    assert r"\frac{7}{2} or 3.5</span>" in page
    assert page.index("<mark>") < page.index(text)
    assert '<a href="#s3">Duplicates among the training rows: 2</a>' in page
