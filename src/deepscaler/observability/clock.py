"""Wall time of the phases of one step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from deepscaler.observability import liveness


class StepClock:
    """Accumulates seconds per phase; a phase entered twice adds up."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        liveness.enter(name)
        try:
            yield
        finally:
            self._phases[name] = self._phases.get(name, 0.0) + time.perf_counter() - start

    def seconds(self, name: str) -> float:
        """Of one phase so far; 0 for one that was not entered."""
        return self._phases.get(name, 0.0)

    def metrics(self) -> dict[str, float]:
        """`<phase>_s` for every phase, and `step_s` since construction."""
        seconds = {f"{name}_s": value for name, value in self._phases.items()}
        return seconds | {"step_s": time.perf_counter() - self._start}
