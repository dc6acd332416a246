"""A run goes on from its newest checkpoint when a worker is lost, a bounded number of times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deepscaler.loop.restarts import train_restarting
from deepscaler.types import RunError, WorkerLost
from fake_workers import FakeLearner, fake_run, recipe


class Losing:
    """Opens runs that go on where the one before stopped; the learner is lost in the updates of the given steps."""

    def __init__(self, path, *losses: int, error: type[Exception] = WorkerLost) -> None:
        self.path, self.losses, self.error = path, list(losses), error
        self.num_opened, self.done = 0, 0

    @contextmanager
    def __call__(self) -> Iterator:
        self.num_opened += 1
        run = fake_run(self.path / str(self.num_opened), recipe())
        run.step = run.first_step = self.done
        learner = run.cluster.learner
        assert isinstance(learner, FakeLearner)
        learner.version = self.done
        update = learner.update

        def lossy(mini_batches):
            if self.losses and run.step + 1 == self.losses[0]:
                self.losses.pop(0)
                raise self.error("learner rank 1 died")
            return update(mini_batches)

        learner.update = lossy
        try:
            yield run
        finally:
            self.done = run.step


def test_a_lost_rank_costs_a_restart_and_no_step(tmp_path) -> None:
    opened, said = Losing(tmp_path, 2, 2, 4), []
    run = train_restarting(opened, 2, said.append)
    assert (run.step, opened.num_opened) == (4, 4)
    assert [text.rpartition("(")[2] for text in said] == ["restart 1 of 2)", "restart 2 of 2)", "restart 1 of 2)"]


def test_restarts_without_a_step_between_are_bounded(tmp_path) -> None:
    opened = Losing(tmp_path, *[2] * 9)
    with pytest.raises(WorkerLost, match="started again 2 times without a step done between: run the same command"):
        train_restarting(opened, 2, lambda text: None)
    assert opened.num_opened == 3


def test_other_errors_end_the_run(tmp_path) -> None:
    opened = Losing(tmp_path, 2, error=RunError)
    with pytest.raises(RunError):
        train_restarting(opened, 2, lambda text: None)
    assert opened.num_opened == 1
