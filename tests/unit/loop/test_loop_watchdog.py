"""A run that makes no progress ends with a message and the stacks; one that makes some goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from deepscaler.loop.watchdog import StalledError, Watchdog
from deepscaler.observability import liveness
from deepscaler.observability.clock import StepClock


def wait_for_ever() -> None:
    time.sleep(60)


def test_a_stall_ends_the_run_and_leaves_the_stacks(tmp_path: Path) -> None:
    asked: list[str] = []
    watchdog = Watchdog(
        tmp_path / "workers", lambda: "step 5", stall_s=0.5, write_stacks=lambda: asked.append("workers")
    )
    with (
        pytest.raises(StalledError, match=r"nothing made progress for .* in phase sample of step 5"),
        watchdog.watching(),
        StepClock().phase("sample"),
    ):
        wait_for_ever()
    assert asked == ["workers"]
    assert "in wait_for_ever" in (tmp_path / "workers" / "driver.log").read_text()


def test_progress_is_no_stall(tmp_path: Path) -> None:
    with Watchdog(tmp_path, lambda: "step 5", stall_s=1.0).watching():
        for _ in range(24):
            time.sleep(0.05)
            liveness.beat()
    assert not list(tmp_path.iterdir())


def test_progress_of_another_process_counts_from_when_it_was_made() -> None:
    liveness.beat()
    before = liveness.idle_s()
    liveness.beat(ago_s=1000.0)
    assert liveness.idle_s() < before + 100
