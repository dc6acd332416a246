"""The clock of a step."""

from __future__ import annotations

from deepscaler.observability.clock import StepClock


def test_the_clock_adds_up_phases() -> None:
    clock = StepClock()
    for _ in range(2):
        with clock.phase("sample"):
            pass
    metrics = clock.metrics()
    assert set(metrics) == {"sample_s", "step_s"}
    assert 0 <= metrics["sample_s"] <= metrics["step_s"]
