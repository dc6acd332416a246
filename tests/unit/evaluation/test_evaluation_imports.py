"""Completions saved by others: found, graded by the real grader in its processes, and refused with a name and a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepscaler.config.evaluation import SuiteSection
from deepscaler.config.sections.evaluation import GraderSection
from deepscaler.evaluation.compare import compare_directories
from deepscaler.evaluation.exports import export
from deepscaler.evaluation.imports import ImportedFile, import_completions
from deepscaler.evaluation.samples import read_samples
from deepscaler.rewards.isolation.pool import GraderPool, make_grader
from deepscaler.types import Problem

SETS = {"sums": [Problem(f"sums/{i}", f"What is {i} + 1?", (str(i + 1),), difficulty=float(i)) for i in range(3)]}


@pytest.fixture(scope="module")
def grader() -> Iterator[GraderPool]:
    with make_grader(GraderSection()) as pool:
        yield pool


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def outcomes(directory: Path) -> dict[tuple[str, int], str]:
    rows = read_samples(directory).to_pylist()
    return {(row["problem_id"], row["sample_index"]): row["outcome"] for row in rows}


def test_one_completion_per_row_found_by_text(tmp_path: Path, grader: GraderPool) -> None:
    rows = [
        {"question": "What is 0  + 1?", "response": r"so \boxed{1}", "tokens": 5, "stop": "stop"},
        {"question": "What is 0 + 1?", "response": r"so \boxed{2}", "tokens": 6, "stop": "stop"},
        {"question": "What is 2 + 1?", "response": r"it is \boxed{3}", "tokens": 7, "stop": "length"},
    ]
    columns = {"completion": "response", "problem": "question", "num_tokens": "tokens", "finish_reason": "stop"}
    file = ImportedFile(write_jsonl(tmp_path / "saved.jsonl", rows), columns, SETS)
    results, missing = import_completions(file, tmp_path / "out", grader, {})
    expected = {("sums/0", 0): "correct", ("sums/0", 1): "wrong", ("sums/2", 0): "truncated"}
    assert outcomes(tmp_path / "out") == expected
    assert missing == 1
    assert results.content["warnings"] == ["1 problem has no completion in saved.jsonl and is left out"]
    assert results.content["benchmarks"]["sums"]["pass@1"] == 0.25
    assert results.content["settings"]["imported"]["columns"]["completion"] == "response"


def test_lists_of_completions_by_row_number_and_nested_columns(tmp_path: Path, grader: GraderPool) -> None:
    rows = [{"doc": {"nr": i}, "resps": [[rf"\boxed{{{i + 1}}}", "no idea"]]} for i in range(3)]
    columns = {"completion": "resps", "problem": "doc.nr"}
    file = ImportedFile(write_jsonl(tmp_path / "saved.jsonl", rows), columns, SETS)
    results, missing = import_completions(file, tmp_path / "out", grader, {})
    assert missing == 0
    assert set(outcomes(tmp_path / "out").values()) == {"correct", "no_answer"}
    assert results.average.num_samples == 2
    assert results.content["benchmarks"]["sums"]["tokens"] is None


def test_our_own_exports_come_back_with_the_same_verdicts(tmp_path: Path, grader: GraderPool) -> None:
    texts = {"sums/0": r"\boxed{1}", "sums/1": r"\boxed{7}", "sums/2": "so it is"}
    rows = [{"id": i, "text": [t, t + " "], "n": [3, 4]} for i, t in texts.items()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "saved.parquet")
    columns = {"completion": "text", "problem": "id", "num_tokens": "n"}
    import_completions(ImportedFile(tmp_path / "saved.parquet", columns, SETS), tmp_path / "a", grader, {})
    for kind, mapping in (
        ("lm-eval", {"completion": "resps", "problem": "doc.id"}),
        ("lighteval", {"completion": "model_response.text", "problem": "doc.id"}),
    ):
        exported = export(kind, tmp_path / "a", tmp_path / kind, prompts={}, date="2026-01-01")[-1]
        import_completions(ImportedFile(exported, mapping, SETS), tmp_path / kind / "b", grader, {})
        assert outcomes(tmp_path / kind / "b") == outcomes(tmp_path / "a")
        made = compare_directories(tmp_path / "a", tmp_path / kind / "b").benchmarks["sums"]
        assert made.difference.mean == 0.0


GOOD = {"q": "sums/0", "r": "x"}


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([GOOD, {"q": "sums/9", "r": "x"}], {}, r"row 1, field q: 'sums/9' is no problem of sums"),
        ([{"q": 7, "r": "x"}], {}, "row 0, field q: row 7, but sums has 3 problems"),
        ([{"q": None, "r": "x"}], {}, "row 0, field q: None is no problem"),
        ([GOOD, {"q": "sums/1"}], {}, "row 1: no field r; it has q"),
        ([{"q": "sums/0", "r": 5}], {}, "row 0, field r: expected a completion or a list of them, found 5"),
        ([{"q": "sums/0", "r": []}], {}, "row 0, field r: expected a completion"),
        ([{"q": "sums/0", "r": "\ud800"}], {}, "row 0, field r: broken Unicode at character 0"),
        ([{**GOOD, "f": "eos"}], {"finish_reason": "f"}, "row 0: finish_reason 'eos'; known are stop"),
        ([{**GOOD, "i": 0}, {**GOOD, "i": 0}], {"sample_index": "i"}, "sums/sums/0/0 appears more than once"),
        ([{**GOOD, "i": "0"}], {"sample_index": "i"}, "field sample_index: expected a whole number, found '0'"),
        ([{"q": "sums/0", "r": ["a", "b"], "n": [1]}], {"num_tokens": "n"}, "1 value of num_tokens for 2 completions"),
        ([{**GOOD, "s": "one"}], {"seed": "s"}, "row 0, seed: expected a whole number, found 'one'"),
        ([{**GOOD, "b": "other"}], {"benchmark": "b"}, "benchmark 'other' is not among sums"),
        ([[1]], {}, "row 0: expected an object, found list"),
        ([], {}, "holds no completion"),
    ],
)
def test_bad_rows_are_named_and_leave_nothing(
    tmp_path: Path, grader: GraderPool, rows: list[Any], columns: dict[str, str], message: str
) -> None:
    file = write_jsonl(tmp_path / "saved.jsonl", rows)
    imported = ImportedFile(file, {"completion": "r", "problem": "q", **columns}, SETS)
    with pytest.raises(ValueError, match=message):
        import_completions(imported, tmp_path / "out", grader, {})
    assert not (tmp_path / "out").exists()


def test_a_sample_that_stands_twice_far_apart_is_found(tmp_path: Path, grader: GraderPool) -> None:
    rows = [{**GOOD, "i": i % 1500} for i in range(1501)]  # further apart than what is written at once
    columns = {"completion": "r", "problem": "q", "sample_index": "i"}
    with pytest.raises(
        ValueError, match=r"saved\.jsonl, row 1500: sample sums/sums/0/0 appears more than once, first in row 0"
    ):
        file = ImportedFile(write_jsonl(tmp_path / "saved.jsonl", rows), columns, SETS)
        import_completions(file, tmp_path / "out", grader, {})
    assert not (tmp_path / "out").exists()


def test_a_byte_order_mark_and_our_own_instruction_are_no_obstacles(tmp_path: Path, grader: GraderPool) -> None:
    rows = [{"q": f"{p.prompt}  {SuiteSection().instruction}", "r": r"\boxed{1}"} for p in SETS["sums"]]
    file = write_jsonl(tmp_path / "saved.jsonl", rows)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    imported = ImportedFile(file, {"completion": "r", "problem": "q"}, SETS)
    results, missing = import_completions(imported, tmp_path / "out", grader, {})
    assert missing == 0 and results.average.num_problems == 3


def test_what_cannot_be_read_or_mapped_is_refused(tmp_path: Path, grader: GraderPool) -> None:
    columns = {"completion": "r", "problem": "q"}
    for name, content, message in (
        ("a.jsonl", b"{", "row 0: not JSON"),
        ("b.parquet", b"PAR1", "not a readable Parquet file"),
        ("c.csv", b"", "unknown format"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            import_completions(ImportedFile(tmp_path / name, columns, SETS), tmp_path / "out", grader, {})
    with pytest.raises(ValueError, match="--map colour=…: no such field"):
        ImportedFile(tmp_path / "a.jsonl", {**columns, "colour": "c"}, SETS)
    with pytest.raises(ValueError, match="which column holds the problem"):
        ImportedFile(tmp_path / "a.jsonl", {"completion": "r"}, SETS)
    with pytest.raises(ValueError, match="which benchmark"):
        ImportedFile(tmp_path / "a.jsonl", columns, {**SETS, "more": SETS["sums"]})


def test_an_evaluation_is_not_overwritten(tmp_path: Path, grader: GraderPool) -> None:
    file = write_jsonl(tmp_path / "saved.jsonl", [GOOD])
    columns = {"completion": "r", "problem": "q"}
    import_completions(ImportedFile(file, columns, SETS), tmp_path / "out", grader, {})
    with pytest.raises(ValueError, match="holds an evaluation already"):
        import_completions(ImportedFile(file, columns, SETS), tmp_path / "out", grader, {})
