"""`deepscaler train` that sends itself SIGKILL at a chosen point: python killed_run.py POINT COUNT RECIPE RUN_DIR
[--set KEY=VALUE].

`sft:POINT` is the point of another command.

POINT is a place in the program, COUNT how often it is passed before the process dies there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

from deepscaler.cli.main import main
from deepscaler.cluster.replica import SharedReplica
from deepscaler.evaluation.store import SampleStore
from deepscaler.loop.progress import Progress
from deepscaler.observability import run_directory
from deepscaler.training import checkpoint


def die_after(owner: Any, name: str, count: int) -> None:
    """Let `owner.name` run `count` times, then die right after it."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def replacement(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        result = original(*arguments, **keywords)
        calls += 1
        if calls >= count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, replacement)


POINTS: dict[str, tuple[Any, str]] = {
    "rollout": (Progress, "on_rollout"),  # some completions of a step are there, others not
    "gradient": (SharedReplica, "accumulate"),  # between the backward pass and the optimizer's step
    "optimizer": (torch.optim.AdamW, "step"),  # between the two updates of one step
    "evaluation": (SampleStore, "add"),  # some samples of an evaluation are stored
    "record": (run_directory.RunDirectory, "write_rollouts"),  # updated, but its metrics are not written
    "checkpoint": (checkpoint, "_fsync"),  # files written, the checkpoint not committed
    "prune": (checkpoint, "_remove"),  # old checkpoints half removed
}

if __name__ == "__main__":
    command, _, point = sys.argv[1].rpartition(":")
    count = int(sys.argv[2])
    owner, name = POINTS[point]
    die_after(owner, name, count)
    sys.argv = ["deepscaler", command or "train", sys.argv[3], "--run-dir", *sys.argv[4:]]
    main()
