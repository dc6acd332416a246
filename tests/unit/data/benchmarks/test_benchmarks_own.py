"""A benchmark of one's own: any file, any columns, and one clear message for what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from deepscaler.config.evaluation import SUITES, SuiteSection, suite_entries
from deepscaler.data.benchmarks.load import BENCHMARKS, LoadedBenchmark
from deepscaler.data.benchmarks.own import find_own, load_own
from deepscaler.data.sources.readers import DataError
from deepscaler.evaluation.datasets import load_suite

ROWS = [{"q": "1+1?", "a": "2"}, {"q": "Half?", "a": ["0.5", "1/2"]}]


def write(path: Path, rows: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(entry: str, directory: Path | None = None) -> LoadedBenchmark:
    return load_own(find_own(entry, directory, (*SUITES, *BENCHMARKS)))


def defined(tmp_path: Path, definition: str, rows: Sequence[object]) -> LoadedBenchmark:
    write(tmp_path / "rows.jsonl", rows)
    (tmp_path / "mine.toml").write_text(definition)
    return load(str(tmp_path / "mine.toml"))


def test_a_file_and_two_columns_are_a_benchmark(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", ROWS)
    datasets = load_suite(SuiteSection(benchmarks=tuple(suite_entries(f"mine={file}:q,a"))), None)
    problems = datasets.sets["mine"]
    assert [(p.id, p.prompt, p.references) for p in problems] == [
        ("mine/0", "1+1?", ("2",)),
        ("mine/1", "Half?", ("0.5", "1/2")),
    ]
    identity = datasets.identity["mine"]
    assert identity["own"] is True and identity["num_problems"] == 2
    assert identity["columns"] == {"problem": "q", "answer": "a"}
    write(file, [*ROWS[:1], {"q": "Half?", "a": "0.6"}])
    changed = load_suite(SuiteSection(benchmarks=(f"mine={file}:q,a",)), None).identity["mine"]
    assert changed["file_sha256"] != identity["file_sha256"] and changed["rows_sha256"] != identity["rows_sha256"]


def test_entries_of_a_suite_are_told_apart() -> None:
    assert suite_entries("aime24,mine=x.csv:q,a,gsm8k") == ["aime24", "mine=x.csv:q,a", "gsm8k"]
    assert suite_entries("mine=x.csv,gsm8k") == ["mine=x.csv", "gsm8k"]
    assert suite_entries("a=x.csv:q,b=y.csv:q,r") == ["a=x.csv:q", "b=y.csv:q,r"]
    assert suite_entries("nine,gsm8k") == [*SUITES["nine"], "gsm8k"]


def test_a_definition_in_a_folder_of_ones_own_is_found_by_name(tmp_path: Path) -> None:
    write(tmp_path / "data" / "rows.jsonl", [{"problem": "How much?", "answer": "2.50", "key": "x", "level": 3}])
    text = """
        title = "Prices"
        file = "data/rows.jsonl"
        answer = "number"
        relative_tolerance = 0.02
        instruction = "Answer in dollars within \\\\boxed{}."
        licence = "CC0"
        [columns]
        id = "key"
        difficulty = "level"
    """
    (tmp_path / "prices.toml").write_text(text)
    loaded = load("prices", tmp_path)
    (problem,) = loaded.problems
    assert (loaded.name, problem.id, problem.difficulty) == ("prices", "prices/x", 3.0)
    assert problem.tolerance == pytest.approx(0.05) and problem.instruction == "Answer in dollars within \\boxed{}."
    assert loaded.origin["licence"] == "CC0" and loaded.origin["relative_tolerance"] == 0.02
    assert load(f"other={tmp_path / 'prices.toml'}").name == "other"


@pytest.mark.parametrize(
    ("row", "choices", "letter"),
    [
        ({"problem": "A) 1 B) 2", "answer": "(b)"}, "", "B"),
        ({"problem": "?", "answer": 1, "options": ["x", "y"]}, 'choices = "options"', "B"),
        ({"problem": "?", "answer": "A", "options": ["x", "y"]}, 'choices = "options"', "A"),
        ({"problem": "?", "answer": "y", "options": ["x", "y"]}, 'choices = "options"', "B"),
    ],
)
def test_the_right_letter_is_read_however_it_is_given(
    tmp_path: Path, row: dict[str, object], choices: str, letter: str
) -> None:
    loaded = defined(tmp_path, f'file = "rows.jsonl"\nanswer = "letter"\n[columns]\n{choices}\n', [row])
    (problem,) = loaded.problems
    assert problem.references == (letter,) and problem.answer_kind == "letter"
    assert "options" not in row or problem.prompt == "?\n\nA) x\nB) y"


def test_choices_in_columns_are_listed_in_an_order_of_their_own(tmp_path: Path) -> None:
    rows = [{"problem": f"{n}?", "answer": "yes", "no1": "no", "no2": "never"} for n in range(40)]
    text = 'file = "rows.jsonl"\nanswer = "letter"\n[columns]\nchoices = ["no1", "no2"]\n'
    loaded = defined(tmp_path, text, rows)
    assert {p.references[0] for p in loaded.problems} == {"A", "B", "C"}
    for problem in loaded.problems:
        assert f"{problem.references[0]}) yes" in problem.prompt
    assert loaded.problems[:7] == defined(tmp_path, text, rows[:7]).problems


MATH = 'file = "rows.jsonl"\n'
GOOD = {"problem": "1+1?", "answer": "2"}


@pytest.mark.parametrize(
    ("definition", "rows", "message"),
    [
        (MATH, [], "holds no rows; a benchmark needs at least one problem"),
        (MATH, [{"problem": "1+1?"}], "row 0: no field 'answer', which"),
        (MATH, [GOOD, {"problem": "2+2?", "answer": None}], "row 1, field 'answer': no answer"),
        (MATH, [GOOD, {"problem": "2+2?", "answer": " "}], "row 1, field 'answer': empty answer"),
        (MATH, [GOOD, {"problem": "", "answer": "4"}], "row 1, field 'problem': expected a problem's text"),
        (MATH, ["text"], "row 0: expected an object with fields, found str"),
        (MATH + '[columns]\nproblem = "problm"\n', [GOOD], "no field 'problm', which .* did you mean 'problem'?"),
        (MATH + '[columns]\nid = "answer"\n', [GOOD, GOOD], r"row 1, field 'answer': same id as row 0 \(mine/2\)"),
        (MATH + 'tolerence = 0.1\n', [GOOD], r"mine.toml: tolerence: unknown key; did you mean tolerance\?"),
        (MATH + 'answer = "numbr"\n', [GOOD], "answer: expected one of 'math', 'number' or 'letter'"),
        (MATH + "tolerance = 0.1\n", [GOOD], 'a tolerance is for numbers; set answer = "number"'),
        (MATH + 'answer = "number"\n', [GOOD, {"problem": "?", "answer": "x"}], 'row 1, field .*"x" is no number'),
        (MATH + 'answer = "letter"\n', [GOOD], "row 0, field 'answer': expected a letter"),
        (MATH + "[columns\n", [GOOD], "mine.toml: not valid TOML"),
        ("answer = \"math\"\n", [GOOD], "file: missing"),
        (MATH + 'name = "aime24"\n', [GOOD], "aime24 is a built-in benchmark or suite"),
        (MATH + 'name = "my set"\n', [GOOD], "'my set' is no name for a benchmark"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_message(
    tmp_path: Path, definition: str, rows: list[object], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        defined(tmp_path, definition, rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("aime42", "unknown benchmark 'aime42'; did you mean aime2[45]?"),
        ("nine=x.csv", "nine is a built-in benchmark or suite"),
        ("mine=", "names no file"),
        ("mine=missing.csv", "missing.csv does not exist"),
        ("mine=x.csv:q", "expected NAME=FILE:PROBLEM,ANSWER, two columns"),
        ("missing.toml", "missing.toml: the benchmark's definition cannot be read"),
    ],
)
def test_an_entry_that_names_nothing_usable_is_refused(entry: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(entry)


def test_two_benchmarks_of_one_name_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(ValueError, match="two benchmarks of the suite are called mine"):
        load_suite(SuiteSection(benchmarks=(f"mine={file}:q,a", f"mine={file}:q,a")), None)


def test_a_part_of_it_says_how_much_the_whole_has(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", ROWS)
    suite = SuiteSection(benchmarks=(f"mine={file}:q,a",), limit=1)
    assert load_suite(suite, None).identity["mine"]["num_whole"] == 2
    assert "num_whole" not in load_suite(suite.model_copy(update={"limit": 2}), None).identity["mine"]


def test_a_problem_that_is_there_twice_is_said(tmp_path: Path) -> None:
    loaded = defined(tmp_path, MATH, [GOOD, GOOD])
    assert loaded.warnings == ("problems that are asked twice count twice: rows 1 like 0",)
