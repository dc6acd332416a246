"""examples/sft_then_rl at toy size: what supervised fine-tuning leaves is what reinforcement starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config import load_recipe
from deepscaler.config.supervised import load_supervised
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.observability.run_directory import read_json, read_metrics
from deepscaler.sft.build import open_sft
from deepscaler.sft.run import train as train_supervised
from tiny_run import write_model

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "sft_then_rl"


def test_the_two_recipes_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the recipes name their data from there
    base, cold = write_model(tmp_path / "base"), tmp_path / "cold"
    toy = [f"model.path={base}", "sft.num_steps=4", "sft.validate_every_steps=2", "training.processes=1"]
    with open_sft(load_supervised(EXAMPLE / "sft.toml", toy), cold, Progress()) as supervised:
        assert train_supervised(supervised) == 4
    losses = [row["loss"] for row in read_metrics(cold / "metrics.jsonl") if row["kind"] == "step"]
    assert losses[-1] < losses[0]
    counts = (read_json(cold / "run.json") or {})["traces"]
    assert counts["train"]["num_traces"] == 288 and counts["validation"]["num_traces"] == 32
    assert counts["train"]["num_dropped"] == counts["train"]["num_truncated"] == 0

    smaller = ["rollout.prompts_per_step=2", "rollout.group_size=2", "num_steps=2", "optimizer.decay_steps=2"]
    start = cold / "checkpoints" / "step-000004"
    recipe = load_recipe(EXAMPLE / "rl.toml", [f"model.path={start}", *smaller, "training.processes=1"])
    with open_run(recipe, start, tmp_path / "rl", Progress()) as run:
        assert run.weights.digest("float32") == run.inputs.weights
        assert train(run) == 2
    steps = [row for row in read_metrics(tmp_path / "rl" / "metrics.jsonl") if row["kind"] == "step"]
    assert [row["num_completions"] for row in steps] == [4, 4]
