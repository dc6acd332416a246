"""One problem in many copies, spellings and wrappings; and neighbours in the same words that are others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepscaler.data.benchmarks.load import LoadedBenchmark, load_benchmark
from deepscaler.data.prepare.normalize import letter_text, words
from deepscaler.data.prepare.preparation import Preparation, Settings, Tools, prepare
from deepscaler.data.prepare.similarity import holds_letters
from deepscaler.data.prepare.whole_text import WIDTH, beginnings
from deepscaler.data.sources.layouts import Columns
from deepscaler.types import Problem
from shared_data import shared

OTHER = {"problem": "How many primes are there between 20 and 30?", "answer": "2"}
OUTER = {"problem": "Evaluate $88 \\div (4 \\div 2)$.", "answer": "44"}
INNER = {"problem": "Evaluate $88 \\div 4 \\div 2$.", "answer": "11"}


def run(tmp_path: Path, rows: list[dict[str, str]], *benchmarks: LoadedBenchmark) -> Preparation:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    return prepare([path], benchmarks, Settings(Columns()), Tools(lambda a, b: a == b, bool))


def kept(done: Preparation) -> list[int]:
    return sorted(done.train["row"].to_pylist())


@pytest.mark.parametrize(
    "order", [(OUTER, INNER, INNER, OUTER, INNER), (INNER, OUTER, OUTER, OUTER, INNER), (OUTER, INNER, INNER)]
)
def test_copies_leave_though_another_problem_has_their_tokens(
    tmp_path: Path, order: tuple[dict[str, str], ...]
) -> None:
    """Brackets are no tokens: `88 / (4 / 2)` and `88 / 4 / 2` have the same and are two problems."""
    assert words(OUTER["problem"]) == words(INNER["problem"])
    done = run(tmp_path, [*order, OTHER])
    assert kept(done) == [0, order.index(INNER) or order.index(OUTER), len(order)]
    assert not done.conflicts


def test_of_two_problems_with_the_same_tokens_one_may_conflict(tmp_path: Path) -> None:
    done = run(tmp_path, [OUTER, INNER, INNER | {"answer": "12"}, OTHER])
    assert [conflict.rows for conflict in done.conflicts] == [(1, 2)]
    assert kept(done) == [0, 3]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("已知 $x+3=10$,求 $x$ 的值。", "已知 $x+3=10$,求 $x$ 的值."),
        ("已知 $x+3=10$、求 $x$ 的值｡", "已知 $x+3=10$,求 $x$ 的值"),
        ("What does “twice 7” come to here?", 'What does "twice 7" come to here?'),
        ("Let $xyz=2$ and $pqr=3$. Find $xyzpqr$.", "Let xyz=2 and pqr=3. Find xyzpqr."),
    ],
)
def test_punctuation_and_dollars_make_no_other_problem(tmp_path: Path, one: str, other: str) -> None:
    assert letter_text(one).strip("\"'") == letter_text(other).strip("\"'")
    rows = [{"problem": text, "answer": "7"} for text in (one, other)]
    assert kept(run(tmp_path, [*rows, OTHER])) == [0, 2]
    conflicting = run(tmp_path, [rows[0], rows[1] | {"answer": "8"}, OTHER])
    assert [conflict.rows for conflict in conflicting.conflicts] == [(0, 1)]


@pytest.fixture(scope="module")
def math500() -> LoadedBenchmark:
    return load_benchmark("math500", shared("data", "benchmarks"))


def wrapped(problem: Problem) -> list[str]:
    """The ways in which people put a problem into a file."""
    text = problem.prompt
    bare = text.replace("$", "").replace("\\[", "").replace("\\]", "")
    return [
        text, bare, f"Solve the following problem. {text}", f"{text} Please reason step by step.",
        f"Problem 3. {text} Show all of your work.", f"Answer this question: {bare} Box the result.",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [20, 147, 80, 212, 399])
def test_a_benchmark_problem_without_dollars_or_wrapped_is_found(
    tmp_path: Path, math500: LoadedBenchmark, number: int
) -> None:
    problem = math500.problems[number]
    for text in wrapped(problem):
        done = run(tmp_path, [{"problem": text, "answer": problem.references[0]}, OTHER], math500)
        found = {f.problem.id for f in done.findings if f.contaminates and f.row == 0}
        assert problem.id in found, text
        assert kept(done) == [1]


def test_a_problem_that_goes_on_where_the_benchmarks_ends_is_another(tmp_path: Path, math500: LoadedBenchmark) -> None:
    """math500/20 is `Evaluate $(1+2i)6-3i$.` with the answer 6+9i."""
    rows = [
        {"problem": "Evaluate $(1+2i)6-3i+4$.", "answer": "10+9i"},
        {"problem": "Evaluate $(1+2i)6-3i$ for $i=2$.", "answer": "24"},
        OTHER,
    ]
    assert kept(run(tmp_path, rows, math500)) == [0, 1, 2]


def test_a_part_must_say_enough_and_end_where_its_numbers_do() -> None:
    assert holds_letters("solve:evaluate(1+2i)6-3inow", "evaluate(1+2i)6-3i")
    assert not holds_letters("whatisthevalueofx?", "valueofx?")
    assert not holds_letters("ifx=2whatisthevalueofx?", "whatisthevalueofx?")  # no number, and short
    assert not holds_letters("whatis12+310here", "whatis12+31")
    assert not holds_letters("112+3isasum:112+3", "12+3isasum:112+3")


def test_every_place_where_a_part_begins_is_found() -> None:
    texts = ["x" * 30, "prefix" + "abcdefghijklmnopqrst" + "suffix", "", "abcdefghijklmnopqrst", "abcdefghijklmno"]
    parts = ["abcdefghijklmnopqrst", "short", "y" * WIDTH, "abcdefghijklmnop-other"]
    assert list(beginnings(texts, parts)) == [(1, 0), (1, 3), (3, 0), (3, 3)]
    assert list(beginnings(texts, ["short"])) == list(beginnings([], parts)) == []
    assert (1999, 0) in set(beginnings(["z"] * 1999 + ["a" * 5 + parts[0]], parts))
