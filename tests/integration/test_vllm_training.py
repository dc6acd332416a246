"""Training runs that sample with vLLM: every update reaches it, and the reward rises."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from deepscaler.config import load_recipe
from deepscaler.data.sources.synthetic import random_chain
from deepscaler.engines.vllm.engine import VllmEngine
from deepscaler.engines.vllm_server.publishing import WeightPublisher
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.observability.run_directory import read_metrics
from deepscaler.protocols import PublishedWeights
from deepscaler.randomness import generator
from deepscaler.toy.base_model import ensure_base
from deepscaler.types import WeightsInfo
from tiny_run import deepscaler, write_model, write_recipe
from vllm_engines import START_LIMIT_S

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's own
SHARED = """
name = "low"
seed = 1
num_steps = 12

[rollout]
prompts_per_step = 16
group_size = 8

[[stages]]
name = "only"
max_completion_tokens = 64

[optimizer]
learning_rate = 1e-3

[training]
processes = 1
"""
SFT = """
[sft]
hidden_size = 64
num_heads = 2
num_kv_heads = 1
mlp_size = 192
steps = 200
tokens_per_step = 1024
max_solution_tokens = 96

[data]
source = "synthetic"
instruction = ""
max_operations = 2
"""
TRAINING = """
[data]
instruction = ""
"""


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


def write_problems(path: Path) -> None:
    """Sums whose answers count as right below 50: a base that cannot add gets half of them, and can learn the rest."""
    rng = generator("problems", 1)
    texts = sorted({str(random_chain(1 + i % 2, rng)) for i in range(300)})
    path.write_text(json.dumps([{"problem": text, "answer": [str(n) for n in range(50)]} for text in texts]))


def group_rewards(run_dir: Path, steps: range) -> np.ndarray:
    tables = [pq.read_table(run_dir / "rollouts" / f"step-{step:06d}.parquet") for step in steps]
    means = [table.group_by("problem_id").aggregate([("reward", "mean")])["reward_mean"] for table in tables]
    return np.concatenate([column.to_numpy() for column in means])


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("settings", "loads"),
    [
        (['rollout.engine="vllm"'], VllmEngine),
        (['rollout.engine="vllm_server"', f"rollout.vllm_python={json.dumps(sys.executable)}"], WeightPublisher),
    ],
    ids=["vllm", "vllm_server"],
)
def test_the_reward_rises_and_every_published_digest_is_what_vllm_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], loads: Any
) -> None:
    """loads: the class whose `load_weights` the loop calls."""
    (tmp_path / "sft.toml").write_text(SHARED + SFT)
    (tmp_path / "training.toml").write_text(SHARED + TRAINING)
    write_problems(tmp_path / "problems.json")
    progress = Progress(StringIO(), terminal=False)
    base, _, _ = ensure_base(load_recipe(tmp_path / "sft.toml"), progress, tmp_path / "base")
    recipe = load_recipe(
        tmp_path / "training.toml",
        [
            *settings,
            f"model.path={json.dumps(str(base))}",
            f"data.source={json.dumps(str(tmp_path / 'problems.json'))}",
        ],
    )
    published: list[tuple[int, str, str]] = []
    load_weights = loads.load_weights

    def recorded(engine: Any, weights: PublishedWeights) -> WeightsInfo:
        held = load_weights(engine, weights)
        published.append((held.version, held.digest, weights.digest("float32")))
        return held

    monkeypatch.setattr(loads, "load_weights", recorded)
    with open_run(recipe, base, tmp_path / "run", progress) as run:
        assert train(run) == 12
    assert [version for version, _, _ in published] == list(range(13))  # once before the first step
    assert all(held == learner for _, held, learner in published)
    assert len({held for _, held, _ in published}) == 13
    first, last = group_rewards(tmp_path / "run", range(1, 5)), group_rewards(tmp_path / "run", range(9, 13))
    error = np.sqrt(first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last))
    assert last.mean() - first.mean() > 5 * error
    steps = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "step"]
    assert max(row["canary_logprob_difference"] for row in steps) < 1e-3
