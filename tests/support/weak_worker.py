"""An object for a worker process that writes, dies, or waits for ever. Loads nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable


class WeakWorker:
    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        print("started", file=sys.stderr)

    def echo(self, value: object) -> object:
        return value

    def die(self) -> None:
        print("its last words", file=sys.stderr, flush=True)
        os._exit(3)

    def wait_for_ever(self) -> None:
        time.sleep(1e6)
