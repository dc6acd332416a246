"""Damage to a stopped run's files is named, recorded where the run goes on, and never started over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deepscaler.training.checkpoint import steps_in
from stopped_run import events, go, load, overrides_of, resumed


def test_without_recipe_json_another_learning_rate_is_still_refused(stopped: Path) -> None:
    (stopped / "run" / "recipe.json").unlink()
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate \(0\.001 -> 0\.01\).*--from") as caught:
        resumed(stopped, "optimizer.learning_rate=0.01")
    assert f"--from {stopped / 'run'}" in str(caught.value)
    assert not (stopped / "run" / "recipe.json").exists()
    resumed(stopped)
    assert (stopped / "run" / "recipe.json").is_file()


def test_a_damaged_recipe_json_is_named(stopped: Path) -> None:
    for file in (stopped / "run").rglob("recipe.json"):
        file.write_text("{")
    with pytest.raises(ValueError, match=r"recipe\.json is damaged"):
        resumed(stopped)


def test_passing_over_a_damaged_checkpoint_is_said_and_recorded(made: Path, stopped: Path, tmp_path: Path) -> None:
    straight, _ = go(load(made, *overrides_of(made)), tmp_path / "straight")
    (stopped / "run" / "checkpoints" / "step-000002" / "manifest.json").write_text("{}")
    digest, said = resumed(stopped)
    damage = "step-000002: manifest.json is incomplete or was edited"
    assert digest == straight
    assert f"warning: damaged since it was written: {damage}" in said and "continuing after step 1" in said
    assert [damage in event["reason"] for event in events(stopped)] == [True]


def test_a_damaged_recipe_of_the_newest_checkpoint_is_no_other_recipe(stopped: Path) -> None:
    file = stopped / "run" / "checkpoints" / "step-000002" / "recipe.json"
    file.write_text(file.read_text().replace('"learning_rate": 0.001', '"learning_rate": 0.009'))
    _, said = resumed(stopped)
    assert "step-000002: recipe.json differs from its checksum" in said and "continuing after step 1" in said


def test_damage_to_what_a_run_recorded_is_said_and_recorded(stopped: Path) -> None:
    run = stopped / "run"
    for name in ("rollouts/step-000001.parquet", "evaluations/step-000002/samples.parquet", "metrics.jsonl"):
        content = bytearray((run / name).read_bytes())
        content[len(content) // 2] ^= 1
        (run / name).write_bytes(content)
    _, said = resumed(stopped)
    for text in (
        "rollouts/step-000001.parquet differs from its checksum",
        "step-000002/samples.parquet differs from its checksum",
        "metrics.jsonl differs from its checksum",
    ):
        assert f"warning: damaged since it was written: {text}" in said
        assert text in events(stopped)[-1]["reason"]


def test_an_evaluation_whose_samples_were_damaged_is_made_again(stopped: Path) -> None:
    run = stopped / "run"
    samples = run / "evaluations" / "step-000002" / "samples.parquet"
    whole = json.loads((samples.parent / "results.json").read_text())
    samples.write_bytes(samples.read_bytes()[:-1])
    shutil.rmtree(run / "checkpoints" / "step-000002")  # so that step 2 is done again
    _, said = resumed(stopped, "num_steps=2")
    assert "samples.parquet differs from its checksum) and is made again: kept as step-000002.1" in said
    again = json.loads((samples.parent / "results.json").read_text())
    assert again["benchmarks"] == whole["benchmarks"]


def test_metrics_without_their_checkpoints_are_never_started_over(stopped: Path) -> None:
    shutil.move(stopped / "run" / "checkpoints", stopped / "aside")
    metrics = (stopped / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"holds 2 steps of training but no checkpoint in .*checkpoints"):
        resumed(stopped)
    (stopped / "run" / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"Put the checkpoints back, or give another --run-dir"):
        resumed(stopped)
    assert (stopped / "run" / "metrics.jsonl").read_bytes() == metrics


def test_other_names_beside_the_checkpoints_are_left_alone(stopped: Path) -> None:
    checkpoints = stopped / "run" / "checkpoints"
    shutil.copytree(checkpoints / "step-000002", checkpoints / "step-000002.bak")
    (checkpoints / "step-notes.txt").write_text("mine")
    _, said = resumed(stopped)
    assert "continuing after step 2" in said
    assert steps_in(checkpoints) == [0, 2, 3]
    assert (checkpoints / "step-000002.bak").is_dir() and (checkpoints / "step-notes.txt").is_file()
