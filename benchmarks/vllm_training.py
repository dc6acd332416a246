"""A quickstart-sized run over vLLM's CPU build in the same process, beside the same run over the torch engine.

    .venv-vllm/bin/python benchmarks/vllm_training.py [--steps 16] [--out DIR] [--json FILE] [--write]
    python benchmarks/vllm_training.py --merge FILE --write

The recipe is the quickstart's, with a base of 4 heads: vLLM computes the width of a Qwen2 head as width / heads. Both
runs begin with the same base, problems and seed; their random numbers for sampling differ. Each run is a process of its
own, one after the other. After every update the digest of what the engine holds is compared with the learner's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from records import ROOT, machine, write_table

from deepscaler.config import Recipe, load_recipe
from deepscaler.observability.run_directory import read_metrics

RECIPE = ROOT / "recipes" / "quickstart.toml"
BASE = ("sft.num_heads=4", "sft.num_kv_heads=2")
WINDOW = 5  # steps at the beginning and at the end that are compared
RUN_LIMIT_S = 3600.0
Record = dict[str, Any]


def recipe_for(engine: str, steps: int, out: Path) -> Recipe:
    sets = (
        f"num_steps={steps}",
        "training.processes=1",
        f'rollout.engine="{engine}"',
        f"sft.output={json.dumps(str(out / 'bases'))}",
    )
    return load_recipe(RECIPE, [*BASE, *sets])


class RecordingSampler:
    """A sampler that records the digest of what it holds after each publish, beside the learner's."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self.generate, self.release_memory, self.close = sampler.generate, sampler.release_memory, sampler.close
        self.published: list[Record] = []

    def load_weights(self, weights: Any) -> Any:
        held = self._sampler.load_weights(weights)
        row = {"version": held.version, "held": held.digest, "published": weights.digest(held.dtype)}
        self.published.append(row)
        return held


def train(engine: str, steps: int, out: Path) -> Record:
    """One run in this process; the base is made when it is not there yet."""
    from deepscaler import cpu
    from deepscaler.cluster.registry import CLUSTERS
    from deepscaler.loop.build import open_run
    from deepscaler.loop.loop import train as run_loop
    from deepscaler.loop.progress import Progress
    from deepscaler.toy.base_model import ensure_base

    progress = Progress(sys.stderr, terminal=False)
    cpu.prepare(threads=1)
    cpu.compile_kernels(progress.message)
    recipe, samplers = recipe_for(engine, steps, out), []
    local = CLUSTERS["local"]

    @contextmanager
    def recording(recipe: Recipe, policy: Any) -> Iterator[Any]:
        with local(recipe, policy) as cluster:
            samplers.append(RecordingSampler(cluster.sampler))
            yield replace(cluster, sampler=samplers[0])

    CLUSTERS["local"] = recording
    base, base_record, _ = ensure_base(recipe, progress)
    with open_run(recipe, base, out / engine, progress) as run:
        run_loop(run)
    return {"sft_s": base_record["seconds"], "published": samplers[0].published, **figures(out / engine)}


def figures(directory: Path) -> Record:
    """Of the steps' metrics, and how much the mean reward of a prompt rose between the first and the last steps."""
    rows = read_metrics(directory / "metrics.jsonl")
    steps = [row for row in rows if row["kind"] == "step"]
    names = (
        "reward_mean",
        "truncated_frac",
        "mismatch_mean",
        "mismatch_max",
        "sample_s",
        "update_s",
        "publish_s",
        "step_s",
    )
    first, last = (group_rewards(directory, part) for part in (steps[:WINDOW], steps[-WINDOW:]))
    error = float(np.sqrt(first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last)))
    return {
        **{name: [row[name] for row in steps] for name in names},
        "pass@1": {row["step"]: row["pass@1"] for row in rows if row["kind"] == "evaluation"},
        "rise": {"mean": float(last.mean() - first.mean()), "standard_error": error},
    }


def group_rewards(directory: Path, steps: list[Record]) -> np.ndarray:
    """Mean reward of every group of completions in these steps."""
    means = []
    for row in steps:
        table = pq.read_table(
            directory / "rollouts" / f"step-{row['step']:06d}.parquet", columns=["problem_id", "reward"]
        )
        means += table.group_by("problem_id").aggregate([("reward", "mean")])["reward_mean"].to_pylist()
    return np.array(means)


def table_row(engine: str, run: Record) -> list[str]:
    rewards, rise, published = run["reward_mean"], run["rise"], run["published"]
    equal = sum(row["held"] == row["published"] for row in published)
    different = len({row["held"] for row in published})
    seconds = [f"{statistics.median(run[name]):.2f}" for name in ("sample_s", "update_s", "publish_s", "step_s")]
    return [
        engine,
        f"{statistics.mean(rewards[:WINDOW]):.3f} → {statistics.mean(rewards[-WINDOW:]):.3f}",
        f"{rise['mean']:+.3f} ± {rise['standard_error']:.3f}",
        f"{run['truncated_frac'][0]:.2f} → {statistics.mean(run['truncated_frac'][-WINDOW:]):.2f}",
        f"{statistics.mean(run['mismatch_mean']):.1e}, {max(run['mismatch_max']):.1e}",
        f"{equal} of {len(published)}, {different} different",
        *seconds,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="+", default=["vllm", "torch"])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--out", type=Path, help="keep base and runs there; a temporary directory by default")
    parser.add_argument("--json", type=Path, help="write the record there as well")
    parser.add_argument("--merge", type=Path, help="measure nothing, take this record")
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # this process is the run of one engine
    arguments = parser.parse_args()
    if arguments.one:
        engine = arguments.engines[0]
        run = train(engine, arguments.steps, arguments.out)
        (arguments.out / f"{engine}.json").write_text(json.dumps(run))
        return
    record = json.loads(arguments.merge.read_text()) if arguments.merge else _measured(arguments)
    print(json.dumps(record, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    if arguments.write:
        columns = ["engine", f"reward, first → last {WINDOW} steps", "rise", "truncated", "mismatch, mean, largest"]
        columns += ["equal digests", "sample, s", "update, s", "publish, s", "step, s"]
        note = f"{record['steps']} steps of 32 prompts × 8 completions, the quickstart's first stage (176 tokens), "
        note += "one process; seconds are medians. Rise: of the mean reward of a prompt, with its standard error."
        rows = [table_row(engine, run) for engine, run in record["runs"].items()]
        write_table("vllm_training.py", columns, rows, note, record["machine"])


def _measured(arguments: argparse.Namespace) -> Record:
    with tempfile.TemporaryDirectory(prefix="deepscaler-vllm-training-") as temporary:
        out, runs = (arguments.out or Path(temporary)).resolve(), {}
        for engine in arguments.engines:
            command = [sys.executable, __file__, "--one", "--engines", engine, "--steps", str(arguments.steps)]
            subprocess.run([*command, "--out", str(out)], stdout=sys.stderr, check=True, timeout=RUN_LIMIT_S)
            runs[engine] = json.loads((out / f"{engine}.json").read_text())
    return {"machine": machine(), "steps": arguments.steps, "runs": runs}


if __name__ == "__main__":
    main()
