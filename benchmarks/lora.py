"""Adapters beside full training: memory, seconds and bytes of one update, with the reference of a KL term.

    python benchmarks/lora.py [--size small] [--rounds 3]

One process, one core, float32, a model of `model_sizes.py`: 16 samples of 32 + 224 tokens, log-probabilities of the
reference, gradient and AdamW, publish and checkpoint. Every case in a process of its own; CPU seconds, the least of
the rounds after one that warms up; peak memory is VmHWM, everything included. Prints the table of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

CASES = {"all weights": 0, "rank 8": 8, "rank 32": 32}
LIMIT_S = 1800.0
SAMPLES, PROMPT_TOKENS, COMPLETION_TOKENS = 16, 32, 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| | trained | reference, CPU s | update, CPU s | publish, CPU s | peak memory | checkpoint |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, rank in CASES.items():
        queue = context.Queue()
        process = context.Process(target=_measure, args=(given.size, rank, given.rounds, queue), daemon=True)
        process.start()
        row = queue.get(timeout=LIMIT_S)
        process.join(LIMIT_S)
        print(
            f"| {name} | {row['trained'] / 1e6:.2f} M | {row['reference']:.2f} | {row['update']:.2f} | "
            f"{row['publish']:.2f} | {row['peak']:,.0f} MiB | {row['checkpoint']:,.1f} MiB |",
            flush=True,
        )


def _measure(size: str, rank: int, rounds: int, queue: Any) -> None:
    from model_sizes import SIZES, build
    from policy_learner import make_learner

    from deepscaler import cpu
    from deepscaler.modeling.attention import NAME
    from deepscaler.training.gradients import Logprobs

    cpu.prepare(threads=1)
    learner, samples = make_learner(build(size, NAME), _recipe(rank)), _samples(SIZES[size]["vocab_size"])
    replica = learner.replica
    seconds: dict[str, list[float]] = {"reference": [], "update": [], "publish": []}
    for _ in range(rounds + 1):
        ref: list[Logprobs] = []
        work = {
            "reference": lambda ref=ref: ref.append(replica.logprobs(samples, of="reference")),
            "update": lambda ref=ref: (replica.accumulate(samples, None, ref[0]), replica.apply(1e-6, 1.0)),
            "publish": lambda: [weight.sum() for _, weight in learner.publish().tensors("float32")],
        }
        for name, run in work.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    with tempfile.TemporaryDirectory() as directory:
        replica.save(Path(directory))
        num_bytes = sum(file.stat().st_size for file in Path(directory).iterdir())
    model = replica.computer.model  # type: ignore[attr-defined]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    queue.put(
        {
            **{name: min(values[1:]) for name, values in seconds.items()},
            "trained": trained,
            "peak": _peak_mib(),
            "checkpoint": num_bytes / 2**20,
        }
    )


def _recipe(rank: int) -> Any:
    from deepscaler.config.models import Recipe

    return Recipe.model_validate(
        {
            "name": "benchmark",
            "num_steps": 1,
            "model": {"path": "unused", "lora": {"rank": rank}},
            "data": {"source": "unused.json"},
            "rollout": {"prompts_per_step": 8, "group_size": 8},
            "stages": [{"name": "s", "max_completion_tokens": COMPLETION_TOKENS}],
            "algorithm": {"kl": {"coefficient": 0.001}},
        }
    )


def _samples(vocabulary: int) -> list[Any]:
    import numpy as np

    from deepscaler.types import TrainSample

    rng = np.random.default_rng(1)
    return [
        TrainSample(
            prompt_ids=rng.integers(2, vocabulary, PROMPT_TOKENS).astype(np.int32),
            completion_ids=rng.integers(2, vocabulary, COMPLETION_TOKENS).astype(np.int32),
            rollout_logprobs=np.full(COMPLETION_TOKENS, -9.0, np.float32),
            advantage=1.0 if index % 2 else -1.0,
            token_weights=np.full(COMPLETION_TOKENS, 1 / (SAMPLES * COMPLETION_TOKENS), np.float32),
            policy_version=0,
        )
        for index in range(SAMPLES)
    ]


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


if __name__ == "__main__":
    main()
