"""Both cores: two processes of one thread against one process of two threads, and of one; tokens per second.

    python benchmarks/processes.py [--work "sampling, tiny" ...] [--rounds 2] [--write]

Sampling and updates of the models of the other benchmarks, and the quickstart's supervised base. Settings alternate in
every round, each in a process of its own; a ratio is taken within its round. Wall time, so other programs show. Prints
JSON; --write puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from records import machine, middle, with_range, write_table

SETTINGS = {"one process, one thread": (1, 1), "two threads": (1, 2), "two processes": (2, 1)}
SUPERVISED_STEPS = 40


def rate(run: Callable[[], int], repeats: int) -> float:
    """Tokens per second; the first run, not counted, warms up."""
    run()
    start = time.monotonic()
    tokens = sum(run() for _ in range(repeats))
    return tokens / (time.monotonic() - start)


def sampling(processes: int, size: str, num_prompts: int, length: int) -> float:
    """Groups of 8, equal lengths."""
    from learning import recipe
    from model_sizes import build

    from deepscaler.cluster.helper import EngineSettings
    from deepscaler.cluster.processes import open_sharded_engine
    from deepscaler.modeling.attention import NAME
    from deepscaler.training.replica import policy_computer
    from deepscaler.types import Request, SamplingParams

    model = build(size, NAME)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(2, 1000, 32).astype(np.int32) for _ in range(num_prompts)]
    requests = [Request(str(i), prompt, 8) for i, prompt in enumerate(prompts)]
    params = SamplingParams(max_completion_tokens=length)
    computer = policy_computer(model, recipe())
    with open_sharded_engine(computer, EngineSettings(frozenset(), 512), count=processes) as sampler:
        return rate(lambda: sum(len(r.completion_ids) for r in sampler.generate(requests, params)), 2)


def update(processes: int, size: str, tokens: int) -> float:
    """Forward, backward, clipping and AdamW."""
    from learning import make_samples, recipe
    from model_sizes import build
    from policy_learner import make_learner

    from deepscaler.cluster.processes import start_helpers
    from deepscaler.modeling.attention import NAME
    from deepscaler.training.replica import policy_computer

    model, samples = build(size, NAME), make_samples(size, tokens)
    computer = policy_computer(model, recipe())
    with start_helpers(computer, None, processes - 1) as helpers:
        learner = make_learner(model, recipe(), computer, helpers)

        def run() -> int:
            learner.update([samples])
            return sum(s.num_tokens for s in samples)

        return rate(run, 2)


def supervised(processes: int) -> float:
    from deepscaler.cluster.processes import start_helpers
    from deepscaler.cluster.replica import SharedReplica
    from deepscaler.config import load_recipe
    from deepscaler.toy.base_model import supervised_samples
    from deepscaler.toy.muon_helpers import MuonHelper, shared_orthogonalise
    from deepscaler.toy.supervised import new_model, optimizers, train
    from deepscaler.toy.tokenizer import build_tokenizer
    from deepscaler.toy.traces import WORDS
    from deepscaler.training.cross_entropy import cross_entropy_computer

    recipe = load_recipe(
        "recipes/quickstart.toml", [f"training.processes={processes}", f"sft.steps={SUPERVISED_STEPS}"]
    )
    assert recipe.sft is not None
    tokenizer = build_tokenizer(WORDS)
    model = new_model(recipe.sft, tokenizer, seed=1)
    samples = supervised_samples(recipe, recipe.sft, tokenizer)
    computer = cross_entropy_computer(model, recipe.training)
    with start_helpers(computer, None, processes - 1, build=MuonHelper) as helpers:
        replica = SharedReplica(computer, optimizers(recipe.sft, shared_orthogonalise(helpers)), helpers)
        train(model, replica, samples, recipe.sft.model_copy(update={"steps": 5}))
        return train(model, replica, samples, recipe.sft)["tokens_per_s"]


WORK: dict[str, Callable[[int], float]] = {
    "sampling, tiny": lambda processes: sampling(processes, "tiny", 32, 128),
    "sampling, small": lambda processes: sampling(processes, "small", 8, 64),
    "update, tiny": lambda processes: update(processes, "tiny", 16384),
    "update, small": lambda processes: update(processes, "small", 8192),
    "supervised base of the quickstart": supervised,
}


def measured(work: str, processes: int, threads: int) -> float:
    """Tokens per second, in a process of its own."""
    command = [sys.executable, __file__, "--measure", work, str(processes), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return float(done.stdout.splitlines()[-1])


def compared(work: str, rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(rounds):
        for name, (processes, threads) in SETTINGS.items():
            rates[name].append(measured(work, processes, threads))
    return rates


def write(results: dict[str, dict[str, list[float]]], rounds: int, info: dict[str, Any]) -> None:
    rows = []
    for work, rates in results.items():
        single, *others = rates.values()
        cells = [
            f"{statistics.median(values):,.0f} (**{with_range(middle(ratios))}**)"
            for values in others
            for ratios in [[a / b for a, b in zip(values, single, strict=True)]]
        ]
        rows.append((work, f"{statistics.median(single):,.0f}", *cells))
    note = (
        "Tokens per second of wall time, and their ratio to one thread in the same round, median (range) of "
        f"{rounds} alternating rounds."
    )
    write_table("processes.py", ("work", *SETTINGS), rows, note, info)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", nargs="+", choices=list(WORK), default=list(WORK))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", nargs=3, metavar=("WORK", "PROCESSES", "THREADS"), help="internal")
    arguments = parser.parse_args()
    if arguments.measure:
        from deepscaler import cpu

        work, processes, threads = arguments.measure
        cpu.prepare(int(threads))
        print(WORK[work](int(processes)))
        return
    results = {work: compared(work, arguments.rounds) for work in arguments.work}
    info = machine()
    print(json.dumps({"tokens_per_s": results, "machine": info}, indent=1))
    if arguments.write:
        write(results, arguments.rounds, info)


if __name__ == "__main__":
    main()
