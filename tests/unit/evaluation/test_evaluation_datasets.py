"""Exactly which problems were asked, and none inside training that training holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepscaler.config.evaluation import SuiteSection
from deepscaler.data.benchmarks import load_benchmark
from deepscaler.evaluation.datasets import describe, load_suite, validation_subset
from deepscaler.types import Problem
from shared_data import shared


def test_one_changed_letter_or_reference_changes_the_identity() -> None:
    problem = Problem("p", "What?", ("1",))
    base = describe({"set": [problem]}).identity["set"]
    for other in (
        replace(problem, prompt="What!"),
        replace(problem, references=("2",)),
        replace(problem, tolerance=0.1),
    ):
        assert describe({"set": [other]}).identity["set"]["rows_sha256"] != base["rows_sha256"]
    assert describe({"set": [replace(problem, id="q", difficulty=3.0)]}).identity["set"] == base


def test_a_suite_knows_its_files_and_rows() -> None:
    directory = shared("data", "benchmarks")
    whole = load_suite(SuiteSection(), directory)
    assert sum(map(len, whole.sets.values())) == 1560
    assert all(len(whole.row_hashes[name]) == len(ps) for name, ps in whole.sets.items())
    cut = load_suite(SuiteSection(limit=7), directory)
    assert [len(ps) for ps in cut.sets.values()] == [7] * 5
    for name in cut.sets:
        assert cut.identity[name]["file_sha256"] == whole.identity[name]["file_sha256"]
        assert cut.identity[name]["rows_sha256"] != whole.identity[name]["rows_sha256"]


def test_the_validation_subset_is_fixed_and_disjoint_from_training() -> None:
    directory = shared("data", "benchmarks")
    math = load_benchmark("math500", directory).problems
    trained = [replace(p, id=f"t{i}", prompt=p.prompt.upper() + " ") for i, p in enumerate(math[:300])]
    sets, left_out = validation_subset(["aime24", "math500"], directory, 50, trained)
    assert left_out == 300 and [len(ps) for ps in sets.values()] == [30, 50]
    assert not {p.id for p in sets["math500"]} & {p.id for p in math[:300]}
    again, none = validation_subset(["math500"], directory, 50, [])
    assert none == 0 and again == validation_subset(["math500"], directory, 50, [])[0]
    with pytest.raises(ValueError, match="unknown benchmark"):
        validation_subset(["aime99"], directory, 5, [])
