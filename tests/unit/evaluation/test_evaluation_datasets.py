"""Exactly which problems were asked, and none inside training that training holds."""

from __future__ import annotations

from dataclasses import replace

from deepscaler.config.evaluation import SuiteSection
from deepscaler.evaluation.datasets import describe, load_suite
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
