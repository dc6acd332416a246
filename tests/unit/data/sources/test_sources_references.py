"""Answers inside answers' fields: bare ones stay, worked solutions give the answer they mark, prose gives none."""

from __future__ import annotations

import contextlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepscaler.cli import grade_rows
from deepscaler.cli.prepare import readable
from deepscaler.data.benchmarks.lint import lint_benchmark
from deepscaler.data.benchmarks.problems import clean_answer
from deepscaler.data.benchmarks.specs import BENCHMARKS
from deepscaler.data.prepare.preparation import Settings, Tools, prepare
from deepscaler.data.sources.broken_text import repair_latex
from deepscaler.data.sources.layouts import Columns, Fields
from deepscaler.data.sources.load import load_problems
from deepscaler.data.sources.question_lint import question_fault
from deepscaler.data.sources.readers import DataError
from deepscaler.data.sources.references import NoAnswerError, WrongTypeError, num_sentences, read_answers, value_in
from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Outcome, Problem, Verdict
from shared_data import shared

GSM8K = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nIn all she sold 48+24 = <<48+24=72>>72 clips.\n#### 72"
TRL = (
    "We must have either $x-1 = 7$ or $x-1=-7$.  If $x-1=7$, we have $x=8$, and if $x-1 = -7$, we have $x= -6$, so the "
    "sum of the possible values of $x$ is $8+(-6) = \\boxed{2}$."
)
PROSE = "Half of 48 clips is 24 clips. So she sold 72 clips in all."


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (GSM8K, "72"),
        (TRL, "2"),
        ("She adds them up.\n#### 110\nThe answer is: 110", "110"),
        ("#### Step 1: add all of the numbers.\nIt is \\boxed{5} then.", "5"),
        ("So it is 7.\n#### \\boxed{7}", "7"),
        ("First $\\boxed{1}$ was wrong. It is $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("$x = \\boxed{8}$ or $\\boxed{-6}$", "8,-6"),
        ("The value is \\boxed{\\{1, 2\\}} here.", "\\{1, 2\\}"),
        ("\\boxed 7", "7"),
        ("$\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"),
        ("2", "2"),
        ("  $\\frac12$ ", "$\\frac12$"),
        ("x = 3, y = 4", "x = 3, y = 4"),
        ("(A) Yes", "(A) Yes"),
        ("The answer is 72.", "The answer is 72."),
        ("\\text{even. odd. prime numbers}", "\\text{even. odd. prime numbers}"),
        ("\\begin{pmatrix}1 & 2\\\\\n3 & 4\\end{pmatrix}", "\\begin{pmatrix}1 & 2\\\\\n3 & 4\\end{pmatrix}"),
    ],
)
def test_the_marked_answer_is_read_and_a_bare_one_left(text: str, answer: str) -> None:
    assert read_answers(text) == read_answers([text]) == (answer,)


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "Half of 48 is twenty four\nThe whole is then 72 clips",
        "她四月卖出四十八个发夹。五月卖出二十四个，一共七十二个。",
        "Adding up.\n####",
        "We get \\boxed{72",
        "The box stays empty: \\boxed{ }",
    ],
)
def test_a_solution_that_marks_no_answer_has_none(text: str) -> None:
    with pytest.raises(NoAnswerError):
        read_answers(text)


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        (142.0, ("142",)),
        (1e-7, ("0.0000001",)),
        (0.1, ("0.1",)),
        (1e22, ("1" + "0" * 22,)),
        (-2.50, ("-2.5",)),
        (Decimal("72.00"), ("72",)),
        (Decimal("0.10"), ("0.1",)),
        (0, ("0",)),
        ('["34"]', ("34",)),
        ('["\\\\frac12", "0.5"]', ("\\frac12", "0.5")),
        ("[1, 2]", ("[1, 2]",)),
        (["1", None, 2.0], None),
        (float("inf"), None),
        (True, None),
    ],
)
def test_numbers_and_lists_are_written_as_answers_are(value: Any, answers: tuple[str, ...] | None) -> None:
    if answers is None:
        with pytest.raises(WrongTypeError):
            read_answers(value)
    else:
        assert read_answers(value) == answers


def test_a_sentence_is_three_words_and_formulas_are_one() -> None:
    assert num_sentences("Half is 24. All of it is 72.") == 2
    assert num_sentences("$a. b. c$") == num_sentences("1. 2. 3.") == num_sentences("Yes. No. Maybe.") == 0


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("The answer is $\\frac12$.", "\\frac12"),
        ("She has 5 apples.", "5"),
        ("The total is -1,200.50 then.", "-1,200.50"),
        ("the answer is sqrt(2)", "the answer is sqrt(2)"),
        ("5 \\text{ cm}", "5 \\text{ cm}"),
        ("$1$ is the least, $2$ the greatest", "$1$ is the least, $2$ the greatest"),
    ],
)
def test_the_value_in_a_sentence_is_what_a_person_would_box(reference: str, value: str) -> None:
    assert value_in(reference) == value


