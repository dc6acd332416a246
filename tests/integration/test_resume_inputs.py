"""A stopped run goes on only over what it was made from; what it may not take over is refused and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from deepscaler.config import Recipe, load_recipe
from deepscaler.data.sources.synthetic import generate_problems
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.loop.resume_check import Origin
from deepscaler.observability.run_directory import read_metrics
from deepscaler.rewards.profiles.deepscaler import GRADER_VERSION
from deepscaler.rewards.registry import REWARDS
from deepscaler.training.checkpoint import steps_in
from deepscaler.types import RunError
from tiny_run import write_model, write_recipe

NUM_STEPS = 3


def load(directory: Path, *overrides: str) -> Recipe:
    return load_recipe(directory / "tiny.toml", [f"model.path={directory / 'model'}", *overrides])


def go(recipe: Recipe, path: Path) -> tuple[str, str]:
    """(digest of the weights at the end, what was said)."""
    out = StringIO()
    with open_run(recipe, Path(recipe.model.path or ""), path, Progress(out, terminal=False)) as run:
        train(run)
        return run.weights.digest("float32"), out.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, problems, a recipe over them, and a run of two steps of four."""
    directory = tmp_path_factory.mktemp("made")
    rows = [
        {"id": f"p{i}", "problem": p.prompt, "answer": p.references[0], "difficulty": p.difficulty}
        for i, p in enumerate(generate_problems(14, [2, 3], "resume"))
    ]
    (directory / "train.json").write_text(json.dumps(rows[:12]))
    (directory / "checked.json").write_text(json.dumps(rows[12:]))
    write_recipe(directory, num_steps=NUM_STEPS, processes=1, model=write_model(directory / "model"))
    text = (directory / "tiny.toml").read_text().replace('"synthetic"', f'"{directory / "train.json"}"')
    files = f'[evaluation]\nvalidation_files = ["{directory / "checked.json"}"]'
    (directory / "tiny.toml").write_text(text.replace("[evaluation]", files))
    go(load(directory, "num_steps=2"), directory / "run")
    return directory


