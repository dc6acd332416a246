"""The registered benchmarks load with clean references, and nothing else passes for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepscaler.config.evaluation import COMPETITION
from deepscaler.data.benchmarks.load import BENCHMARKS, LoadedBenchmark, load_benchmark
from deepscaler.data.benchmarks.review import reviewed_rows
from shared_data import shared

ROWS: dict[str, dict[str, Any]] = {
    "aime24": {"problem": "Find $xy$.", "answer": "025", "aime_number": 1, "difficulty": 2.0, "solution": "25"},
    "amc23": {"problem": "Sum?", "answer": 142.0, "url": "https://x/2022_AMC_12A_Problems/Problem_1", "difficulty": 2},
    "math500": {"problem": "Solve.", "answer": " x=5 ", "difficulty": 3.0, "unique_id": "test/algebra/7.json"},
    "minerva": {"problem": "How hot?", "answer": ["1950^\\circ C\n", "1950^\\circ C"], "type": "Solids", "idx": 3},
    "olympiadbench": {
        "problem": "Which?",
        "answer": ["$69$,$84$"],
        "subfield": "Algebra",
        "is_multiple_answer": True,
        "error": "1e-1",
        "solution": ["first", "second"],
    },
}


def load(tmp_path: Path, name: str, *rows: Any, text: bytes | None = None, **options: Any) -> LoadedBenchmark:
    path = tmp_path / BENCHMARKS[name].file
    path.write_bytes(text if text is not None else json.dumps(list(rows)).encode())
    return load_benchmark(name, tmp_path, allow_changed=True, **options)


@pytest.mark.parametrize("name", [spec.name for spec in BENCHMARKS.values() if spec.file])
def test_the_registered_file_loads_whole_and_is_recognised(name: str) -> None:
    loaded = load_benchmark(name, shared("data", "benchmarks" if name in COMPETITION else "more"))
    assert loaded.registered and loaded.sha256 in BENCHMARKS[name].sha256
    assert len(loaded.problems) == BENCHMARKS[name].num_problems == len(set(loaded.row_hashes))
    assert [p.id for p in loaded.problems] == [f"{name}/{i}" for i in range(len(loaded.problems))]
    for problem in loaded.problems:
        assert problem.prompt == problem.prompt.strip() != ""
        assert problem.source.startswith(f"{name}/" if "group" in BENCHMARKS[name].fields else name)
        for reference in problem.references:
            assert reference == reference.strip() != "" and "\n" not in reference


@pytest.mark.parametrize(
    ("name", "row", "reference"),
    [
        ("aime24", 1, "25"),
        ("amc23", 0, "142"),
        ("amc23", 8, "-4"),
        ("math500", 0, "x=5"),
        ("math500", 0, "5.4 \\text{ cents}"),
        ("minerva", 158, "4.4677 \\times 10^{14} Hz"),
        ("olympiadbench", 13, "69, 84"),
        ("olympiadbench", 194, "221, 8"),
        ("olympiadbench", 76, "(-\\infty, 0) \\cup\\{1\\}"),
        ("olympiadbench", 518, "(2+\\sqrt{2}, 1+\\sqrt{2})"),
        ("olympiadbench", 113, "(2, 251, 252)"),
    ],
)
def test_references_of_the_real_files_are_cleaned(name: str, row: int, reference: str) -> None:
    references = {r for p in load_benchmark(name, shared("data", "benchmarks")).problems for r in p.references}
    assert reference in references
    if name != "math500":
        assert load_benchmark(name, shared("data", "benchmarks")).problems[row].references[0] == reference


def test_corrected_references_replace_exactly_the_reviewed_rows() -> None:
    original = load_benchmark("minerva", shared("data", "benchmarks"))
    corrected = load_benchmark("minerva", shared("data", "benchmarks"), corrected=True)
    changed = {i for i, (a, b) in enumerate(zip(original.problems, corrected.problems, strict=True)) if a != b}
    assert changed == {row for row, review in reviewed_rows("minerva").items() if review.changes}
    for i, (before, after) in enumerate(zip(original.problems, corrected.problems, strict=True)):
        assert (before.id, before.prompt) == (after.id, after.prompt)
        assert (original.row_hashes[i] != corrected.row_hashes[i]) == (i in changed)
    assert corrected.problems[41].references == ("0.53",)
    assert any("wrong or too narrow" in warning for warning in original.warnings)
    assert any("were corrected" in warning for warning in corrected.warnings)


def test_corrections_refuse_rows_they_were_not_made_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no corrected references are registered for aime24"):
        load(tmp_path, "aime24", ROWS["aime24"], corrected=True)
    with pytest.raises(ValueError, match=r"row 41, field 'answer': the corrections were made for"):
        load(tmp_path, "minerva", *[ROWS["minerva"]] * 272, corrected=True)
    with pytest.raises(ValueError, match="no such row"):
        load(tmp_path, "minerva", ROWS["minerva"], corrected=True)


def test_only_the_row_that_declares_a_tolerance_has_one() -> None:
    declared = {
        (p.id, p.tolerance)
        for name in ROWS
        for p in load_benchmark(name, shared("data", "benchmarks")).problems
        if p.tolerance is not None
    }
    assert declared == {("olympiadbench/316", 0.1)}


@pytest.mark.parametrize(
    ("name", "references", "source"),
    [
        ("aime24", ("25",), "aime24/I"),
        ("amc23", ("142",), "amc23/2022 12A"),
        ("math500", ("x=5",), "math500/algebra"),
        ("minerva", ("1950^\\circ C",), "minerva/Solids"),
        ("olympiadbench", ("69, 84",), "olympiadbench/Algebra"),
    ],
)
def test_a_row_of_each_kind(tmp_path: Path, name: str, references: tuple[str, ...], source: str) -> None:
    (problem,) = load(tmp_path, name, ROWS[name]).problems
    assert (problem.id, problem.references, problem.source) == (f"{name}/0", references, source)
    if name == "olympiadbench":
        assert (problem.tolerance, problem.solution) == (0.1, "first\n\nsecond")


def test_a_changed_file_is_refused_with_both_hashes_unless_allowed(tmp_path: Path) -> None:
    loaded = load(tmp_path, "aime24", ROWS["aime24"])
    known = BENCHMARKS["aime24"].sha256[0]
    assert not loaded.registered
    assert known in loaded.warnings[0] and loaded.sha256 in loaded.warnings[0]
    with pytest.raises(ValueError, match=known) as refused:
        load_benchmark("aime24", tmp_path)
    assert loaded.sha256 in str(refused.value) and "validation_files" in str(refused.value)


def test_converted_line_endings_are_named_as_the_difference(tmp_path: Path) -> None:
    raw = shared("data", "benchmarks", "minerva.json").read_bytes()
    (tmp_path / "minerva.json").write_bytes(raw.replace(b"\n", b"\r\n"))
    with pytest.raises(ValueError, match="only the line endings differ"):
        load_benchmark("minerva", tmp_path)
    assert load_benchmark("minerva", tmp_path, allow_changed=True).problems[0].references == ("9.6",)


def test_huge_rows_and_integers_load(tmp_path: Path) -> None:
    (problem,) = load(tmp_path, "amc23", {**ROWS["amc23"], "problem": "x" * 10_000_000, "answer": 10**400}).problems
    assert len(problem.prompt) == 10_000_000 and problem.references == (str(10**400),)


def test_the_row_hash_follows_what_is_asked_and_what_counts(tmp_path: Path) -> None:
    row = ROWS["olympiadbench"]
    (base,) = load(tmp_path, "olympiadbench", row).row_hashes
    changes: list[dict[str, Any]] = [{"problem": "Who?"}, {"answer": ["70,84"]}, {"error": None}]
    for change in changes:
        assert load(tmp_path, "olympiadbench", {**row, **change}).row_hashes != (base,)
    assert load(tmp_path, "olympiadbench", {**row, "subfield": "Geometry"}).row_hashes == (base,)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("aime24", {"answer": None}, "row 0, field 'answer'"),
        ("aime24", {"answer": 25}, "row 0, field 'answer'"),
        ("aime24", {"answer": " "}, "empty answer"),
        ("amc23", {"answer": "142"}, "expected a number"),
        ("amc23", {"answer": True}, "expected a number"),
        ("amc23", {"answer": float("nan")}, "expected a number"),
        ("amc23", {"answer": float("inf")}, "expected a number"),
        ("amc23", {"difficulty": 10**400}, "field 'difficulty'"),
        ("amc23", {"difficulty": "hard"}, "field 'difficulty'"),
        ("math500", {"problem": ""}, "field 'problem'"),
        ("math500", {"problem": ["a"]}, "field 'problem'"),
        ("math500", {"problem": "half \ud800 pair"}, "broken Unicode"),
        ("minerva", {"answer": []}, "list of answers"),
        ("minerva", {"answer": ["1", None]}, "item 1"),
        ("minerva", {"solution": 7}, "field 'solution'"),
        ("olympiadbench", {"answer": "5"}, "list of answers"),
        ("olympiadbench", {"answer": ["$$"]}, "empty answer"),
        ("olympiadbench", {"error": "some"}, "field 'error'"),
        ("olympiadbench", {"error": "inf"}, "field 'error'"),
    ],
)
def test_a_bad_row_is_named_with_file_row_and_field(
    tmp_path: Path, name: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path, name, {**ROWS[name], **change})
    assert f"{tmp_path / BENCHMARKS[name].file}, row 0" in str(error.value)


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 1: no field 'answer'; it has problem, year"):
        load(tmp_path, "aime24", ROWS["aime24"], {"problem": "x", "year": 2024})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "expected a list"),
        (b"{}", "expected a list"),
        (b'["text"]', "row 0: expected an object"),
        (b'[{"problem": ', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'[\n{"problem": "\xff"}]', "line 2: not UTF-8"),
        (b"", "not JSON"),
    ],
)
def test_a_file_that_is_no_benchmark_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, "aime24", text=text)


def test_a_missing_file_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"aime24\.json does not exist"):
        load_benchmark("aime24", tmp_path)
    with pytest.raises(ValueError, match="known are aime24, amc23"):
        load_benchmark("aime99", tmp_path)
