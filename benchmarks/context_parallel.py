"""Memory per rank of one packed row of 24,576 tokens over 1, 2 and 4 ranks (training.context_parallel).

    python benchmarks/context_parallel.py [--size tiny] [--json FILE] [--write]

Every rank is a process over gloo that runs one forward and backward pass of its shard, after one over a short row,
which loads and compiles what is needed. The row holds a document of half its tokens, one of a quarter, and six
completions of one prompt, so that documents cross every boundary of shards. The figure is what the peak resident memory
of the process grows by: activations, gradients, logits. The gradients of the ranks are added up and compared with those
of one rank. --write puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from model_sizes import SIZES, build
from records import machine, write_table

from deepscaler import cpu
from deepscaler.config import memory
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.modeling.attention import NAME
from deepscaler.training.context_parallel import ContextParallel
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.replica import enable_checkpointing
from deepscaler.types import TrainSample

TOKENS = 24_576
PROMPT = 512
RANKS = (1, 2, 4)
LIMIT_S = 1800


def make_samples() -> list[TrainSample]:
    """Of TOKENS packed tokens: the prompt of the last six is one, and in the row once."""
    rng = np.random.default_rng(1)
    shared = rng.integers(2, 1000, PROMPT).astype(np.int32)
    short = (TOKENS // 4 - PROMPT) // 6
    lengths = [TOKENS // 2 - PROMPT, TOKENS // 4 - PROMPT, *[short] * 5, TOKENS // 4 - PROMPT - 5 * short]
    return [
        TrainSample(
            rng.integers(2, 1000, PROMPT).astype(np.int32) if i < 2 else shared,
            rng.integers(2, 1000, length).astype(np.int32),
            np.full(length, -7.0, np.float32),
            float(rng.normal()),
            np.full(length, 1 / TOKENS, np.float32),
            0,
        )
        for i, length in enumerate(lengths)
    ]


def start_of(sample: TrainSample, tokens: int) -> TrainSample:
    return replace(
        sample,
        completion_ids=sample.completion_ids[:tokens],
        rollout_logprobs=sample.rollout_logprobs[:tokens],
        token_weights=sample.token_weights[:tokens],
    )


def resident(name: str) -> int:
    """Bytes: VmRSS now, or VmHWM, the peak of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def run_rank(size: str, rank: int, count: int, checkpointing: bool, store: str, answers: Any) -> None:
    cpu.prepare(threads=1)
    memory.MICRO_BATCH_TOKENS, memory.MICRO_BATCH_BYTES = TOKENS, 2**50  # one micro-batch, which a CPU run would split
    limit = timedelta(seconds=LIMIT_S)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=limit)
    assert dist.group.WORLD is not None
    model, samples = build(size, NAME), make_samples()
    if checkpointing:
        enable_checkpointing(model)
    computer = GradientComputer(
        model,
        None,
        AlgorithmSection(),
        TrainingSection(tokens_per_micro_batch=TOKENS),
        temperature=1.0,
        context=ContextParallel(dist.group.WORLD) if count > 1 else None,
    )
    computer.accumulate([start_of(samples[0], 64)], None, None)  # loads and compiles
    model.zero_grad(set_to_none=True)
    before = resident("VmRSS")
    computer.accumulate(samples, None, None)
    grown = resident("VmHWM") - before
    gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
    dist.all_reduce(gradient)
    answers.put((rank, grown, gradient.numpy() if rank == 0 else None))
    dist.destroy_process_group()


def measure(size: str, count: int, checkpointing: bool) -> tuple[int, np.ndarray]:
    """The largest growth of any rank in bytes, and the gradient, float32 [parameters]."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as directory:
        store = str(Path(directory) / "store")
        ranks = [
            context.Process(target=run_rank, args=(size, rank, count, checkpointing, store, answers), daemon=True)
            for rank in range(count)
        ]
        for rank in ranks:
            rank.start()
        results = sorted((answers.get(timeout=LIMIT_S) for _ in ranks), key=lambda result: result[0])
        for rank in ranks:
            rank.join(timeout=60)
    return max(grown for _, grown, _ in results), results[0][2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="tiny", choices=sorted(SIZES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows = []
    whole = None
    for count in RANKS:
        row: dict[str, Any] = {"ranks": count, "tokens_per_rank": TOKENS // count}
        for name, checkpointing in (("plain_mib", False), ("checkpointed_mib", True)):
            grown, gradient = measure(arguments.size, count, checkpointing)
            whole = gradient if whole is None else whole
            row[name] = grown / 2**20
            difference = float(np.linalg.norm(gradient - whole) / np.linalg.norm(whole))
            row["gradient_difference"] = max(difference, row.get("gradient_difference", 0.0))
        rows.append(row)
        print(json.dumps(row), flush=True)
    record = {"machine": machine(), "size": arguments.size, "tokens": TOKENS, "rows": rows}
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    if arguments.write:
        write(record)


def write(record: dict[str, Any]) -> None:
    columns = ("ranks", "tokens per rank", "memory per rank, MiB", "with checkpointing, MiB", "gradient differs by")
    rows = [
        (
            str(row["ranks"]),
            f"{row['tokens_per_rank']:,}",
            f"{row['plain_mib']:,.0f}",
            f"{row['checkpointed_mib']:,.0f}",
            f"{row['gradient_difference']:.1e}",
        )
        for row in record["rows"]
    ]
    note = (
        f"`{record['size']}`, one row of {record['tokens']:,} tokens; the largest growth of any rank over a process "
        "that has computed a short row before. The difference is the norm of that to one rank, over the norm."
    )
    write_table("context_parallel.py", columns, rows, note, record["machine"])


if __name__ == "__main__":
    main()
