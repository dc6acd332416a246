"""Preparation: every row is accounted for, bad rows leave with a reason, and the real duplicates are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepscaler.data.prepare.files import contamination, write_preparation
from deepscaler.data.prepare.preparation import Settings, prepare
from deepscaler.data.sources.layouts import Columns
from deepscaler.data.sources.load import load_problems
from deepscaler.data.sources.readers import DataError
from deepscaler.data.sources.rows import MAX_PROBLEM_CHARACTERS, normalize_text
from hang_guard import hang_guard
from prepared_rows import GOOD, benchmark, dropped, run, tools


@pytest.mark.parametrize(
    ("row", "reason", "field"),
    [
        ({"problem": "x", "answer": None}, "missing_answer", "answer"),
        ({"problem": "x"}, "missing_answer", "answer"),
        ({"problem": "x", "answer": []}, "missing_answer", "answer"),
        ({"problem": "x", "answer": "  "}, "empty_answer", "answer"),
        ({"problem": "x", "answer": ["", " "]}, "empty_answer", "answer"),
        ({"problem": "x", "answer": True}, "wrong_type", "answer"),
        ({"problem": "x", "answer": {"value": 2}}, "wrong_type", "answer"),
        ({"problem": "x", "answer": float("nan")}, "wrong_type", "answer"),
        ({"problem": "x", "answer": [1, [2]]}, "wrong_type", "answer"),
        ({"problem": "x", "answer": "what?"}, "unparsable_answer", ""),
        ({"problem": "x", "answer": "\ud800"}, "broken_text", "answer"),
        ({"problem": None, "answer": "1"}, "missing_problem", "problem"),
        ({"answer": "1"}, "missing_problem", "problem"),
        ({"problem": 5, "answer": "1"}, "wrong_type", "problem"),
        ({"problem": ["x"], "answer": "1"}, "wrong_type", "problem"),
        ({"problem": "\udfff", "answer": "1"}, "broken_text", "problem"),
        ({"problem": "x" * (MAX_PROBLEM_CHARACTERS + 1), "answer": "1"}, "overlong_problem", "problem"),
        ({"problem": "Prove that $n^2+n$ is even.", "answer": "n(n+1)"}, "proof_like", ""),
        ({"problem": "How large is it?", "answer": "See the solution above"}, "proof_like", ""),
        ("only text", "wrong_type", ""),
        (None, "wrong_type", ""),
    ],
)
def test_a_row_that_cannot_be_used_leaves_with_file_row_and_field(
    tmp_path: Path, row: Any, reason: str, field: str
) -> None:
    done = run(tmp_path, [*GOOD, row])
    assert list(dropped(done)) == [3]
    found, detail = dropped(done)[3]
    assert found == reason
    assert f"{tmp_path / 'rows.json'}, row 3" in detail
    assert f"field '{field}'" in detail or not field
    assert len(done.train) == len(GOOD)


def test_show_that_with_a_question_is_no_proof(tmp_path: Path) -> None:
    rows = [*GOOD, {"problem": "Show that the sum is constant, and find its value.", "answer": "12"}]
    assert not dropped(run(tmp_path, rows))


def test_every_row_is_kept_or_dropped_once_and_counted(tmp_path: Path) -> None:
    rows = [*GOOD, *GOOD, {"problem": "x", "answer": None}, {"problem": "y: the sum of 4 and 5 and 6?", "answer": "15"}]
    done = run(tmp_path, rows, validation_frac=0.5)
    places = [*done.train["row"].to_pylist(), *done.validation["row"].to_pylist(), *dropped(done)]
    assert sorted(places) == list(range(len(rows)))
    for before, after in zip(done.steps, done.steps[1:], strict=False):
        assert before.rows_out == after.rows_in
    assert all(step.rows_in - step.rows_out == sum(step.reasons.values()) for step in done.steps)


def test_duplicates_leave_and_the_first_stays(tmp_path: Path) -> None:
    copy = GOOD[1] | {"problem": "A farmer has 17 sheep, and all but $9$ run away.  How many sheep are left?"}
    done = run(tmp_path, [*GOOD, copy])
    assert dropped(done)[3][0] == "duplicate_verbatim"
    assert "rows.json row 1, which stays" in dropped(done)[3][1]


def test_conflicting_answers_are_reported_and_none_is_trusted(tmp_path: Path) -> None:
    done = run(tmp_path, [*GOOD, GOOD[1] | {"answer": "8"}])
    assert {row: reason for row, (reason, _) in dropped(done).items()} == dict.fromkeys((1, 3), "conflicting_answers")
    assert 'row 1 says "9"' in dropped(done)[1][1]
    assert 'row 3 says "8"' in dropped(done)[1][1]
    assert [conflict.rows for conflict in done.conflicts] == [(1, 3)]


def test_other_numbers_are_other_problems(tmp_path: Path) -> None:
    variant = {"problem": "How many primes are there between 30 and 40?", "answer": "2"}
    assert not dropped(run(tmp_path, [*GOOD, variant]))


def test_benchmark_problems_leave_and_are_named(tmp_path: Path) -> None:
    tests = benchmark((GOOD[1]["problem"].upper(), "9"), ("How many primes are there between 40 and 50?", "3"))
    done = run(tmp_path, GOOD, benchmarks=(tests,))
    assert dropped(done)[1][0] == "contaminated"
    benchmarks: Any = contamination(done, [tests])["benchmarks"]
    report = benchmarks["tiny"]
    assert report["problems"] == ["tiny/0"]
    assert (report["matches"][0]["row"], report["matches"][0]["match"]) == (1, "verbatim")


def test_a_duplicate_that_left_still_gives_its_problem_away(tmp_path: Path) -> None:
    """Row 0 asks in the contest's form, row 1 plainly; only the plain one is the benchmark's problem word for word."""
    setting = "Two points are drawn at random on a unit circle and a stick of length 2 lies across the middle of it. "
    asked = "The chance that they meet is $m/n$ where $m$ and $n$ are relatively prime. Find $m+n$."
    contest = {"problem": setting + asked, "answer": "25"}
    plain = {"problem": setting + "Find the chance that they meet.", "answer": "\\frac{7}{18}"}
    other = benchmark((plain["problem"], plain["answer"]))
    done = run(tmp_path, [contest, plain, *GOOD], benchmarks=(other,))
    reasons = {row: reason for row, (reason, _) in dropped(done).items()}
    assert reasons == {0: "contaminated", 1: "duplicate_encoded"}


def test_a_row_that_holds_a_whole_benchmark_problem_is_contaminated(tmp_path: Path) -> None:
    asked = "Let $a$, $b$ and $c$ be the sides of a triangle with perimeter 12 and area 6. What is its inradius?"
    row = {"problem": f"Warm up first. {asked} Then double the result.", "answer": "2"}
    done = run(tmp_path, [*GOOD, row], benchmarks=(benchmark((asked, "1")),))
    assert dropped(done)[3][0] == "contaminated"
    assert "contained" in dropped(done)[3][1]


def test_long_prompts_leave_under_the_given_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(GOOD))
    count = tools(prompt_tokens=lambda problems: [len(problem.prompt.split()) for problem in problems])
    done = prepare([tmp_path / "rows.json"], (), Settings(Columns(), max_prompt_tokens=10), count)
    assert {row: reason for row, (reason, _) in dropped(done).items()} == {1: "overlong_prompt"}
    assert "16 tokens, at most 10" in dropped(done)[1][1]


def test_the_split_depends_on_text_and_seed_alone(tmp_path: Path) -> None:
    rows = [{"problem": f"What is {n} times {n + 7}?", "answer": str(n * (n + 7))} for n in range(100, 400)]
    first = run(tmp_path, rows, validation_frac=0.2, seed=4)
    again = run(tmp_path, list(reversed(rows[50:])), validation_frac=0.2, seed=4)
    other = run(tmp_path, rows, validation_frac=0.2, seed=5)
    held_out = set(first.validation["problem"].to_pylist())
    assert 40 <= len(held_out) <= 80
    assert set(again.validation["problem"].to_pylist()) == held_out & {row["problem"] for row in rows[50:]}
    assert set(other.validation["problem"].to_pylist()) != held_out


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("cafe\u0301", "café"),
        ("x\u00a0=\u20091", "x = 1"),
        ("\ufeffone\u200b two ", "one two"),
        ("a  \n\n\n\nb", "a\n\nb"),
        ("$\\frac{1}{2}\\ \n+ x^{2}$", "$\\frac{1}{2}\\ \n+ x^{2}$"),
    ],
)
def test_text_is_normalised_and_mathematics_left_alone(text: str, normalized: str) -> None:
    assert normalize_text(text) == normalized == normalize_text(normalized)


@pytest.mark.parametrize("layout", ["verl", "trl"])
def test_other_layouts_hold_the_same_problems(tmp_path: Path, layout: Any) -> None:
    done = run(tmp_path, GOOD)
    write_preparation(done, (), Settings(Columns(instruction="Think.")), tmp_path / "out", layout=layout)
    read = load_problems(tmp_path / "out" / "train.parquet", instruction="Think.")
    assert [(p.prompt, p.references) for p in read] == [
        (row["problem"], tuple(row["answer"])) for row in done.train.to_pylist()
    ]


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no row of .*rows\.json is left to train on \(lint: \{'empty_answer': 1\}\)"):
        run(tmp_path, [{"problem": "x", "answer": ""}])


def test_a_wrong_column_name_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"rows\.json: no row has a field 'problem' .* question, answer\. .*--problem-col"
    ):
        run(tmp_path, [{"question": "x", "answer": "1"}])
    with pytest.raises(DataError, match=r"no row has a field 'answer' .* problem, result\. .*--answer-column"):
        run(tmp_path, [{"problem": "x", "result": "1"}])


def test_repeated_ids_are_reported(tmp_path: Path) -> None:
    rows = [row | {"id": "same"} for row in GOOD[:2]]
    done = run(tmp_path, rows)
    assert done.warnings == [f"{tmp_path / 'rows.json'}, row 1, field 'id': \"same\" is also the id of row 0"]
    assert len(done.train) == 2


def test_nested_verl_rows_and_csv_come_in(tmp_path: Path) -> None:
    rows = [
        {"data_source": "s", "prompt": [{"role": "user", "content": row["problem"]}],
         "reward_model": {"style": "rule", "ground_truth": str(row["answer"])}, "extra_info": {"index": n}}
        for n, row in enumerate(GOOD)
    ]  # fmt: skip
    rows.append(rows[0] | {"reward_model": {"style": "rule", "ground_truth": None}, "extra_info": {"index": 9}})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "nested.parquet")
    (tmp_path / "more.csv").write_bytes(b'problem,answer\r\n"What is 2,\r\nplus 5?",7\r\n"What is 3 plus 5?",\r\n')
    done = prepare([tmp_path / "nested.parquet", tmp_path / "more.csv"], (), Settings(Columns()), tools())
    assert done.train["problem"].to_pylist()[-1] == "What is 2,\nplus 5?"
    gone = [(Path(row["source"]).name, row["row"], row["reason"]) for row in done.dropped_table().to_pylist()]
    assert gone == [("nested.parquet", 3, "missing_answer"), ("more.csv", 1, "empty_answer")]
    assert "field 'reward_model.ground_truth'" in done.dropped_table()["detail"].to_pylist()[0]


def test_rows_of_ten_megabytes_pass_quickly(tmp_path: Path) -> None:
    rows = [
        *GOOD,
        {"problem": "x" * 10_000_000, "answer": "1"},
        {"problem": "y", "answer": "1", "solution": "z" * 10_000_000},
    ]
    with hang_guard("rows of 10 MB"):
        done = run(tmp_path, rows)
    assert dropped(done) == {3: ("overlong_problem", f"{tmp_path / 'rows.json'}, row 3, field 'problem': "
                                 f"10,000,000 characters, at most {MAX_PROBLEM_CHARACTERS:,}")}  # fmt: skip
