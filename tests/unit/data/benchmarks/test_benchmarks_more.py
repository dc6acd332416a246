"""Benchmarks beside the five: references the grader accepts, the hub's layouts, choices under letters, subsets."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepscaler.config.evaluation import COMPETITION, NINE, SuiteSection, load_evaluation, settings_of
from deepscaler.config.schema import RecipeError
from deepscaler.data.benchmarks.load import BENCHMARKS, load_benchmark
from deepscaler.data.benchmarks.specs import BenchmarkSpec
from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.sources.readers import DataError
from deepscaler.evaluation.datasets import limited, load_suite
from deepscaler.evaluation.published import published, published_beside
from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Outcome
from shared_data import shared


@pytest.mark.parametrize("name", ["aime25", "hmmt25", "brumo25", "cmimc25", "gsm8k"])
def test_every_reference_is_right_by_the_grader(name: str) -> None:
    problems = load_benchmark(name, shared("data", "more")).problems
    wrong = [p.id for p in problems[:100] if _graded(p.references) is not Outcome.CORRECT]
    assert wrong == []


def _graded(references: tuple[str, ...]) -> Outcome:
    return grade(GradeItem(f"\\boxed{{{references[0]}}}", references, thinking_prefilled=False)).outcome


@pytest.mark.parametrize("spec", [BENCHMARKS[name] for name in BENCHMARKS if name not in COMPETITION])
def test_what_is_recorded_of_a_benchmark_is_whole(spec: BenchmarkSpec) -> None:
    assert len(spec.hub.revision) == 40 and spec.licence and spec.num_problems > 0
    assert all(len(digest) == 64 for digest in spec.sha256) and bool(spec.sha256) == bool(spec.rows_sha256)
    assert {"problem", "answer"} <= spec.fields.keys() and {"problem", "answer"} <= spec.hub.fields.keys()


def test_math_reads_its_answers_out_of_the_solutions(tmp_path: Path) -> None:
    rows = [{"problem": "Solve.", "solution": "So $x = \\boxed{\\frac12}$.", "level": "Level 4", "type": "Algebra"}]
    (tmp_path / "math" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "math" / "data" / "test-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(rows * 3), tmp_path / "math" / "data" / "train-00000-of-00001.parquet")
    loaded = load_benchmark("math", tmp_path)
    (problem,) = loaded.problems
    assert (problem.references, problem.difficulty, problem.source) == (("\\frac12",), 4.0, "math/Algebra")
    assert not loaded.registered and "1 problem, the whole has 5000" in loaded.warnings[0]


def gpqa(directory: Path, **changes: str) -> Path:
    row = {
        "Question": "Which is it?", "Correct Answer": "this", "Incorrect Answer 1": "that",
        "Incorrect Answer 2": "those", "Incorrect Answer 3": "none", "High-level domain": "Physics", **changes,
    }  # fmt: skip
    (directory / "gpqa_diamond").mkdir(parents=True)
    for name in ("gpqa_diamond", "gpqa_extended"):
        with (directory / "gpqa_diamond" / f"{name}.csv").open("w") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row if name == "gpqa_diamond" else dict.fromkeys(row, "other"))
    return directory


def test_gpqa_lists_its_choices_and_asks_for_a_letter(tmp_path: Path) -> None:
    loaded = load_benchmark("gpqa_diamond", gpqa(tmp_path))
    (problem,) = loaded.problems
    assert problem.answer_kind == loaded.origin["answer_kind"] == "letter"
    assert loaded.origin["choice_order"] == "drawn by row content"
    lines = problem.prompt.split("\n")
    assert lines[:2] == ["Which is it?", ""] and [line[:3] for line in lines[2:]] == ["A) ", "B) ", "C) ", "D) "]
    assert f"{problem.references[0]}) this" in lines
    asked = PromptFormat("the suite's").question(problem)
    assert asked.endswith("the letter of the right choice within \\boxed{}.") and "the suite's" not in asked
    with pytest.raises(DataError, match="field 'Incorrect Answer 2': expected a choice's text"):
        load_benchmark("gpqa_diamond", gpqa(tmp_path / "other", **{"Incorrect Answer 2": ""}))


def test_published_rows_are_those_of_the_sets() -> None:
    nine = published("nine")
    assert tuple(nine.columns) == NINE and published_beside(NINE) == published_beside(["hmmt25"]) == nine
    assert published_beside(COMPETITION) == published_beside(["gsm8k"]) == published("competition")
    whole = [row for row in nine.rows if len(row.scores) == len(NINE)]
    assert len(whole) == 4
    for row in whole:
        assert row.average == pytest.approx(sum(row.scores.values()) / len(NINE), abs=3e-4)


def test_a_seeded_subset_is_part_of_a_larger_one_and_of_the_settings() -> None:
    problems = load_benchmark("aime24", shared("data", "benchmarks")).problems
    ten, five = (limited("aime24", problems, n, 3) for n in (10, 5))
    assert len(ten) == 10 and set(five) < set(ten) and list(ten) != list(problems[:10])
    assert [p.id for p in ten] == sorted((p.id for p in ten), key=lambda i: int(i.split("/")[1]))
    assert list(limited("aime24", problems, 5, 4)) != list(five) and limited("aime24", problems, 99, 3) == problems
    suite = SuiteSection(benchmarks=("aime24",), limit=5, limit_seed=3)
    assert list(load_suite(suite, shared("data", "benchmarks")).sets["aime24"]) == list(five)
    first, drawn = (
        settings_of(load_evaluation(None, o)) for o in (["suite.limit=5"], ["suite.limit=5", "suite.limit_seed=3"])
    )
    assert "limit_seed" not in first and drawn["limit_seed"] == 3
    with pytest.raises(RecipeError, match=r"set suite\.limit, or remove it"):
        load_evaluation(None, ["suite.limit_seed=3"])
