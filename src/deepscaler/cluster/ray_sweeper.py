"""Removes what is left of a Ray whose driver was killed: python ray_sweeper.py DIRECTORY, started by that driver.

Its standard input ends with the driver. Ray's own helper processes would wait another minute for the one that is gone.
Run as a file, it loads the standard library only.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

ROUNDS, PAUSE_S = 30, 1.0


def sweep(directory: Path) -> None:
    """Kill the processes that have a file of this directory open, and remove it."""
    for _ in range(ROUNDS):
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if any(str(directory) in str(file.readlink()) for file in (process / "fd").iterdir()):
                    os.kill(int(process.name), signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(PAUSE_S)
        if not directory.exists():
            return


if __name__ == "__main__":
    sys.stdin.read()
    sweep(Path(sys.argv[1]))
