"""A run killed anywhere and started again ends bit-identical to one that was never disturbed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepscaler.evaluation.samples import read_samples
from deepscaler.observability.run_directory import read_metrics
from tiny_run import deepscaler, final_digests, write_recipe

KILLED_RUN = Path(__file__).parents[1] / "support" / "killed_run.py"
NUM_STEPS = 6


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), num_steps=NUM_STEPS)


@pytest.fixture(scope="module")
def undisturbed(recipe: Path) -> Path:
    run_dir = recipe.parent / "undisturbed"
    done = deepscaler("train", recipe, "--run-dir", run_dir)
    assert done.returncode == 0, done.stderr
    return run_dir


def steps_of(run_dir: Path) -> list[dict[str, object]]:
    """Figures of every step, without times."""
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["kind"] == "step"]
    # How the machine fared is not part of what a run computes: times, and what the grader's cache had seen before.
    apart = ("time", "grader_cached_frac", "driver_memory_mib")
    return [{k: v for k, v in row.items() if not k.endswith("_s") and k not in apart} for row in rows]


def evaluations_of(run_dir: Path) -> dict[str, object]:
    """Every completion of the evaluations inside training, with its verdict, and the figures made of them."""
    found: dict[str, object] = {}
    for directory in sorted((run_dir / "evaluations").glob("step-*")):
        results = json.loads((directory / "results.json").read_text())
        rows = read_samples(directory).to_pylist()
        found[directory.name] = (rows, results["benchmarks"], results["settings_sha256"])
    return found


def assert_same_end(run_dir: Path, undisturbed: Path) -> None:
    assert evaluations_of(run_dir) == evaluations_of(undisturbed)
    assert list(evaluations_of(run_dir)) == ["step-000000", "step-000003", "step-000006"]
    assert final_digests(run_dir, NUM_STEPS) == final_digests(undisturbed, NUM_STEPS)
    assert steps_of(run_dir) == steps_of(undisturbed)
    leftovers = [p.name for p in (run_dir / "checkpoints").iterdir() if p.name.startswith(".")]
    assert leftovers == []
    assert list(run_dir.rglob("*.tmp")) == []


def test_the_run_really_learns_something(undisturbed: Path) -> None:
    """Otherwise equal weights at the end would prove nothing."""
    first, last = (final_digests(undisturbed, step) for step in (3, NUM_STEPS))
    assert first["model.safetensors"] != last["model.safetensors"]
    assert len({row["length_mean"] for row in steps_of(undisturbed)}) > 1


@pytest.mark.parametrize(
    ("point", "count", "settings"),
    [
        ("evaluation", 11, ()),
        ("rollout", 30, ()),
        ("gradient", 4, ()),
        ("optimizer", 7, ()),
        ("record", 2, ()),
        ("checkpoint", 51, ()),
        ("checkpoint", 51, ("--set", "checkpoint.async_save=true")),
        ("prune", 1, ()),
    ],
)
def test_killed_at_a_point_and_resumed(
    recipe: Path, undisturbed: Path, point: str, count: int, settings: tuple[str, ...]
) -> None:
    run_dir = recipe.parent / (point + "-async" * bool(settings))
    command = [sys.executable, str(KILLED_RUN), point, str(count), str(recipe), str(run_dir), *settings]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (run_dir / "checkpoints" / f"step-{NUM_STEPS:06d}").exists()
    resumed = deepscaler("train", recipe, "--run-dir", run_dir, *settings)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(run_dir, undisturbed)


def test_an_evaluation_killed_half_way_keeps_the_samples_it_had(recipe: Path, undisturbed: Path) -> None:
    half_way = recipe.parent / "evaluation"
    results = json.loads((half_way / "evaluations" / "step-000003" / "results.json").read_text())
    assert results["run"]["resumed_samples"] == 3 and results["run"]["new_samples"] == 5
    compared = deepscaler("compare", *(half_way / "evaluations" / f"step-00000{n}" for n in (0, 6)))
    assert compared.returncode == 0 and "average" in compared.stdout


def test_killed_at_random_moments_until_it_gets_through(recipe: Path, undisturbed: Path) -> None:
    run_dir, draw = recipe.parent / "random", random.Random(11)
    command = [sys.executable, "-m", "deepscaler.cli.main", "train", str(recipe), "--run-dir", str(run_dir)]
    num_killed = 0
    for _ in range(4):
        before = len(lines(run_dir))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 100
        while process.poll() is None and len(lines(run_dir)) <= before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        process.communicate(timeout=60)
        num_killed += process.returncode == -signal.SIGKILL
    assert num_killed >= 2
    resumed = deepscaler("train", recipe, "--run-dir", run_dir)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(run_dir, undisturbed)


def lines(run_dir: Path) -> list[str]:
    file = run_dir / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_and_says_how_to_go_on(
    recipe: Path, undisturbed: Path, number: signal.Signals
) -> None:
    run_dir = recipe.parent / number.name
    command = [sys.executable, "-m", "deepscaler.cli.main", "train", str(recipe), "--run-dir", str(run_dir)]
    command += ["--set", "checkpoint.keep=2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while process.poll() is None and len(lines(run_dir)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 128 + number, err
    assert number.name in err and "finishing this step" in err
    again = f"deepscaler train {recipe} --run-dir {run_dir} --set checkpoint.keep=2"
    assert f"the same command continues: {again}\n" in out
    newest = max((run_dir / "checkpoints").glob("step-*"))
    step = json.loads((newest / "state.json").read_text())["step"]
    assert 0 < step < NUM_STEPS
    assert steps_of(run_dir)[-1]["step"] == step
    resumed = deepscaler("train", recipe, "--run-dir", run_dir)
    assert resumed.returncode == 0, resumed.stderr
    assert f"continuing after step {step}" in resumed.stdout
    assert_same_end(run_dir, undisturbed)


def test_two_processes_never_share_a_run_directory(recipe: Path, undisturbed: Path) -> None:
    import fcntl

    with (undisturbed / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = deepscaler("train", recipe, "--run-dir", undisturbed)
    assert refused.returncode == 1
    assert "another process is training" in refused.stderr


def test_a_run_directory_belongs_to_one_recipe(recipe: Path, undisturbed: Path) -> None:
    refused = deepscaler("train", recipe, "--run-dir", undisturbed, "--set", "optimizer.learning_rate=0.5")
    assert refused.returncode == 1
    assert "optimizer.learning_rate (0.001 -> 0.5)" in refused.stderr and "--from" in refused.stderr
    extended = recipe.parent / "SIGINT"
    assert extended.exists()
    assert deepscaler("train", recipe, "--run-dir", extended, "--set", "num_steps=7").returncode == 0
