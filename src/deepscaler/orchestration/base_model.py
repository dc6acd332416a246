"""The base model of a recipe: the directory it names, or the one its [sft] section describes, made when absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deepscaler.config import Recipe
from deepscaler.orchestration.progress import Progress, duration
from deepscaler.training.sft import base_directory, train_base


def ensure_base(
    recipe: Recipe, progress: Progress, out: Path | None = None
) -> tuple[Path, dict[str, Any], bool]:
    """(directory, record of its making, whether it was there already). `out` overrides where [sft] puts it."""
    if recipe.sft is None:
        assert recipe.model.path is not None
        return Path(recipe.model.path), {"seconds": 0.0}, True
    directory = out or base_directory(recipe)
    reused = (directory / "sft.json").is_file()
    if not reused:
        progress.message(f"training the base model into {directory}")
        train_base(recipe, directory, lambda state: _show(progress, state))
    record = json.loads((directory / "sft.json").read_text())
    progress.message(f"base model {directory} ({'made earlier' if reused else 'made'} in {record['seconds']:.0f} s)")
    return directory, record, reused


def _show(progress: Progress, state: dict[str, Any]) -> None:
    progress.update(
        f"   sft step {state['step']:>4}/{state['num_steps']}  loss {state['loss']:.3f}"
        f"  {state['tokens_per_s'] / 1000:5.1f}k tok/s  left {duration(state['seconds_left'])}"
    )
