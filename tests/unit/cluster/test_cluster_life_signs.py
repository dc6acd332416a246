"""Who is slow is waited for; who is stopped, hung or gone is not."""

from __future__ import annotations

import threading
from multiprocessing import Pipe
from typing import Any

import pytest

from deepscaler.cluster import life_signs
from deepscaler.cluster.connection import ConnectionRemote, serve
from deepscaler.cluster.life_signs import LifeWatch, WaitLimits
from deepscaler.types import WorkerLost

LIMITS = WaitLimits(start_s=100, silence_s=60, stall_s=1000)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(life_signs, "time", made)
    return made


def nothing_comes(seconds: float) -> bool:
    return False


@pytest.mark.parametrize(("silent_s", "fault"), [(59, None), (61, "gave no sign of life for 60 s")])
def test_a_silent_process_counts_as_lost_after_the_limit(clock: Clock, silent_s: float, fault: str | None) -> None:
    watch = LifeWatch(LIMITS)
    watch.heard(0.0)
    clock.now = silent_s
    assert (watch.fault(nothing_comes) or "None").startswith(str(fault))


def test_a_process_has_longer_to_start(clock: Clock) -> None:
    watch = LifeWatch(LIMITS)
    clock.now = 99
    assert watch.fault(nothing_comes) is None
    clock.now = 101
    assert watch.fault(nothing_comes) == "did not start within 100 s"


def test_after_a_suspension_of_all_processes_life_signs_have_time_to_come(clock: Clock) -> None:
    watch = LifeWatch(LIMITS)
    watch.heard(0.0)
    clock.now = 5000
    waited = []
    assert watch.fault(lambda seconds: not waited.append(seconds)) is None
    assert waited == [10]


def test_life_signs_of_a_process_without_progress_do_not_save_it(clock: Clock) -> None:
    watch = LifeWatch(LIMITS)
    watch.heard(999.0)
    assert watch.fault(nothing_comes) is None
    watch.heard(1001.0)
    assert watch.fault(nothing_comes) == "made no progress for 1000 s"
    watch.heard(None)
    assert watch.fault(nothing_comes) is None, "it has no call"


class Far:
    def __init__(self) -> None:
        self.go = threading.Event()

    def work(self) -> str:
        self.go.wait(30)
        return "done"


def test_a_busy_far_end_gives_life_signs_and_a_silent_one_is_lost() -> None:
    near, far = Pipe()
    limits, target = WaitLimits(start_s=5.0, silence_s=0.6, stall_s=50.0), Far()
    thread = threading.Thread(target=serve, args=(far, lambda is_cancelled: target), kwargs={"limits": limits})
    thread.start()
    remote = ConnectionRemote(near, "rank 3", limits)
    future = remote.call("work")
    deadline = threading.Timer(1.2, target.go.set)
    deadline.start()
    assert future.result() == "done", "after more than the limit"
    remote.close()
    thread.join(30)


def test_a_call_without_progress_leaves_the_stacks_of_its_process(capfd: pytest.CaptureFixture[str]) -> None:
    near, far = Pipe()
    limits, target = WaitLimits(start_s=5.0, silence_s=0.6, stall_s=0.3), Far()
    thread = threading.Thread(target=serve, args=(far, lambda is_cancelled: target), kwargs={"limits": limits})
    thread.start()
    remote = ConnectionRemote(near, "rank 3", limits)
    with pytest.raises(WorkerLost, match=r"rank 3 made no progress for 0 s, in work"):
        remote.call("work").result()
    target.go.set()
    remote.close()
    thread.join(30)
    assert not thread.is_alive()
    assert "test_cluster_life_signs.py" in (written := capfd.readouterr().err) and "in work" in written


@pytest.mark.parametrize("ask", ["ready", "result"])
def test_nobody_at_the_far_end_is_noticed_by_who_waits_and_by_who_only_looks(ask: str) -> None:
    near, far = Pipe()
    future: Any = ConnectionRemote(near, "rank 3", WaitLimits(start_s=0.0)).call("work")
    with pytest.raises(WorkerLost, match="rank 3 did not start within 0 s, in work"):
        getattr(future, ask)()
    far.close()


def test_a_call_that_nobody_reads_is_given_up() -> None:
    near, far = Pipe()
    remote = ConnectionRemote(near, "rank 3", WaitLimits(start_s=1.0))
    with pytest.raises(WorkerLost, match="rank 3 has read nothing for 1 s, in work"):
        remote.call("work", b"x" * 10_000_000)
    far.close()
