"""Work that runs too long is ended where it runs, and nothing else is ever hit."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from deepscaler.data import time_limit
from deepscaler.data.time_limit import map_within


def spin(seconds: float) -> float:
    """Python code that keeps the interpreter busy."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds


@pytest.fixture
def eager_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_results_come_in_order_and_errors_of_the_work_are_its_own() -> None:
    assert map_within(5.0, str, range(5)) == ["0", "1", "2", "3", "4"]
    assert map_within(5.0, str, []) == []
    with pytest.raises(ZeroDivisionError):
        map_within(5.0, lambda n: 1 // n, [2, 1, 0])


def test_the_limit_is_for_each_item_not_for_all() -> None:
    assert len(map_within(0.5, spin, [0.02] * 30)) == 30
    with pytest.raises(TimeoutError, match=r"not done after 0\.5 s"):
        map_within(0.5, spin, [0.02] * 5 + [60.0] + [0.02] * 5)


def test_work_that_swallows_the_exception_is_ended_by_the_next() -> None:
    lost = []

    def stubborn(rounds: int) -> None:
        for _ in range(rounds):
            try:
                spin(60.0)
            except BaseException as error:
                lost.append(error)
        spin(60.0)

    start = time.monotonic()
    with pytest.raises(TimeoutError):
        map_within(0.0, stubborn, [3])
    assert len(lost) == 3 and time.monotonic() - start < 20


def test_two_threads_at_once_are_watched_apart() -> None:
    outcomes: dict[str, object] = {}

    def run(name: str, work: list[float]) -> None:
        try:
            outcomes[name] = map_within(0.5, spin, work)
        except TimeoutError as error:
            outcomes[name] = error

    good, bad = [0.02] * 20, [60.0]
    threads = [threading.Thread(target=run, args=item) for item in (("a", good), ("b", bad), ("c", good), ("d", bad))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert outcomes["a"] == outcomes["c"] == good
    assert isinstance(outcomes["b"], TimeoutError) and isinstance(outcomes["d"], TimeoutError)


@pytest.mark.parametrize("slow_s", [0.0, 5e-4])
def test_an_end_just_at_the_limit_is_a_result_or_a_timeout_and_nothing_comes_later(
    monkeypatch: pytest.MonkeyPatch, eager_switching: None, slow_s: float
) -> None:
    """slow_s: from the decision to raise to the exception, in which the work may well come to its end."""

    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def slow(thread: ctypes.c_ulong, exception: Any) -> int:
        if exception is not None and slow_s:
            time.sleep(slow_s)
        return raise_in(thread, exception)

    monkeypatch.setattr(ctypes.pythonapi, "PyThreadState_SetAsyncExc", slow)
    monkeypatch.setattr(time_limit, "CHECK_INTERVAL_S", 1e-5)
    rng, outcomes = random.Random(0), {"done": 0, "late": 0}
    end = time.monotonic() + 20
    while min(outcomes.values()) < 100 and time.monotonic() < end:
        limit = rng.choice([0.0, 1e-5, 1e-4, 1e-3])
        try:
            map_within(limit, spin, [limit * rng.uniform(0.6, 1.3) + rng.choice([0.0, slow_s])])
            outcomes["done"] += 1
        except TimeoutError:
            outcomes["late"] += 1
        spin(3e-5)  # an exception that comes late would hit here
    assert min(outcomes.values()) >= 100


def test_one_thread_watches_all_and_ends_when_there_is_nothing_to_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    def watching() -> int:
        return sum(thread.name == "time limit" for thread in threading.enumerate())

    def four_at_once(_: object) -> list[list[int]]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda _: map_within(5.0, lambda _: watching(), [spin(0.01)]), range(4)))

    assert map_within(5.0, four_at_once, [0]) == [[[1]] * 4]
    monkeypatch.setattr(time_limit, "CHECK_INTERVAL_S", 1e-3)
    end = time.monotonic() + 20
    while watching() and time.monotonic() < end:
        time.sleep(0.01)
    assert watching() == 0
    assert map_within(5.0, lambda _: watching(), [0]) == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_watched_as_well() -> None:
    code = (
        "import os, sys, time\n"
        "from deepscaler.data.time_limit import map_within\n"
        "def work(seconds):\n"
        "    end = time.monotonic() + seconds\n"
        "    while time.monotonic() < end: pass\n"
        "map_within(5.0, work, [0.01])\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        map_within(0.1, work, [30.0])\n"
        "    except TimeoutError:\n"
        "        os._exit(7)\n"
        "    os._exit(1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 7
