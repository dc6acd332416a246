"""The driver of a run over Ray is killed while it samples; the same command goes on, to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from deepscaler.observability.run_directory import read_metrics
from ray_runs import NUM_STEPS, SETTINGS, run_on_this_machine
from tiny_run import deepscaler, final_digests, write_recipe

KILLED_RUN = Path(__file__).parents[1] / "support" / "killed_run.py"
LIMIT_S = 200.0


def test_a_killed_driver_is_started_again_by_the_same_command(tmp_path: Path) -> None:
    over_ray = tmp_path / "ray.toml"
    recipe = write_recipe(tmp_path, num_steps=NUM_STEPS, processes=1)
    over_ray.write_text('extends = "tiny.toml"\n' + "\n".join(_lines(*SETTINGS)))
    completions = 16 * 2 + 5  # of steps; in the third
    command = [sys.executable, str(KILLED_RUN), "rollout", str(completions), str(over_ray), str(tmp_path / "run")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=LIMIT_S)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    done = deepscaler("train", over_ray, "--run-dir", tmp_path / "run", timeout_s=LIMIT_S)
    assert done.returncode == 0, done.stderr
    resumed = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row.get("event") == "resume"]
    assert [row["step"] for row in resumed] == [2]
    assert not (tmp_path / "run" / "published").exists()
    local = run_on_this_machine(recipe, tmp_path / "local")
    assert final_digests(tmp_path / "run", NUM_STEPS) == final_digests(local, NUM_STEPS)


def _lines(*settings: str) -> list[str]:
    """Top-level settings first, then tables."""
    dotted = [f"{name} = {value}" for name, _, value in (each.partition("=") for each in settings)]
    return [*dotted, 'cluster.kind = "ray"', 'cluster.address = "local"']
