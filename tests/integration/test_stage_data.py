"""A run over two files with bands per stage: a stage samples only what it may, and a stopped run goes on exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from deepscaler.config import Recipe, load_recipe
from deepscaler.data.sources.synthetic import generate_problems
from deepscaler.loop import experience
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.observability.run_directory import read_metrics
from deepscaler.rewards.scoring import scored
from deepscaler.types import GradeItem, Group, Outcome, ScoredGroup, Verdict
from tiny_run import write_model, write_recipe

MIX = 'data.sources=[{name="easy", path="%s"}, {name="hard", path="%s", weight=3}]'


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    paths = []
    for name, operations in (("easy", [1, 2]), ("hard", [3, 4])):
        rows = [
            {"problem": p.prompt, "answer": p.references[0], "difficulty": p.difficulty}
            for p in generate_problems(12, operations, name)
        ]
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(rows))
    overrides = [
        "data.source=mix",
        MIX % tuple(paths),
        'stages.0.sources=["easy"]',
        "stages.0.max_difficulty=1",
        "stages.1.drop_solved=true",
    ]
    model = write_model(tmp_path / "model")
    return load_recipe(write_recipe(tmp_path, num_steps=6, processes=1, model=model), overrides)


def leniently_scored(groups: Sequence[Group], items: Sequence[GradeItem], verdicts: Sequence[Verdict]) -> Any:
    """As a run scores, but every answer to problems with one or three operations is right."""

    def solved(one: ScoredGroup) -> ScoredGroup:
        if one.group.problem.difficulty not in (1.0, 3.0):
            return one
        return replace(one, verdicts=tuple(replace(v, outcome=Outcome.CORRECT, reward=1.0) for v in one.verdicts))

    return [solved(one) for one in scored(groups, items, verdicts)]


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experience, "scored", leniently_scored)


def run_steps(recipe: Recipe, path: Path, *stops: int) -> tuple[str, str]:
    """(digest of the weights at the end, what was said); the run is closed and opened again after each stop."""
    out, digest = StringIO(), ""
    for stop in stops:
        shorter = recipe.model_copy(update={"num_steps": stop})
        with open_run(shorter, Path(recipe.model.path or ""), path, Progress(out, terminal=False)) as run:
            assert train(run) == stop
            digest = run.weights.digest("float32")
    return digest, out.getvalue()


def sampled(path: Path, step: int) -> list[tuple[str, float]]:
    table = pq.read_table(path / "rollouts" / f"step-{step:06d}.parquet").to_pylist()
    return sorted({(row["problem_id"], row["difficulty"]) for row in table})


def test_stages_sample_their_sources_and_bands_and_leave_out_what_was_solved(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "run"
    _, said = run_steps(recipe, path, 6)
    easy = {name: difficulty for step in (1, 2, 3) for name, difficulty in sampled(path, step)}
    assert set(easy.values()) == {1.0}
    later = [row for step in (4, 5, 6) for row in sampled(path, step)]
    assert {name for name, _ in later}.isdisjoint(easy)
    hard = sum(difficulty > 2 for _, difficulty in later)
    assert hard == 9 == len(later) - 3  # weights 1 and 3, four prompts in each of three steps
    (change,) = [row for row in read_metrics(path / "metrics.jsonl") if row.get("event") == "stage_change"]
    assert change["figures"]["num_dropped_solved"] == len(easy)
    assert "of 24 problems, difficulty up to 1" in said
    assert f"{len(easy)} solved problems left out" in said
    template = json.loads((path / "run.json").read_text())["template"]
    assert template["thinking_prefilled"] is True and len(template["sha256"]) == 64


def test_stopped_before_at_and_after_the_change_of_stage_it_goes_on_exactly(recipe: Recipe, tmp_path: Path) -> None:
    digest, _ = run_steps(recipe, tmp_path / "whole", 6)
    resumed, _ = run_steps(recipe, tmp_path / "parts", 2, 3, 5, 6)
    assert resumed == digest
    for step in range(1, 7):
        assert sampled(tmp_path / "whole", step) == sampled(tmp_path / "parts", step)


def test_a_band_without_problems_is_refused_before_anything_is_written(recipe: Recipe, tmp_path: Path) -> None:
    stage = recipe.stages[1].model_copy(update={"min_difficulty": 9.0})
    empty = recipe.model_copy(update={"stages": (recipe.stages[0], stage)})
    with pytest.raises(ValueError, match=r"stages\.1 \(long\): none of the 12 usable problems of source 'easy'"):
        run_steps(empty, tmp_path / "run", 6)
    assert not (tmp_path / "run").exists()
