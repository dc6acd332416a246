"""The lint finds what is odd in a benchmark, and the reviewed rows are among what it finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepscaler.cli.lint import lint_benchmarks
from deepscaler.config.evaluation import COMPETITION
from deepscaler.data.benchmarks.lint import Finding, lint_benchmark, sub_answers, top_level_items
from deepscaler.data.benchmarks.load import BENCHMARKS, load_benchmark, read_rows
from deepscaler.data.benchmarks.review import reviewed_rows
from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Outcome, Verdict
from shared_data import shared


def lint(tmp_path: Path, name: str, *rows: dict[str, Any]) -> list[Finding]:
    spec = BENCHMARKS[name]
    (tmp_path / spec.file).write_text(json.dumps(list(rows)))
    loaded = load_benchmark(name, tmp_path, allow_changed=True)
    return lint_benchmark(spec, list(rows), loaded.problems, grade)


def minerva(answer: list[str], solution: str, problem: str = "How far?") -> dict[str, Any]:
    return {"problem": problem, "answer": answer, "solution": solution, "type": "Optics"}


def olympiad(answer: str, **columns: Any) -> dict[str, Any]:
    return {"problem": "Which?", "answer": [answer], "subfield": "Algebra", "is_multiple_answer": False, **columns}


PROMPT = r"Subproblem 0: How long? Solution: \boxed{188} m Final answer: 188. Subproblem 1: And the longest?"


def test_every_reviewed_row_of_minerva_is_found_and_most_repeat_the_prompt() -> None:
    directory = shared("data", "benchmarks")
    rows, _ = read_rows(directory / "minerva.json")
    findings = lint_benchmark(BENCHMARKS["minerva"], rows, load_benchmark("minerva", directory).problems, grade)
    contradictions = {finding.row: finding for finding in findings if finding.kind == "contradiction"}
    assert set(reviewed_rows("minerva")) <= set(contradictions)
    assert sum(finding.repeats is not None for finding in contradictions.values()) >= 26


def test_every_corrected_reference_is_what_the_rows_own_solution_boxes() -> None:
    corrected = load_benchmark("minerva", shared("data", "benchmarks"), corrected=True).problems
    for row, review in reviewed_rows("minerva").items():
        item = GradeItem(corrected[row].solution or "", corrected[row].references, thinking_prefilled=False)
        agrees = grade(item).outcome is Outcome.CORRECT
        assert agrees == review.changes, review
        assert review.changes == (review.verdict in ("reference_wrong", "partly_wrong") or row == 170)


def test_a_repeated_answer_of_the_prompt_is_named_with_its_sub_question(tmp_path: Path) -> None:
    (finding,) = lint(tmp_path, "minerva", minerva(["188\n"], r"It is \boxed{566} m", PROMPT))
    assert (finding.kind, finding.boxed, finding.repeats) == ("contradiction", "566", 0)
    assert sub_answers("no parts, \\boxed{1}") == []


@pytest.mark.parametrize(
    ("answer", "solution", "found"),
    [
        (["566"], r"\boxed{566}", False),
        (["5", "566"], r"\boxed{566}", False),  # alternatives need not all agree,
        (["188", "566"], r"\boxed{566}", True),  # but none may be an earlier answer
        (["188"], "566, without a box", False),
        (["188"], None, False),
    ],
)
def test_only_references_that_no_alternative_saves_contradict(
    tmp_path: Path, answer: list[str], solution: str, found: bool
) -> None:
    findings = lint(tmp_path, "minerva", minerva(answer, solution, PROMPT))
    assert [f.kind for f in findings] == ["contradiction"] * found


@pytest.mark.parametrize(
    ("row", "kind", "detail"),
    [
        (olympiad("45", unit="minute"), "unit", "45 in minute"),
        (olympiad("4.2", error="1e-1"), "tolerance", "within 0.1"),
        (olympiad("1,2", is_multiple_answer=True), "several_answers", "2: 1, 2"),
        (olympiad("1,2"), "several_answers", "not flagged as several"),
        (olympiad("(1,2)", is_multiple_answer=True), "several_answers", "holds one"),
        (olympiad("-2,-2", is_multiple_answer=True), "several_answers", "one of them twice"),
        (olympiad("$221,$8$", is_multiple_answer=True), "typesetting", "odd number of dollars"),
        (olympiad("$t(0,4]$"), "typesetting", "stray character"),
        (olympiad("(1,2"), "typesetting", "bracket"),
        (olympiad("$n$, where $n$ is arbitrary"), "words", "arbitrary"),
    ],
)
def test_oddities_of_a_row(tmp_path: Path, row: dict[str, Any], kind: str, detail: str) -> None:
    assert any(f.kind == kind and detail in f.detail for f in lint(tmp_path, "olympiadbench", row))


@pytest.mark.parametrize("answer", ["25", "$2^{1009}$", "$(2,4)$", "$(-\\infty,-5)$", "$\\lfloor n/2\\rfloor$"])
def test_plain_answers_are_not_odd(tmp_path: Path, answer: str) -> None:
    assert lint(tmp_path, "olympiadbench", olympiad(answer)) == []


def test_duplicates_and_answers_out_of_range(tmp_path: Path) -> None:
    rows = [
        {"problem": p, "answer": a} for p, a in [("Find  X.", "007"), ("find x.", "7"), ("Y?", "1000"), ("Z?", "-1")]
    ]
    found = [(f.row, f.kind) for f in lint(tmp_path, "aime24", *rows)]
    assert found == [(1, "duplicate"), (2, "out_of_range"), (3, "out_of_range")]


def test_a_reference_the_grader_does_not_accept_for_itself_is_reported(tmp_path: Path) -> None:
    spec = BENCHMARKS["math500"]
    (tmp_path / spec.file).write_text(json.dumps([{"problem": "?", "answer": "x"}]))
    problems = load_benchmark("math500", tmp_path, allow_changed=True).problems

    def deaf(item: GradeItem) -> Verdict:
        return Verdict(Outcome.TIMEOUT, 0.0)

    (finding,) = lint_benchmark(spec, [{"answer": "x"}], problems, deaf)
    assert (finding.kind, finding.detail.split()[:2]) == ("unreadable", ["x:", "timeout"])


def test_commas_at_the_top_level_separate_answers() -> None:
    assert top_level_items("(1, 2), (3, 4)") == ["(1,2)", "(3,4)"]
    assert top_level_items("58,500") == ["58,500"]
    assert top_level_items("11,\\! 111,\\! 100") == ["11,\\! 111,\\! 100"]
    assert top_level_items("2500, 7500") == ["2500", "7500"]


def test_the_command_writes_page_and_table_of_all_five(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    lint_benchmarks(shared("data", "benchmarks"), out=out)
    page = (out / "benchmarks-lint.md").read_text()
    assert all(BENCHMARKS[name].title in page for name in COMPETITION)
    for row in reviewed_rows("minerva"):
        assert f"\n| {row} | " in page
    assert {f["row"] for f in json.loads((out / "benchmarks-lint.json").read_text()) if f["kind"] == "unit"} >= {137}
    assert sorted(p.name for p in out.iterdir()) == ["benchmarks-lint.json", "benchmarks-lint.md"]
    assert "minerva" in capsys.readouterr().out


def test_the_page_says_when_a_file_is_not_the_registered_one(tmp_path: Path) -> None:
    for spec in map(BENCHMARKS.__getitem__, COMPETITION):
        rows = json.loads(shared("data", "benchmarks", spec.file).read_text())
        (tmp_path / spec.file).write_text(json.dumps(rows[:50]))
    lint_benchmarks(tmp_path, out=tmp_path / "out")
    page = (tmp_path / "out" / "benchmarks-lint.md").read_text()
    assert page.count("not the registered file") == 5
    assert "\n| 48 | " in page and "\n| 55 | " not in page  # of the reviewed rows those that are still there
