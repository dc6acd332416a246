"""A leak is reported once, noise and caches never."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from deepscaler.observability.memory import MemoryWatch, available_bytes, resident_bytes

MIB = 2**20


def reports(resident: Callable[[int], float], *, available: int = 4000 * MIB, steps_left: int = 1000) -> list[int]:
    watch = MemoryWatch()
    return [step for step in range(200) if watch.observe(int(resident(step)), available, steps_left)]


def test_a_planted_leak_is_reported_once() -> None:
    assert reports(lambda step: (500 + 5 * step) * MIB) == [69]


@pytest.mark.parametrize(
    "resident",
    [
        lambda step: 500 * MIB,
        lambda step: (500 + 0.5 * step) * MIB,  # 30 MiB in the window
        lambda step: min(500 + 80 * step, 1500) * MIB,  # caches that fill up
        lambda step: (500 + random.Random(step).random() * 400) * MIB,
        lambda step: (500 + 5 * (step % 30)) * MIB,  # freed every 30 steps
    ],
)
def test_what_is_no_leak_is_not_reported(resident: Callable[[int], float]) -> None:
    assert reports(resident) == []


def test_growth_that_the_machine_has_room_for_is_not_reported() -> None:
    assert reports(lambda step: (500 + 5 * step) * MIB, steps_left=700) == []


def test_this_process_has_memory_and_so_does_the_machine() -> None:
    assert resident_bytes() > MIB
    assert (available_bytes() or MIB) >= MIB
