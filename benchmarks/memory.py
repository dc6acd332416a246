"""Peak memory of learning: what the loss adds over hidden states at a large vocabulary, and checkpointing.

    python benchmarks/memory.py [--rounds 1] [--write]

`bigvocab` is `tiny` with a vocabulary of 151,936. Every figure is the peak resident memory of a process of its own
that runs one forward and backward pass over one micro-batch of so many tokens; `hidden` stops at the hidden states,
`loss` is the whole loss. Prints JSON; --write puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
from model_sizes import build
from records import machine, write_table

from deepscaler import cpu
from deepscaler.config import memory
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.modeling.attention import NAME, forward_hidden
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.packing import pack
from deepscaler.training.replica import enable_checkpointing
from deepscaler.types import TrainSample

LOSS_TOKENS = (2048, 8192, 24576)
CHECKPOINTING_TOKENS = 8192
SEQUENCE = 256


def make_samples(tokens: int) -> list[TrainSample]:
    rng, completion = np.random.default_rng(1), SEQUENCE - 8
    return [
        TrainSample(
            rng.integers(2, 1000, 8).astype(np.int32),
            rng.integers(2, 1000, completion).astype(np.int32),
            np.full(completion, -7.0, np.float32),
            float(rng.normal()),
            np.full(completion, 1 / tokens, np.float32),
            0,
        )
        for _ in range(tokens // SEQUENCE)
    ]


def measure(size: str, tokens: int, what: str) -> dict[str, float]:
    """Peak resident MB and CPU seconds. `what`: `start`, `hidden`, `loss`, or `checkpointed` (the loss as well)."""
    cpu.prepare(threads=1)
    memory.MICRO_BATCH_TOKENS, memory.MICRO_BATCH_BYTES = tokens, 2**50  # one micro-batch, which a CPU run would split
    model, samples = build(size, NAME), make_samples(tokens)
    if what == "checkpointed":
        enable_checkpointing(model)
    training = TrainingSection(tokens_per_micro_batch=tokens)
    computer = GradientComputer(model, None, AlgorithmSection(), training, temperature=1.0)
    start = time.process_time()
    if what == "hidden":
        batch = pack(samples, next(model.parameters()).device)
        forward_hidden(model, batch.input_ids, batch.position_ids, batch.attention).sum().backward()
    elif what != "start":
        computer.accumulate(samples, None, None)
    seconds = time.process_time() - start
    return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "seconds": seconds}


def in_a_process(size: str, tokens: int, what: str, rounds: int) -> dict[str, float]:
    runs = []
    for _ in range(rounds):
        command = [sys.executable, __file__, "--measure", size, str(tokens), what]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def write(result: dict[str, Any], info: dict[str, Any]) -> None:
    columns = ("case", "tokens", "hidden states alone, MB", "whole loss, MB", "the loss adds, MB")
    rows = [
        ("bigvocab", f"{r['tokens']:,}", f"{r['hidden_mb']:,.0f}", f"{r['loss_mb']:,.0f}", f"{r['added_mb']:,.0f}")
        for r in result["loss"]
    ]
    c = result["checkpointing"]
    note = (
        f"Activation checkpointing (`model.activation_checkpointing`), `small`, one micro-batch of {c['tokens']:,} "
        f"tokens: {c['off']['peak_mb']:,.0f} MB without, {c['on']['peak_mb']:,.0f} MB with; {c['time_ratio']:.2f} "
        "times the CPU time. "
        f"A process that only holds `bigvocab`: {result['start_mb']:,.0f} MB."
    )
    write_table("memory.py", columns, rows, note, info)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", nargs=3, help="internal: size, tokens and what")
    arguments = parser.parse_args()
    if arguments.measure:
        size, tokens, what = arguments.measure
        print(json.dumps(measure(size, int(tokens), what)))
        return
    loss = []
    for tokens in LOSS_TOKENS:
        peaks = {
            what: in_a_process("bigvocab", tokens, what, arguments.rounds)["peak_mb"] for what in ("hidden", "loss")
        }
        added = peaks["loss"] - peaks["hidden"]
        loss.append({"tokens": tokens, "hidden_mb": peaks["hidden"], "loss_mb": peaks["loss"], "added_mb": added})
    off, on = (in_a_process("small", CHECKPOINTING_TOKENS, what, arguments.rounds) for what in ("loss", "checkpointed"))
    result = {
        "loss": loss,
        "start_mb": in_a_process("bigvocab", SEQUENCE, "start", 1)["peak_mb"],
        "checkpointing": {
            "tokens": CHECKPOINTING_TOKENS,
            "off": off,
            "on": on,
            "time_ratio": on["seconds"] / off["seconds"],
        },
    }
    info = machine()
    print(json.dumps({"machine": info, **result}, indent=1))
    if arguments.write:
        write(result, info)


if __name__ == "__main__":
    main()
