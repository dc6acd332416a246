"""A run on real-looking files evaluates itself on a benchmark and a validation file, none of which it trains on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from deepscaler.config import Recipe, load_recipe
from deepscaler.data.benchmarks import load as benchmarks
from deepscaler.data.benchmarks.specs import BENCHMARKS
from deepscaler.data.sources.synthetic import generate_problems
from deepscaler.evaluation.compare import compare_directories
from deepscaler.evaluation.samples import read_results, read_samples
from deepscaler.evaluation.store import SampleStore
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.observability.run_directory import read_metrics
from deepscaler.report import write_report
from deepscaler.types import Problem, RunError
from tiny_run import write_model, write_recipe

Train = Callable[..., str]
SIZES = {"aime24": 3, "checked": 3}  # of each, asked inside training


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Files of made-up problems; two of the benchmark and one of the validation file stand in the training file."""
    problems = generate_problems(36, [2, 3, 4], "made")
    training, test, checked = problems[:20], problems[18:28], [problems[0], *problems[28:]]
    write_rows(tmp_path / "train.json", training)
    write_rows(tmp_path / "checked.jsonl", checked)
    write_rows(tmp_path / "benchmarks" / "aime24.json", test)
    digest = hashlib.sha256((tmp_path / "benchmarks" / "aime24.json").read_bytes()).hexdigest()
    spec = replace(BENCHMARKS["aime24"], sha256=(digest,))
    monkeypatch.setattr(benchmarks, "BENCHMARKS", {**BENCHMARKS, "aime24": spec})
    overrides = [
        f"data.source={tmp_path / 'train.json'}",
        'evaluation.benchmarks=["aime24"]',
        f"evaluation.benchmarks_dir={tmp_path / 'benchmarks'}",
        f'evaluation.validation_files=["{tmp_path / "checked.jsonl"}"]',
        "evaluation.every_steps=2",
        "evaluation.during_training_problems=3",
    ]
    model = write_model(tmp_path / "model")
    return load_recipe(write_recipe(tmp_path, num_steps=4, processes=1, model=model), overrides)


def write_rows(path: Path, problems: list[Problem]) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [{"problem": p.prompt, "answer": p.references[0], "difficulty": p.difficulty} for p in problems]
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)


def run_to(recipe: Recipe, path: Path) -> str:
    """What is said by a run until its end."""
    out = StringIO()
    with open_run(recipe, Path(recipe.model.path or ""), path, Progress(out, terminal=False)) as run:
        train(run)
    return out.getvalue()


def evaluations(path: Path) -> dict[str, Any]:
    return {d.name: read_samples(d).to_pylist() for d in sorted((path / "evaluations").glob("step-*"))}


def test_a_run_evaluates_as_the_command_does(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "run"
    said = run_to(recipe, path)
    assert "3 problems of aime24, which are test problems: no checkpoint is chosen by them" in said
    assert "3 problems of the evaluation sets, not asked as the training data hold the same" in said
    record = json.loads((path / "evaluations" / "held_out.json").read_text())
    assert {one["problem_id"] for one in record["left_out"]} >= {"aime24/0", "aime24/1"} and len(
        record["left_out"]
    ) == 3
    trained = {row["problem"] for row in json.loads((tmp_path / "train.json").read_text())}
    asked = {p for ids in record["problems"].values() for p in ids}
    assert not asked & {one["problem_id"] for one in record["left_out"]}
    assert list(evaluations(path)) == ["step-000000", "step-000002", "step-000003", "step-000004"]
    for name, rows in evaluations(path).items():
        results = read_results(path / "evaluations" / name)
        assert {n: b["num_problems"] for n, b in results["benchmarks"].items()} == SIZES
        assert {row["problem_id"] for row in rows} == asked and len(rows) == 12
        inside = results["inside_training"]
        assert inside["test_sets"] == ["aime24"] and inside["chooses_checkpoint"] is False
        assert inside["step"] == int(name[5:]) and len(results["settings"]["datasets"]["aime24"]["file_sha256"]) == 64
    questions = {json.loads(line)["problem"] for line in (tmp_path / "checked.jsonl").read_text().splitlines()}
    assert len(questions & trained) == 1  # otherwise nothing had to be left out
    lines = [row for row in read_metrics(path / "metrics.jsonl") if row["kind"] == "evaluation"]
    assert [row["step"] for row in lines] == [0, 2, 3, 4] and all(row["test_sets"] == ["aime24"] for row in lines)
    comparison = compare_directories(path / "evaluations" / "step-000000", path / "evaluations" / "step-000004")
    assert set(comparison.benchmarks) == set(SIZES) and "step 4" in comparison.after.label
    page = write_report([path], tmp_path / "report.html").read_text()
    assert "aime24 is a test set" in page


def test_interrupted_it_makes_only_what_is_missing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_to(recipe, tmp_path / "whole")
    add, calls = SampleStore.add, []

    def failing(store: SampleStore, completion: Any) -> None:
        calls.append(completion.key)
        if len(calls) == 12 + 5:
            raise RunError("the disk is full")
        add(store, completion)

    with monkeypatch.context() as patch:
        patch.setattr(SampleStore, "add", failing)
        with pytest.raises(RunError, match="disk is full"):
            run_to(recipe, tmp_path / "cut")
    partial = json.loads((tmp_path / "cut" / "evaluations" / "step-000002" / "results.partial.json").read_text())
    assert partial["num_stored"] == 4
    said = run_to(recipe, tmp_path / "cut")
    assert "4 of 12 samples exist already" in said
    assert evaluations(tmp_path / "cut") == evaluations(tmp_path / "whole")


def test_samples_of_other_weights_are_never_taken_over(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shorter = recipe.model_copy(update={"num_steps": 2})
    run_to(shorter, path)

    def forget_the_steps(number: int) -> None:
        for checkpoint in (path / "checkpoints").glob("step-00000[12]"):
            checkpoint.rename(tmp_path / f"{checkpoint.name}.{number}")

    results = path / "evaluations" / "step-000002" / "results.json"
    made = results.stat().st_mtime_ns
    forget_the_steps(1)
    run_to(shorter, path)
    assert results.stat().st_mtime_ns == made  # the same weights again: everything is there
    settings = path / "evaluations" / "step-000002" / "settings.json"
    stored = json.loads(settings.read_text())
    stored["settings"]["model"]["weights_sha256"] = "0" * 64
    settings.write_text(json.dumps(stored))
    forget_the_steps(2)
    said = run_to(shorter, path)
    assert "was made with other settings (model.weights_sha256" in said and "kept as step-000002.1" in said
    assert (path / "evaluations" / "step-000002.1" / "results.json").is_file()
    assert not results.with_name("journal").exists()
    assert read_results(results.parent)["run"]["resumed_samples"] == 0


def test_a_set_that_training_holds_whole_stops_the_run_before_it_begins(recipe: Recipe, tmp_path: Path) -> None:
    same = recipe.evaluation.model_copy(update={"validation_files": (recipe.data.source,)})
    with pytest.raises(ValueError, match="set train: training holds every one of its 20 problems"):
        run_to(recipe.model_copy(update={"evaluation": same}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
