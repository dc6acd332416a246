"""Checks of a run directory against a recipe. Loads without torch, so that `train` refuses in under a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deepscaler.config import Recipe, changed_settings
from deepscaler.observability.counts import counted
from deepscaler.observability.run_directory import METRICS_FILE, RECIPE_FILE, read_json, read_metrics
from deepscaler.training.checkpoint import checkpoint_path, read_listed, steps_in

SHOWN_KEYS = 5


def check_directory(recipe: Recipe, path: Path) -> None:
    """Whether a run of this recipe may work in the directory, as far as a look at its files tells.

    Raises ValueError for one that was started with other settings, or that lost its checkpoints.
    """
    steps = steps_in(path / "checkpoints")
    checkpoints = [checkpoint_path(path / "checkpoints", step) for step in reversed(steps)]
    readable = (read_listed(checkpoint, RECIPE_FILE) for checkpoint in checkpoints)
    stored = next((recipe for recipe in readable if recipe), None) or read_json(path / RECIPE_FILE)
    if stored is not None:
        refuse_other_settings(stored, recipe, path)
    if not steps and (trained := _steps_trained(path)):
        raise ValueError(
            f"{path} holds {counted(trained, 'step')} of training but no checkpoint in {path / 'checkpoints'}, so it "
            "cannot go on, and starting over would mix two runs. Put the checkpoints back, or give another --run-dir"
        )


def refuse_other_settings(stored: Mapping[str, object], recipe: Recipe, path: Path) -> None:
    """stored: the recipe that the run in `path` was started with. Raises ValueError naming what differs."""
    changed = changed_settings(stored, recipe.model_dump(mode="json"))
    if not changed:
        return
    shown = ", ".join(f"{one.key} ({one.before} -> {one.after})" for one in changed[:SHOWN_KEYS])
    more = f" and {len(changed) - SHOWN_KEYS} more" if len(changed) > SHOWN_KEYS else ""
    raise ValueError(
        f"{path} was started with other settings: {shown}{more}. Give it the settings it was started with, or "
        f"{ways_on(path)}"
    )


def ways_on(path: Path) -> str:
    """The remedy: how to go on with what a resume refuses."""
    return (
        f"go on from its newest checkpoint in a new directory: give the same command another --run-dir and "
        f"--from {path} (--keep-optimizer keeps the optimizer's state)"
    )


def _steps_trained(path: Path) -> int:
    """Steps that left metrics or rollouts."""
    file = path / METRICS_FILE
    logged = sum(row["kind"] == "step" for row in read_metrics(file)) if file.is_file() else 0
    return max(logged, sum(1 for _ in (path / "rollouts").glob("step-*.parquet")))
