"""Stored completions graded again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from deepscaler.config.evaluation import EvalRecipe
from deepscaler.evaluation.regrade import regrade
from deepscaler.evaluation.samples import read_results
from deepscaler.loop.evaluate import evaluate_endpoint, grader_settings
from deepscaler.rewards.isolation.pool import TRUNCATED, make_grader
from deepscaler.types import GradeItem, Outcome, Verdict
from evaluation_jobs import REPLY, job, table
from scripted_server import ScriptedServer
from server_script import Faults, Script


def test_regrading_changes_what_the_grader_changed_and_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer(Script(REPLY, faults=Faults(truncated=0.1))) as server:
        evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=2"))
        before, rows = read_results(tmp_path), table(tmp_path)
        recipe = EvalRecipe()
        with make_grader(recipe.grader) as grader:
            same = regrade(tmp_path, grader, grader_settings(recipe.grader))
        assert not same.changed and table(tmp_path) == rows
        assert json.loads((tmp_path / "results.1.json").read_text()) == before

        class Harsh:
            """A grader that accepts nothing."""

            def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
                return [TRUNCATED if item.truncated else Verdict(Outcome.WRONG, 0.0, "x", "harsh") for item in items]

        harsh = regrade(tmp_path, Harsh(), {**grader_settings(recipe.grader), "version": "harsh"})
        right = sum(r["outcome"] == "correct" for r in rows)
        assert harsh.transitions["correct", "wrong"] == len(harsh.changed) == right > 0
        assert harsh.transitions["truncated", "truncated"] == sum(r["outcome"] == "truncated" for r in rows) > 0
        assert harsh.results.average.mean == 0.0 and harsh.old_results.name == "results.2.json"
        assert harsh.results.content["regraded"]["changes"] == {"correct -> wrong": right}
        # The store knows: going on with the old grader would mix verdicts.
        with pytest.raises(ValueError, match=r"grader.version.*deepscaler regrade"):
            evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=2"))
