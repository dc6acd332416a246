"""Two processes of one thread against one process of two threads, and of one: supervised tokens per second.

    python benchmarks/processes.py [--rounds 3] [--write]

The same model and batches; settings alternate in every round, the ratio is that of medians. Prints JSON;
--write puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from records import machine, write_table

SETTINGS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread": (2, 1)}
STEPS = 40


def measure(processes: int, threads: int) -> float:
    """Tokens per second of STEPS updates, in this process."""
    import torch

    from deepscaler import cpu
    from deepscaler.config import load_recipe
    from deepscaler.data.traces import WORDS
    from deepscaler.orchestration.base_model import supervised_samples
    from deepscaler.orchestration.team import make_team
    from deepscaler.training.model import stop_token_ids
    from deepscaler.training.sft import new_model, sft_computer, train
    from deepscaler.training.tokenizer import build_tokenizer

    cpu.prepare(threads)
    recipe = load_recipe("recipes/quickstart.toml", [f"training.processes={processes}", f"sft.steps={STEPS}"])
    assert recipe.sft is not None
    tokenizer = build_tokenizer(WORDS)
    model = new_model(recipe.sft, tokenizer, seed=1)
    samples = supervised_samples(recipe, recipe.sft, tokenizer)
    with make_team(recipe, sft_computer(model, recipe.training), model, stop_token_ids(model, tokenizer)) as team:
        warm = recipe.sft.model_copy(update={"steps": 5})
        train(model, team, samples, warm)
        record = train(model, team, samples, recipe.sft)
    assert torch.get_num_threads() == threads
    return record["tokens_per_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", nargs=2, type=int, help="internal: processes and threads")
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure(*arguments.measure))
        return
    rates: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(arguments.rounds):
        for name, (processes, threads) in SETTINGS.items():
            command = [sys.executable, __file__, "--measure", str(processes), str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
            rates[name].append(float(done.stdout.splitlines()[-1]))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    single = medians["1 process, 1 thread"]
    ratio = {name: round(value / single, 2) for name, value in medians.items()}
    info = machine()
    print(json.dumps({"tokens_per_s": rates, "ratio_to_one_thread": ratio, "machine": info}, indent=1))
    if arguments.write:
        columns = ("setting", "supervised tokens/s, wall", "ratio to one thread")
        rows = [(name, f"{medians[name]:,.0f}", f"{ratio[name]:.2f}") for name in SETTINGS]
        note = "The quickstart's base model, medians of alternating runs; wall time, so other programs show."
        write_table("processes.py", columns, rows, note, info)


if __name__ == "__main__":
    main()
