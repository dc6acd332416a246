"""A worker that dies, is stopped, or hangs is noticed, and the message says how and quotes what it wrote."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepscaler.cluster.life_signs import WaitLimits
from deepscaler.cluster.process import ProcessRemote
from deepscaler.cluster.supervised import SupervisedRemote
from deepscaler.types import WorkerLost
from weak_worker import WeakWorker

LIMITS = WaitLimits(silence_s=4.0, stall_s=2.0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "workers" / "weak.log"


@pytest.fixture
def worker(log: Path) -> Iterator[SupervisedRemote]:
    remote = SupervisedRemote("weak", lambda: ProcessRemote(WeakWorker, "weak", limits=LIMITS, log=log))
    yield remote
    remote.close()


def test_the_last_lines_and_stacks_of_a_lost_worker_are_in_the_message(worker: SupervisedRemote, log: Path) -> None:
    with pytest.raises(
        WorkerLost, match=r"(?s)weak died during die \(exit code 3\); its last lines \(.*its last words"
    ):
        worker.remote.call("die").result()
    assert worker.call("echo", 5).result() == 5, "and another takes its place"
    with pytest.raises(WorkerLost, match=r"(?s)weak made no progress for 2 s, in wait_for_ever; its last lines.*File"):
        worker.remote.call("wait_for_ever").result()
    assert "in wait_for_ever" in log.read_text(), "the stacks of its threads"
    process = worker.remote
    assert isinstance(process, ProcessRemote)
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(WorkerLost, match=r"weak (gave no sign of life for 4 s, as if it was stopped|made no progress)"):
        process.call("echo", 5).result()
