"""`benchmarks/gpu.py` tried out on CPU: every part measures, and one that fails costs the others nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and record."""
    command = [sys.executable, str(SCRIPT), "--size", "tiny", "--json", str(folder / "gpu.json"), *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    return done.returncode, json.loads((folder / "gpu.json").read_text())


def results_of(record: dict[str, Any], part: str) -> dict[str, Any]:
    assert record["parts"][part]["status"] == "done", record["parts"][part]
    return record["parts"][part]["results"]


def test_learning_and_a_whole_step_are_measured(tmp_path: Path) -> None:
    code, record = run(tmp_path, "--device", "cpu", "--parts", "learning", "step")
    assert code == 0 and record["machine"]["torch"] and record["workload"]["micro_batch"]
    learning = results_of(record, "learning")
    assert learning["dense_tflops"] > 0 and learning["update"]["update_s"] > 0
    for name in ("64, chunked head", "128, chunked head", "64, whole head", "64, chunked float32 head"):
        assert 0 < learning[name]["utilisation"]["median"] < 10 and learning[name]["tokens_per_s"] > 0
    step = results_of(record, "step")["step"]
    assert step["seconds"].keys() == {"first publish", "sample", "update", "publish"}
    prompts, group, tokens = record["workload"]["step"]
    assert step["metrics"]["num_trained_tokens"] == prompts * group * (record["workload"]["prompt"] + tokens)
    assert step["metrics"]["skipped_updates"] == 0 and 0 < step["metrics"]["mismatch_mean"] < 0.05


def test_sampling_is_measured_beside_its_peers(tmp_path: Path) -> None:
    code, record = run(tmp_path, "--device", "cpu", "--parts", "decoding", "mismatch", "generation")
    assert code == 0
    decoding = results_of(record, "decoding")
    cases = [(r["context"], r["batch"]) for r in decoding["PagedCache"]]
    assert cases == [(c, b) for c in record["workload"]["contexts"] for b in record["workload"]["batches"]]
    assert all(r["fits"] and r["tokens_per_s"] > 0 and r["share_of_bound"] > 0 for r in decoding["PagedCache"])
    mismatch = results_of(record, "mismatch")
    assert mismatch.keys() == {"head in bfloat16", "head in float32"}
    assert all(0 < m["mean_abs"] <= m["max_abs"] < 0.1 for m in mismatch.values())
    assert all(0.9 < m["token_effective_sample_frac"] <= 1 for m in mismatch.values())
    generation = results_of(record, "generation")
    assert generation.keys() == {"deepscaler", "generate", "continuous batching"}
    assert all(g["tokens_per_s"] > 0 for g in generation.values())


def test_a_part_that_fails_is_recorded_and_the_next_one_tried(tmp_path: Path) -> None:
    code, record = run(tmp_path, "--device", "cuda", "--parts", "mismatch", "step")
    assert code == 1 and record["parts"].keys() == {"mismatch", "step"}
    for part in record["parts"].values():
        assert part["status"] == "failed" and "no CUDA device" in part["error"]


@pytest.mark.parametrize(("budget", "reason"), [("1.5", "cut off after"), ("0.1", "used the whole budget")])
def test_the_budget_is_kept_and_what_it_cut_off_says_so(tmp_path: Path, budget: str, reason: str) -> None:
    code, record = run(tmp_path, "--device", "cpu", "--parts", "step", "--budget-s", budget)
    assert code == 1 and record["parts"]["step"]["status"] == "out of time"
    assert reason in record["parts"]["step"]["error"] and record["seconds"] < float(budget) + 2
