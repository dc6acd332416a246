"""What test_ray.py puts into actors. Loads no torch, so that they start in a moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator


class Counter:
    """Counts, fails, sleeps, and says who it is."""

    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        self._is_cancelled = is_cancelled
        self.num_begun = 0

    def add(self, a: int, b: int) -> int:
        return a + b

    def fail(self) -> None:
        raise ValueError("no good")

    def forever(self) -> Iterator[int]:
        self.num_begun += 1
        number = 0
        while not self._is_cancelled():
            time.sleep(0.001)
            yield number
            number += 1

    def hang(self) -> None:
        time.sleep(60)

    def begun(self) -> int:
        return self.num_begun

    def last_words(self) -> int:
        """Writes to standard error as a crashing library does; returns the process id."""
        os.write(2, b"something terrible\n")
        return os.getpid()


def broken(is_cancelled: Callable[[], bool]) -> Counter:
    raise ValueError("no such model")
