"""`deepscaler sft` on people's traces: a run that learns, resumes bit for bit, and refuses what does not belong."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deepscaler.config.supervised import load_supervised
from deepscaler.loop.progress import Progress
from deepscaler.observability.run_directory import read_metrics
from deepscaler.sft.build import open_sft
from deepscaler.sft.run import SftRun, train
from tiny_run import deepscaler
from tiny_sft import sum_traces, write_sft, write_traces

KILLED_RUN = Path(__file__).parents[1] / "support" / "killed_run.py"
FILES = ("model.safetensors", "optimizer.safetensors", "learner.json", "state.json")
NUM_STEPS = 12


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sft(tmp_path_factory.mktemp("sft"))


def run(recipe: Path, run_dir: Path, *overrides: str) -> SftRun:
    with open_sft(load_supervised(recipe, overrides), run_dir, Progress()) as opened:
        train(opened)
    return opened


@pytest.fixture(scope="module")
def undisturbed(recipe: Path) -> Path:
    run_dir = recipe.parent / "undisturbed"
    run(recipe, run_dir)
    return run_dir


def digests(run_dir: Path) -> dict[str, str]:
    last = run_dir / "checkpoints" / f"step-{NUM_STEPS:06d}"
    return {name: hashlib.sha256((last / name).read_bytes()).hexdigest() for name in FILES}


def losses(run_dir: Path) -> list[tuple[float, float | None, float]]:
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["kind"] == "step"]
    return [(row["loss"], row.get("validation_loss"), row["learning_rate"]) for row in rows]


def test_training_and_validation_loss_fall_and_the_report_shows_them(undisturbed: Path) -> None:
    found = losses(undisturbed)
    assert len(found) == NUM_STEPS and found[-1][0] < 0.8 * found[0][0]
    measured = [loss for _, loss, _ in found if loss is not None]
    (before,) = [r for r in read_metrics(undisturbed / "metrics.jsonl") if r["kind"] == "evaluation"]
    assert len(measured) == 4 and measured[-1] < 0.9 * before["validation_loss"]
    assert "Cross-entropy" in (undisturbed / "report.html").read_text()


@pytest.mark.parametrize(("point", "count"), [("optimizer", 5)])
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(
    recipe: Path, undisturbed: Path, point: str, count: int
) -> None:
    run_dir = recipe.parent / point
    command = [sys.executable, str(KILLED_RUN), f"sft:{point}", str(count), str(recipe), str(run_dir)]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run(recipe, run_dir)
    assert digests(run_dir) == digests(undisturbed)
    assert losses(run_dir) == losses(undisturbed)
    (resumed,) = [row for row in read_metrics(run_dir / "metrics.jsonl") if row.get("event") == "resume"]
    assert resumed["step"] == 4


def test_a_directory_of_other_settings_or_traces_is_refused(recipe: Path, undisturbed: Path) -> None:
    with pytest.raises(ValueError, match=r"optimizer.learning_rate \(0.01 -> 0.1\)"):
        run(recipe, undisturbed, "optimizer.learning_rate=0.1")
    traces = recipe.parent / "traces.jsonl"
    before = traces.read_text()
    write_traces(traces, sum_traces(44))
    with pytest.raises(ValueError, match="the traces changed"):
        run(recipe, undisturbed)
    traces.write_text(before)


def test_the_command_says_what_a_recipe_for_traces_takes(recipe: Path, tmp_path: Path) -> None:
    for arguments, says in (
        (("sft", recipe), "--run-dir"),
        (("sft", recipe, "--run-dir", tmp_path / "new", "--set", "sft.epoch=3"), "did you mean sft.epochs"),
        (("train", recipe, "--run-dir", tmp_path / "new"), "deepscaler sft"),
    ):
        done = deepscaler(*arguments)
        assert done.returncode == 2 and says in done.stderr, done.stderr
        assert not (tmp_path / "new").exists()
