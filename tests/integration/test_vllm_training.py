"""Training runs that sample with vLLM: every update reaches it, and the reward rises."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from deepscaler.observability.run_directory import read_metrics
from tiny_run import deepscaler, write_model, write_recipe
from vllm_engines import START_LIMIT_S

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's own


def test_training_samples_with_vllm_and_every_update_reaches_it(tmp_path: Path) -> None:
    """The loop stops where the digest of what vLLM holds is not the learner's; the mismatch shows whether it lies."""
    model = write_model(tmp_path / "model", hidden_size=64, head_dim=32)
    recipe, run_dir = write_recipe(tmp_path, num_steps=4, processes=1, model=model), tmp_path / "run"
    # Large steps: with the weights of the step before, log-probabilities would be far off.
    settings = ("--set", 'rollout.engine="vllm"', "--set", "optimizer.learning_rate=0.01")
    done = deepscaler("train", recipe, "--run-dir", run_dir, *settings, timeout_s=START_LIMIT_S)
    assert done.returncode == 0, done.stderr
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["kind"] == "step"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert max(row["mismatch_max"] for row in rows) < 1e-3
    for step in range(1, 5):
        table = pq.read_table(run_dir / "rollouts" / f"step-{step:06d}.parquet")
        assert set(table["policy_version"].to_pylist()) == {step - 1}
