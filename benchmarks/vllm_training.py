"""A run of the quickstart's size that samples with vLLM's CPU build in the same process.

    .venv-vllm/bin/python benchmarks/vllm_training.py [--steps 16] [--out DIR] [--json FILE]

The recipe is the quickstart's, in one process, with a base of 4 heads: vLLM computes the width of a Qwen2 head as
width / heads. The base is made first where DIR has none. Prints the reward, digests and seconds of every step as JSON,
and how much the mean reward of a prompt rose between the first and the last steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from records import ROOT, machine

from deepscaler import cpu
from deepscaler.config import Recipe, load_recipe
from deepscaler.engines.vllm.engine import VllmEngine
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.observability.run_directory import read_metrics
from deepscaler.toy.base_model import ensure_base

RECIPE = ROOT / "recipes" / "quickstart.toml"
BASE = ("sft.num_heads=4", "sft.num_kv_heads=2")
WINDOW = 5  # steps at the beginning and at the end that are compared
FIGURES = (
    "reward_mean",
    "truncated_frac",
    "mismatch_mean",
    "mismatch_max",
    "sample_s",
    "update_s",
    "publish_s",
    "step_s",
)
Record = dict[str, Any]


def recipe_for(steps: int, out: Path) -> Recipe:
    sets = (f"num_steps={steps}", "training.processes=1", 'rollout.engine="vllm"')
    return load_recipe(RECIPE, [*BASE, *sets, f"sft.output={json.dumps(str(out / 'bases'))}"])


def record_digests() -> list[Record]:
    """Filled at every publish: the digest of what vLLM then holds, beside that of the learner's weights."""
    published: list[Record] = []
    load_weights = VllmEngine.load_weights

    def recorded(self: VllmEngine, weights: Any) -> Any:
        held = load_weights(self, weights)
        published.append({"version": held.version, "held": held.digest, "published": weights.digest(held.dtype)})
        return held

    VllmEngine.load_weights = recorded
    return published


def run(steps: int, out: Path) -> Record:
    progress = Progress(sys.stderr, terminal=False)
    cpu.prepare(threads=1)
    cpu.compile_kernels(progress.message)
    recipe, published = recipe_for(steps, out), record_digests()
    base, base_record, _ = ensure_base(recipe, progress)
    with open_run(recipe, base, out / "run", progress) as opened:
        train(opened)
    rows = read_metrics(out / "run" / "metrics.jsonl")
    metrics = [row for row in rows if row["kind"] == "step"]
    first, last = (group_rewards(out / "run", part) for part in (metrics[:WINDOW], metrics[-WINDOW:]))
    error = float(np.sqrt(first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last)))
    return {
        "machine": machine(),
        "base_s": base_record["seconds"],
        "rise": {"first": float(first.mean()), "last": float(last.mean()), "standard_error": error},
        "num_equal_digests": sum(one["held"] == one["published"] for one in published),
        "num_different_digests": len({one["held"] for one in published}),
        "pass@1": {row["step"]: row["pass@1"] for row in rows if row["kind"] == "evaluation"},
        "steps": {name: [row[name] for row in metrics] for name in FIGURES},
        "published": published,
    }


def group_rewards(directory: Path, metrics: list[Record]) -> np.ndarray:
    """Mean reward of every group of completions in these steps."""
    names = [directory / "rollouts" / f"step-{row['step']:06d}.parquet" for row in metrics]
    tables = [pq.read_table(name, columns=["problem_id", "reward"]) for name in names]
    means = [table.group_by("problem_id").aggregate([("reward", "mean")])["reward_mean"] for table in tables]
    return np.concatenate([column.to_numpy() for column in means])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16, help="16 = the quickstart's first stage")
    parser.add_argument("--out", type=Path, help="keep base and run there; a temporary directory by default")
    parser.add_argument("--json", type=Path, help="write the record there as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deepscaler-vllm-training-") as temporary:
        record = run(arguments.steps, (arguments.out or Path(temporary)).resolve())
    text = json.dumps(record, indent=1) + "\n"
    if arguments.json:
        arguments.json.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
