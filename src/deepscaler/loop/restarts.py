"""Trains on from the newest checkpoint when a worker is lost whose loss a run does not survive, such as a learner rank.

Never a single rank: all workers are closed and started again, as the same command does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from deepscaler.loop.loop import train
from deepscaler.loop.run import Run
from deepscaler.observability.counts import counted
from deepscaler.types import WorkerLost


def train_restarting(
    open_run: Callable[[], AbstractContextManager[Run]], max_restarts: int, say: Callable[[str], object]
) -> Run:
    """Train to the end; returns the last run, closed.

    max_restarts: in a row, without a step done between. Raises WorkerLost after them.
    """
    furthest, losses = -1, 0
    while True:
        step = furthest
        try:
            with open_run() as run:
                try:
                    train(run)
                    return run
                finally:
                    step = run.step
        except WorkerLost as lost:
            losses = 1 if step > furthest else losses + 1
            furthest = max(furthest, step)
            if losses > max_restarts:
                raise WorkerLost(f"{lost}\n{_given_up(max_restarts)}") from lost
            say(f"{lost}\nall workers start again, from the newest checkpoint (restart {losses} of {max_restarts})")


def _given_up(max_restarts: int) -> str:
    again = f"started again {counted(max_restarts, 'time')} without a step done between: " if max_restarts else ""
    return f"{again}run the same command again to continue from the newest checkpoint"
