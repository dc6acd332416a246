"""`deepscaler data score`: pass rates beside the rows, going on where it was interrupted, and bands in training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepscaler.config import load_recipe
from deepscaler.config.evaluation import load_evaluation
from deepscaler.evaluation.store import SampleStore
from deepscaler.loop.progress import Progress
from deepscaler.loop.score import samples_directory, score, scoring_recipe_defaults
from deepscaler.loop.training_data import load_training_data
from tiny_run import write_model, write_recipe

COLUMNS = ("question", "answer")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def write_problems(path: Path) -> Path:
    rows = [{"question": f"{a}+1?", "answer": str(a + 1), "origin": "mine"} for a in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scored(model: Path, data: Path, to: Path) -> list[dict[str, object]]:
    settings = [*scoring_recipe_defaults(4, 8), "engine.processes=1"]
    lines = score(str(data), str(model), to, load_evaluation(None, settings), Progress(), COLUMNS)
    assert len(lines) == 12
    return [json.loads(line) for line in to.read_text().splitlines()]


def test_an_interrupted_scoring_goes_on_and_ends_with_the_same_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_problems(tmp_path / "mine.jsonl")
    whole = scored(model, data, tmp_path / "whole.jsonl")
    assert [row["origin"] for row in whole] == ["mine"] * 5
    assert [row["pass_rate_samples"] for row in whole] == [4] * 5 and {row["pass_rate"] for row in whole} == {0.0}

    add, stored = SampleStore.add, 0

    def interrupted(self: SampleStore, completion: object) -> None:
        nonlocal stored
        add(self, completion)  # type: ignore[arg-type]
        stored += 1
        if stored == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(SampleStore, "add", interrupted)
    to = tmp_path / "parts.jsonl"
    with pytest.raises(KeyboardInterrupt):
        scored(model, data, to)
    assert not to.exists() and samples_directory(to).is_dir()
    stored = -100
    assert scored(model, data, to) == whole
    assert stored == -100 + 13  # of 20 samples, 7 were there


def test_bad_input_is_one_message_before_anything_is_sampled(model: Path, tmp_path: Path) -> None:
    data = write_problems(tmp_path / "mine.jsonl")
    for to, columns, says in (
        (tmp_path / "out.txt", COLUMNS, "its format is not known"),
        (tmp_path / "none" / "out.jsonl", COLUMNS, "there is no directory"),
        (tmp_path / "out.jsonl", ("problem", "answer"), "no field 'problem'"),
    ):
        with pytest.raises(ValueError, match=says):
            score(str(data), str(model), to, load_evaluation(None), Progress(), columns)
        assert not list(tmp_path.glob("out*"))


def test_training_takes_the_problems_inside_the_band(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "scored.jsonl"
    rows = [{"problem": f"{a}+1?", "answer": str(a + 1), "pass_rate": a / 4} for a in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [f"data.source={path}", "data.min_pass_rate=0.2", "data.max_pass_rate=0.8"]
    recipe = load_recipe(write_recipe(tmp_path / "r", model=model), settings)
    found = load_training_data(recipe)
    assert [problem.pass_rate for problem in found.problems] == [0.25, 0.5, 0.75]
    assert found.num_outside_band == 2 and len(found.source_of) == 3
