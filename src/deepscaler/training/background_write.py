"""Files that a thread writes while training goes on, and how ranks tell the controller that theirs are written.

Every rank has an empty file in the directory, `rank-N.writing`, which its thread renames to `rank-N.written` or
`rank-N.failed`: renaming works on a full disk, and the controller, which may be on another machine, goes by what is
there, never by what is missing. Loads no torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from deepscaler.types import RunError

WRITE_LIMIT_S = 1800.0  # for the files of one checkpoint
POLL_S = 0.02
_WRITING, _WRITTEN, _FAILED = ".writing", ".written", ".failed"


class BackgroundWrite:
    """A thread that runs `write`; a future of it. what: for messages."""

    def __init__(self, write: Callable[[], None], what: str) -> None:
        self._what, self._error = what, None
        self._thread = threading.Thread(target=self._run, args=(write,), name=f"write {what}", daemon=True)
        self._thread.start()

    def ready(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> None:
        """Raises what `write` raised, RunError after WRITE_LIMIT_S."""
        self._thread.join(WRITE_LIMIT_S)
        if self._thread.is_alive():
            raise RunError(f"{self._what} was not written within {WRITE_LIMIT_S:.0f} s; is the storage still there?")
        if self._error is not None:
            raise self._error

    _error: Exception | None

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:
            self._error = error


def write_as_rank(directory: Path, rank: int, write: Callable[[], None]) -> BackgroundWrite:
    """On a rank: write in the background and leave the outcome in `directory`."""
    marker = directory / f"rank-{rank}{_WRITING}"
    marker.touch()

    def reported() -> None:
        try:
            write()
        except Exception as error:
            with suppress(OSError):  # the disk may be full; the name says enough then
                marker.write_text(f"{type(error).__name__}: {error}")
            marker.rename(marker.with_suffix(_FAILED))
            raise
        marker.rename(marker.with_suffix(_WRITTEN))

    return BackgroundWrite(reported, f"the part of rank {rank} of {directory.name}")


class RankWrites:
    """A future of what all ranks write into a directory, as `write_as_rank` does. Removes the markers at the end."""

    def __init__(self, directory: Path, num_ranks: int) -> None:
        self._directory, self._num_ranks = directory, num_ranks

    def ready(self) -> bool:
        return bool(self._named(_FAILED)) or len(self._named(_WRITTEN)) == self._num_ranks

    def result(self) -> None:
        """Raises RunError where a rank failed, with its words, and after WRITE_LIMIT_S."""
        deadline = time.monotonic() + WRITE_LIMIT_S
        while not self.ready():
            if time.monotonic() > deadline:
                late = sorted(path.stem for path in self._named(_WRITING))
                raise RunError(f"{', '.join(late)}: no end of writing within {WRITE_LIMIT_S:.0f} s")
            time.sleep(POLL_S)
        failed = [f"{path.stem}: {path.read_text() or 'not written'}" for path in sorted(self._named(_FAILED))]
        if failed:
            raise RunError("; ".join(failed))
        for path in self._named(_WRITTEN):
            path.unlink()

    def _named(self, suffix: str) -> list[Path]:
        return list(self._directory.glob(f"rank-*{suffix}"))
