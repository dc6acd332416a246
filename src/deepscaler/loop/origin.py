"""The checkpoint of another run that a new run begins with: `deepscaler train --from`. Loads without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from deepscaler.training.checkpoint import Checkpoint, newest_checkpoint, read_checkpoint


@dataclass(frozen=True, slots=True)
class Origin:
    """The checkpoint of another run to go on from: of `step`, or the newest that is whole."""

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
    """`RUN` or `RUN@STEP`; a directory whose own name ends like a step is taken as a whole."""
    name, at, step = text.rpartition("@")
    if not at or Path(text).is_dir():
        return Origin(Path(text), None, keep_optimizer)
    if not re.fullmatch(r"[0-9]{1,9}", step):
        raise ValueError(f"--from {text}: expected RUN or RUN@STEP, for example runs/mine@300")
    return Origin(Path(name), int(step), keep_optimizer)
