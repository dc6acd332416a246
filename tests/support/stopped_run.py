"""A run that stopped half way, to be changed and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

from deepscaler.config import Recipe, load_recipe
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.observability.run_directory import read_metrics

NUM_STEPS = 3


def load(directory: Path, *overrides: str) -> Recipe:
    return load_recipe(directory / "tiny.toml", [f"model.path={directory / 'model'}", *overrides])


def go(recipe: Recipe, path: Path) -> tuple[str, str]:
    """(digest of the weights at the end, what was said)."""
    out = StringIO()
    with open_run(recipe, Path(recipe.model.path or ""), path, Progress(out, terminal=False)) as run:
        train(run)
        return run.weights.digest("float32"), out.getvalue()


def overrides_of(directory: Path, *others: str) -> list[str]:
    return [f"data.source={directory / 'train.json'}", *others]


def resumed(directory: Path, *overrides: str) -> tuple[str, str]:
    return go(load(directory, *overrides_of(directory), *overrides), directory / "run")


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def other_weights(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model" / "model.safetensors")
    weights["model.norm.weight"] += 0.5
    save_file(weights, directory / "model" / "model.safetensors", metadata={"format": "pt"})


def events(directory: Path) -> list[dict[str, Any]]:
    rows = read_metrics(directory / "run" / "metrics.jsonl")
    return [row for row in rows if row["kind"] == "event" and row["event"] == "resume"]