@pytest.fixture
def stopped(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to spoil."""
    directory = tmp_path / "stopped"
    shutil.copytree(made, directory)
    return directory


def overrides_of(directory: Path, *others: str) -> list[str]:
    return [f"data.source={directory / 'train.json'}", *others]


def resumed(directory: Path, *overrides: str) -> tuple[str, str]:
    return go(load(directory, *overrides_of(directory), *overrides), directory / "run")


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def another_row(**fields: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[5].update(fields)


def swap_two_words(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["7"], vocabulary["8"] = vocabulary["8"], vocabulary["7"]


def other_weights(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model" / "model.safetensors")
    weights["model.norm.weight"] += 0.5
    save_file(weights, directory / "model" / "model.safetensors", metadata={"format": "pt"})


def other_template(directory: Path) -> None:
    file = directory / "model" / "chat_template.jinja"
    file.write_text(file.read_text().replace("<assistant><think>", "<assistant> <think>"))


def edited(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda directory: edit_json(directory / name, change)


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "template": (other_template, "the chat template"),
    "tokenizer": (edited("model/tokenizer.json", swap_two_words), "the tokenizer"),
    "eos": (
        edited("model/generation_config.json", lambda c: c.update(eos_token_id=[1, 20])),
        "the token ids that end a completion",
    ),
    "config": (edited("model/config.json", lambda c: c.update(rms_norm_eps=0.01)), "the base model's config.json"),
    "weights": (other_weights, "the base model's weights"),
    "answer": (edited("train.json", another_row(answer="77")), "their texts, answers or tolerances changed"),
    "prompt": (edited("train.json", another_row(problem="1 a+1 b+1")), "their texts, answers or tolerances changed"),
    "order": (edited("train.json", lambda rows: rows[::-1]), "another order"),
    "fewer": (edited("train.json", lambda rows: rows[:-1]), "with 12 training problems, now there are 11"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_under_a_stopped_run_is_named_and_nothing_is_written(stopped: Path, change: str) -> None:
    spoil, words = CHANGES[change]
    spoil(stopped)
    before = {path: path.read_bytes() for path in (stopped / "run").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=words):
        resumed(stopped)
    assert {path: path.read_bytes() for path in (stopped / "run").rglob("*") if path.is_file()} == before


def test_the_difficulty_counts_where_a_stage_draws_by_it(made: Path, tmp_path: Path) -> None:
    directory = tmp_path / "bands"
    shutil.copytree(made, directory)
    shutil.rmtree(directory / "run")
    band = "stages.0.max_difficulty=2"
    go(load(directory, *overrides_of(directory), band, "num_steps=1"), directory / "run")
    edit_json(directory / "train.json", lambda rows: [row.update(difficulty=2) for row in rows] and None)
    with pytest.raises(ValueError, match="the stages draw from other problems than before"):
        resumed(directory, band)


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


def test_a_model_and_problems_that_moved_go_on_exactly(made: Path, stopped: Path, tmp_path: Path) -> None:
    straight, _ = go(load(made, *overrides_of(made)), tmp_path / "straight")
    (stopped / "model").rename(stopped / "elsewhere")
    (stopped / "train.json").rename(stopped / "problems.json")
    link = stopped / "link"
    link.symlink_to(stopped / "elsewhere")
    moved = [f"model.path={link}/../elsewhere/.", f"data.source={stopped / 'problems.json'}"]
    digest, said = go(load(stopped, *moved), stopped / "run")
    assert digest == straight
    assert "continuing after step 2" in said and "warning" not in said and "note" not in said


def test_what_changes_rounding_only_goes_on_with_a_note(stopped: Path) -> None:
    changed = ["training.tokens_per_micro_batch=128", "rollout.max_active=4", "model.activation_checkpointing=true"]
    _, said = resumed(stopped, *changed)
    assert "rollout.max_active (256 -> 4)" in said and "training.tokens_per_micro_batch (256 -> 128)" in said
    assert "equal within rounding, not bit by bit" in said


def events(directory: Path) -> list[dict[str, Any]]:
    rows = read_metrics(directory / "run" / "metrics.jsonl")
    return [row for row in rows if row["kind"] == "event" and row["event"] == "resume"]


def test_another_version_of_the_grader_is_said_and_recorded(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS, "deepscaler", replace(REWARDS["deepscaler"], version="next"))
    _, said = resumed(stopped)
    change = f"the grader was version {GRADER_VERSION} and is version next now"
    assert f"note: {change}" in said
    assert change in events(stopped)[-1]["reason"]
    other = load(stopped, *overrides_of(stopped), "num_steps=4")
    out = StringIO()
    origin = Origin(stopped / "run", 2)
    with open_run(other, stopped / "model", stopped / "new", Progress(out, terminal=False), origin):
        pass
    assert change in out.getvalue()


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


def test_the_result_of_a_finished_run_stays_when_it_is_extended(stopped: Path) -> None:
    resumed(stopped, "num_steps=6", "stages.1.reshuffle=true")
    assert steps_in(stopped / "run" / "checkpoints") == [0, 2, 3, 5, 6]  # 2 was a result, 3 ended a stage


def test_step_0_refers_to_the_base_model_and_goes_on(made: Path, tmp_path: Path) -> None:
    straight, _ = go(load(made, *overrides_of(made)), tmp_path / "straight")
    directory = tmp_path / "zero"
    shutil.copytree(made, directory, ignore=shutil.ignore_patterns("run"))
    recipe = load(directory, *overrides_of(directory))
    with open_run(recipe, directory / "model", directory / "run", Progress(StringIO(), terminal=False)) as run:
        run.evaluate(run.curriculum.stage)
        run.save()
    zero = directory / "run" / "checkpoints" / "step-000000"
    base = sum(path.stat().st_size for path in (directory / "model").glob("*.safetensors"))
    assert sum(path.stat().st_size for path in zero.iterdir()) < base / 2 and not list(zero.glob("*.safetensors"))
    assert json.loads((zero / "base_model.json").read_text())["path"] == str(directory / "model")
    digest, said = resumed(directory)
    assert digest == straight and "continuing after step 0" in said
    with pytest.raises(ValueError, match=r"is step 0, so its weights are those of the base model"):
        go(load(directory, *overrides_of(directory), f"model.path={zero}"), tmp_path / "other")


def test_another_base_under_a_run_that_stopped_at_step_0_is_refused(made: Path, tmp_path: Path) -> None:
    directory = tmp_path / "zero"
    shutil.copytree(made, directory, ignore=shutil.ignore_patterns("run"))
    recipe = load(directory, *overrides_of(directory))
    with open_run(recipe, directory / "model", directory / "run", Progress(StringIO(), terminal=False)) as run:
        run.save()
    other_weights(directory)
    with pytest.raises(ValueError, match="the base model's weights changed"):
        resumed(directory)


def test_a_run_of_an_earlier_version_is_refused_and_told_why(stopped: Path) -> None:
    for file in (stopped / "run" / "checkpoints").glob("*/manifest.json"):
        edit_json(file, lambda manifest: manifest["files"])
    with pytest.raises(RunError, match="written by an earlier version, whose checkpoints this one does not continue"):
        resumed(stopped)
