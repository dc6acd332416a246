"""A run directory held by one process, and storage errors of a run in one message."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepscaler.observability.files import new_directory, storage_fault
from deepscaler.observability.run_directory import RECIPE_FILE
from deepscaler.types import RunError


@contextmanager
def storage_faults_named(path: Path) -> Iterator[None]:
    """Turn storage errors such as a full disk into a RunError with one message."""
    try:
        yield
    except OSError as error:
        fault = storage_fault(error)
        if fault is None:
            raise
        raise RunError(
            f"{error.filename or path}: {error.strerror}: {fault}, so the run stops. Make room and run the same "
            "command again; it continues from the newest checkpoint"
        ) from error


@contextmanager
def removed_unless_begun(folder: Path) -> Iterator[Path]:
    """A folder of a run directory, written to before the directory is locked.

    Removed again, with a new directory around it, where the run does not begin.
    """
    run_dir = folder.parent
    was_there = run_dir.exists()
    try:
        yield folder
    except BaseException:
        if not was_there and not (run_dir / RECIPE_FILE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # something else is in it
                run_dir.rmdir()
        raise


@contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """Lock the run directory for this process. A new directory is removed again if the run does not start."""
    with new_directory(path):
        lock = path / ".lock"
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"another process is training in {path}; wait until it ends, or give another --run-dir"
                ) from error
            try:
                yield
            except BaseException:
                if [*path.iterdir()] == [lock]:
                    lock.unlink()
                raise
