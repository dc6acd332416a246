"""Checkpoints of a run, committed at once or by a thread while the next steps run (`checkpoint.async_save`).

In the background everything is copied into host memory before `save` returns. Manifest, rename and removal of old
checkpoints come after all ranks have written: until then the one before is the newest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepscaler.observability import liveness
from deepscaler.protocols import Future
from deepscaler.training.background_write import POLL_S, WRITE_LIMIT_S
from deepscaler.training.checkpoint import (
    CheckpointError,
    begin_checkpoint,
    commit_checkpoint,
    named_faults,
    write_state,
)
from deepscaler.types import RunError

COMMIT_LIMIT_S = 2 * WRITE_LIMIT_S  # for the files, and for their checksums


class CheckpointWriter:
    """One save at a time: a new one waits for the one before. root: directory of the checkpoints."""

    def __init__(self, root: Path, *, in_background: bool) -> None:
        self.root, self.in_background = root, in_background
        self._thread: threading.Thread | None = None
        self._step, self._error = 0, None
        self._abandoned = threading.Event()

    _error: Exception | None

    @property
    def pending(self) -> int | None:
        """Step of a checkpoint that is being written."""
        return self._step if self._thread is not None and self._thread.is_alive() else None

    def save(
        self, step: int, state: dict[str, Any], write: Callable[[Path], Future[None] | None], then: Callable[[], None]
    ) -> None:
        """Commit what `write` puts into a directory, and `state`; `then` runs after the commit.

        write: returns None where everything is written, in the background else a future of it. Raises CheckpointError,
        also of the save before.
        """
        self.wait()
        with named_faults(self.root, step):
            written = write(begin_checkpoint(self.root, step))
            write_state(self.root, step, state)
        if not self.in_background:
            self._commit(step, written)
            then()
            return
        self._step = step
        arguments = (step, written, then)
        self._thread = threading.Thread(target=self._run, args=arguments, name=f"checkpoint {step}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises CheckpointError where the save in the background has failed."""
        if self._thread is None or self._thread.is_alive():
            return
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Until the save in the background is committed. Raises CheckpointError where it fails or takes too long."""
        deadline = time.monotonic() + COMMIT_LIMIT_S
        while self._thread is not None and self._thread.is_alive():
            liveness.beat()
            self._thread.join(POLL_S)
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"checkpoint of step {self._step} was not written to {self.root} within {COMMIT_LIMIT_S:.0f} s. "
                    "Earlier checkpoints are whole; is the storage still there?"
                )
        self.check()

    def abandon(self) -> None:
        """Give up a save whose files are not all there, for workers that are lost; one that is committing goes on."""
        self._abandoned.set()
        self.wait()

    def _run(self, step: int, written: Future[None] | None, then: Callable[[], None]) -> None:
        try:
            self._commit(step, written)
            then()
        except CheckpointError as error:
            self._error = error
        except Exception as error:
            self._error = CheckpointError(
                f"checkpoint of step {step} was not written to {self.root}: {type(error).__name__}: {error}. Earlier "
                "checkpoints are whole; the same command continues from the newest one"
            )
            self._error.__cause__ = error

    def _commit(self, step: int, written: Future[None] | None) -> None:
        with named_faults(self.root, step):
            while written is not None and not written.ready():
                if self._abandoned.wait(POLL_S):
                    raise RunError("its workers were lost")
            if written is not None:
                written.result()
            commit_checkpoint(self.root, step)