def test_the_lint_asks_whether_the_value_is_graded_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not whether a text equals itself, which every text does."""
    assert readable("\\frac12") and readable("7")
    monkeypatch.setattr("deepscaler.cli.prepare.grade", _verdict)
    assert not readable("The answer surely is 72.")


def _verdict(item: GradeItem) -> Verdict:
    """Of a grader that compares letters."""
    correct = item.completion == f"\\boxed{{{item.references[0]}}}"
    return grade(GradeItem("\\boxed{1}", ["1" if correct else "2"], thinking_prefilled=False))


def test_gsm8k_and_trl_rows_are_trained_on_with_their_answers(tmp_path: Path) -> None:
    rows = [
        {"question": "How many clips?", "answer": GSM8K},
        {"question": "The sum of the roots?", "answer": TRL},
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    first, second = load_problems(path, prompt_field="question")
    assert (first.references, second.references) == (("72",), ("2",))
    assert grade(GradeItem("\\boxed{72}", first.references, thinking_prefilled=False)).outcome is Outcome.CORRECT


def test_a_verl_ground_truth_with_its_rationale_gives_the_answer(tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "How many?"}], "reward_model": {"ground_truth": GSM8K}}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    assert load_problems(path)[0].references == ("72",)


def test_a_trl_row_with_a_problem_and_a_solution_only_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"problem": "The sum of the roots?", "solution": TRL}))
    assert load_problems(path)[0].references == ("2",)


def test_prose_is_an_error_in_training_and_unparsable_in_preparation(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"problem": "a?", "answer": "1"}, {"problem": "How many?", "answer": PROSE}]))
    with pytest.raises(DataError, match=r"rows\.json, row 1, field 'answer': several sentences that mark no answer"):
        load_problems(path)
    done = prepare([path], (), Settings(Columns()), Tools(lambda a, b: a == b, readable))
    (gone,) = done.dropped_table().to_pylist()
    assert (gone["row"], gone["reason"]) == (1, "unparsable_answer") and "row 1, field 'answer'" in gone["detail"]


def test_a_benchmarks_worked_solution_gives_its_answer_or_is_named() -> None:
    spec = BENCHMARKS["math500"]
    assert clean_answer("math500.json, row 0", spec, {"answer": GSM8K}) == ("72",)
    with pytest.raises(DataError, match=r"math500\.json, row 0: several sentences"):
        clean_answer("math500.json, row 0", spec, {"answer": PROSE})


def test_every_solution_of_the_gsm8k_file_gives_a_number() -> None:
    problems = load_problems(shared("data", "more") / "gsm8k_test.jsonl", prompt_field="question")
    assert len(problems) == 1319
    assert all(problem.references[0].replace(",", "").lstrip("-").isdigit() for problem in problems)
    assert problems[0].references == ("18",)


@pytest.mark.parametrize(("name", "size"), [("aime25", 30), ("brumo25", 30), ("cmimc25", 40), ("hmmt25", 30)])
def test_other_peoples_evaluation_files_are_read_as_they_are(name: str, size: int) -> None:
    problems = load_problems(shared("data", "more") / f"{name}.parquet")
    assert len(problems) == size
    assert all(readable(reference) for problem in problems for reference in problem.references)


def test_saved_completions_are_graded_against_the_answers_that_solutions_mark(tmp_path: Path) -> None:
    rows = [{"response": "\\boxed{72}", "reference": text} for text in (GSM8K, "So it is \\boxed{72}.", PROSE)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = pa.table({"response": ["\\boxed{0.1}"], "reference": pa.array([0.1], pa.float32())})
    pq.write_table(table, tmp_path / "rows.parquet")
    columns = grade_rows.Columns("response", "reference")
    read = [
        list(row.item.references)
        for name in ("rows.jsonl", "rows.parquet")
        for row in grade_rows.read_rows(tmp_path / name, columns, thinking_prefilled=False)
    ]
    assert read == [["72"], ["72"], [PROSE], ["0.1"]]


def test_the_benchmark_lint_asks_for_the_value_in_a_reference() -> None:
    spec = BENCHMARKS["math500"]
    problem = Problem("math500/0", "How many?", ("The answer surely is 72.",))
    rows = [{"problem": problem.prompt, "answer": problem.references[0]}]
    findings = lint_benchmark(spec, rows, [problem], _verdict)
    assert "unreadable" in {finding.kind for finding in findings}


@pytest.mark.parametrize("part", ["\\boxed{", "\\[", "\\begin{a}", "####", "\\boxed", "$", "\to ", "![", "<|a"])
def test_texts_made_to_be_slow_are_read_in_time(part: str) -> None:
    """A quadratic reading of these would take minutes."""
    text = part * 200_000
    with contextlib.suppress(NoAnswerError):
        read_answers(text)
    repair_latex(text)
    question_fault(Fields(text[:50_000], "1", "problem", "answer"), text[:50_000])
