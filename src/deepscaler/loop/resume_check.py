"""Checks what `deepscaler train` resumes: its run directory, or the checkpoint of another run (--from).

Loads without torch, so that `train` fails in under a second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepscaler.config import Recipe, changed_settings
from deepscaler.observability.counts import counted
from deepscaler.observability.run_directory import METRICS_FILE, RECIPE_FILE, read_json, read_metrics
from deepscaler.training.checkpoint import (
    Checkpoint,
    checkpoint_path,
    newest_checkpoint,
    read_checkpoint,
    read_listed,
    steps_in,
)

SHOWN_KEYS = 5


def check_directory(recipe: Recipe, path: Path) -> None:
    """Check from its files that a run of this recipe may use the directory.

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
    """The remedy for a refused resume."""
    return (
        f"go on from its newest checkpoint in a new directory: give the same command another --run-dir and "
        f"--from {path} (--keep-optimizer keeps the optimizer's state)"
    )


def _steps_trained(path: Path) -> int:
    """Steps that left metrics or rollouts."""
    file = path / METRICS_FILE
    logged = sum(row["kind"] == "step" for row in read_metrics(file)) if file.is_file() else 0
    return max(logged, sum(1 for _ in (path / "rollouts").glob("step-*.parquet")))


@dataclass(frozen=True, slots=True)
class Origin:
    """The checkpoint of another run to start from: that of `step`, or the newest undamaged one."""

    run: Path
    step: int | None = None
    keep_optimizer: bool = False

    @property
    def checkpoints(self) -> Path:
        return self.run / "checkpoints"

    def read(self) -> Checkpoint:
        """Raises ValueError when there is none."""
        if self.step is not None:
            return read_checkpoint(self.checkpoints, self.step)
        found = newest_checkpoint(self.checkpoints)
        if found is None:
            raise ValueError(f"--from {self.run}: {self.checkpoints} holds no checkpoint; give the directory of a run")
        return found


def parse_origin(text: str, *, keep_optimizer: bool) -> Origin:
    """Parse `RUN` or `RUN@STEP`; an existing directory with such a name takes precedence."""
    name, at, step = text.rpartition("@")
    if not at or Path(text).is_dir():
        return Origin(Path(text), None, keep_optimizer)
    if not re.fullmatch(r"[0-9]{1,9}", step):
        raise ValueError(f"--from {text}: expected RUN or RUN@STEP, for example runs/mine@300")
    return Origin(Path(name), int(step), keep_optimizer)
