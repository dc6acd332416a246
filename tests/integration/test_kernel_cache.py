"""The first run after an installation, which finds no compiled functions, is the run that all later ones repeat."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from deepscaler.cpu.kernels import disk_cache

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.toml"
SETTINGS = ("sft.steps=3", "sft.warmup_steps=1", "training.processes=1")


def weights_after_training(out: Path, cache: Path) -> str:
    command = [sys.executable, "-m", "deepscaler.cli.main", "sft", str(RECIPE), "--out", str(out)]
    command += [part for setting in SETTINGS for part in ("--set", setting)]
    environment = {**os.environ, disk_cache.ROOT: str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def test_the_run_that_compiles_and_the_runs_that_load_end_with_the_same_weights(tmp_path: Path) -> None:
    cache = tmp_path / "kernels"
    cache.mkdir()
    first = weights_after_training(tmp_path / "first", cache)
    compiled = {path: path.stat().st_mtime_ns for path in cache.rglob("*.nbc")}
    assert len(compiled) > 5
    assert weights_after_training(tmp_path / "second", cache) == first
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.nbc")} == compiled
