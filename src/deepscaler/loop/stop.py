"""Stop requests: Ctrl-C or SIGTERM ends the run after the step, a second one immediately."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any


class StopRequest:
    """Context manager around a run. `requested` turns true at the first signal; a second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self.signal_number = number
        name = signal.Signals(number).name
        print(
            f"\n{name}: finishing this step, then saving. A second signal stops immediately.",
            file=sys.stderr,
            flush=True,
        )
