"""A run of supervised fine-tuning that takes seconds: the tiny model, a few dozen traces and the recipe for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tiny_run import write_model

RECIPE = """
name = "tiny-sft"
seed = 3

[model]
path = "{model}"

[data]
source = "{traces}"
validation_frac = 0.1

[sft]
epochs = 2
traces_per_step = 8
validate_every_steps = 3

[optimizer]
learning_rate = 0.01
warmup_updates = 2

[training]
processes = {processes}
tokens_per_micro_batch = 256

[checkpoint]
every_steps = {every_steps}
"""


def sum_traces(count: int) -> list[dict[str, object]]:
    """Sums of two digits with a thought; every fourth is a conversation of two turns."""
    rows: list[dict[str, object]] = []
    for number in range(count):
        a, b = number % 10, number * 7 % 10
        turns = [("user", f"{a}+{b}?"), ("assistant", f"<think>{a}+{b}={a + b}</think>\\boxed{{{a + b}}}")]
        if number % 4 == 0:
            turns += [("user", "+1?"), ("assistant", f"<think>{a + b}+1={a + b + 1}</think>\\boxed{{{a + b + 1}}}")]
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    return rows


def write_traces(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_sft(directory: Path, *, num_traces: int = 40, processes: int = 2, every_steps: int = 2) -> Path:
    """A recipe over a new tiny model and traces, all in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    traces = write_traces(directory / "traces.jsonl", sum_traces(num_traces))
    recipe, model = directory / "sft.toml", write_model(directory / "model")
    text = RECIPE.format(model=model, traces=traces, processes=processes, every_steps=every_steps)
    recipe.write_text(text)
    return recipe
