"""Work that runs too long is ended where it runs, and nothing else is ever hit."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator

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
    assert len(map_within(0.2, spin, [0.02] * 20)) == 20
    with pytest.raises(TimeoutError, match=r"not done after 0\.2 s"):
        map_within(0.2, spin, [0.02] * 5 + [60.0] + [0.02] * 5)


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
        map_within(0.05, stubborn, [3])
    assert len(lost) == 3 and time.monotonic() - start < 20


def test_two_threads_at_once_are_watched_apart() -> None:
    outcomes: dict[str, object] = {}

    def run(name: str, work: list[float]) -> None:
        try:
            outcomes[name] = map_within(0.1, spin, work)
        except TimeoutError as error:
            outcomes[name] = error

    good, bad = [0.01] * 40, [60.0]
    threads = [threading.Thread(target=run, args=item) for item in (("a", good), ("b", bad), ("c", good), ("d", bad))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert outcomes["a"] == outcomes["c"] == good
    assert isinstance(outcomes["b"], TimeoutError) and isinstance(outcomes["d"], TimeoutError)


def test_an_end_just_at_the_limit_is_a_result_or_a_timeout_and_nothing_comes_later(
    monkeypatch: pytest.MonkeyPatch, eager_switching: None
) -> None:
    monkeypatch.setattr(time_limit, "_AGAIN_S", 1e-5)
    rng, outcomes = random.Random(0), {"done": 0, "late": 0}
    end = time.monotonic() + 20
    while min(outcomes.values()) < 150 and time.monotonic() < end:
        limit = rng.choice([0.0, 1e-5, 1e-4, 1e-3])
        try:
            map_within(limit, spin, [limit * rng.uniform(0.6, 1.3)])
            outcomes["done"] += 1
        except TimeoutError:
            outcomes["late"] += 1
        spin(3e-5)  # an exception that comes late would hit here
    assert min(outcomes.values()) >= 150


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    for _ in range(20):
        map_within(5.0, str, range(3))
    with pytest.raises(TimeoutError):
        map_within(0.0, spin, [60.0])
    assert threading.active_count() == before
