"""A run that trains adapters: killed and resumed to the same bits, and evaluated from its checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from deepscaler.modeling.weights import weights_digest
from tiny_run import deepscaler, write_recipe

KILLED_RUN = Path(__file__).parents[1] / "support" / "killed_run.py"
LORA = ("--set", "model.lora.rank=4", "--set", "stages.1.reset_reference=false", "--set", "num_steps=2")
LIMIT_S = 240.0  # of one command
STATE = ("adapter_model.safetensors", "optimizer.safetensors", "learner.json", "state.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = write_recipe(tmp_path_factory.mktemp("lora"), num_steps=2)
    done = deepscaler("train", recipe, "--run-dir", recipe.parent / "run", *LORA, timeout_s=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return recipe.parent / "run"


def digests(run_dir: Path) -> list[str]:
    checkpoint = run_dir / "checkpoints" / "step-000002"
    return [hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in STATE]


def test_killed_between_two_updates_it_ends_with_the_same_bits(run: Path) -> None:
    recipe, run_dir = run.parent / "tiny.toml", run.parent / "killed"
    command = [sys.executable, str(KILLED_RUN), "optimizer", "3", str(recipe), str(run_dir), *LORA]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = deepscaler("train", recipe, "--run-dir", run_dir, *LORA, timeout_s=LIMIT_S)
    assert resumed.returncode == 0, resumed.stderr
    assert digests(run_dir) == digests(run)


def test_its_checkpoint_is_evaluated_with_the_published_weights(run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints" / "step-000002"
    command = [sys.executable, "-m", "deepscaler.cli.main", "eval", str(checkpoint), "--out", "out"]
    settings = ["--recipe", str(run.parent / "tiny.toml")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *settings], capture_output=True, text=True, timeout=LIMIT_S, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    (merged,) = (tmp_path / "runs" / "bases").glob("lora-*")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in merged.iterdir()}
    inside = json.loads((run / "evaluations" / "step-000002" / "results.json").read_text())
    digest = weights_digest(load_file(merged / "model.safetensors").items())
    assert f'"weights_sha256": "{digest}"' in json.dumps(inside)
    base = weights_digest(load_file(run.parent / "model" / "model.safetensors").items())
    assert base != digest, "the run has trained something"
