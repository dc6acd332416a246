"""On a CUDA device: the commands as a user calls them train, resume, evaluate and compare.

Run with `make test ARGS="-m gpu"`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from deepscaler.observability.run_directory import read_metrics
from tiny_run import deepscaler, final_digests, write_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NUM_STEPS = 4


def steps_of(run_dir: Path) -> list[dict[str, float]]:
    return [row for row in read_metrics(run_dir / "metrics.jsonl") if row["kind"] == "step"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_trains_resumes_and_is_evaluated(tmp_path: Path, dtype: str) -> None:
    recipe = write_recipe(tmp_path, num_steps=NUM_STEPS)
    run_dir, settings = tmp_path / "run", ("--set", f"model.dtype={dtype}")
    first = deepscaler("train", recipe, "--run-dir", run_dir, *settings, "--set", "num_steps=2", timeout_s=100)
    assert first.returncode == 0, first.stderr
    two = final_digests(run_dir, 2)
    resumed = deepscaler("train", recipe, "--run-dir", run_dir, *settings, timeout_s=100)
    assert resumed.returncode == 0, resumed.stderr
    rows = steps_of(run_dir)
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    # The learner's tokens are the engine's: in float32 to rounding, in bfloat16 to that of half precision.
    assert all(row["mismatch_mean"] < (0.02 if dtype == "bfloat16" else 1e-3) for row in rows)
    assert all(row["skipped_updates"] == 0 and row["grad_norm"] > 0 for row in rows)
    assert final_digests(run_dir, NUM_STEPS)["model.safetensors"] != two["model.safetensors"]
    info = json.loads((run_dir / "run.json").read_text())
    assert torch.cuda.get_device_name() in json.dumps(info)


def test_a_checkpoint_is_evaluated_and_compared_with_its_base(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, num_steps=2)
    done = deepscaler("train", recipe, "--run-dir", tmp_path / "run", timeout_s=100)
    assert done.returncode == 0, done.stderr
    steps = [tmp_path / "run" / "evaluations" / f"step-{n:06d}" for n in (0, 2)]
    compared = deepscaler("compare", *steps)
    assert compared.returncode == 0 and "average" in compared.stdout
