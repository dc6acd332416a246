"""Files and directories that are whole or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deepscaler.observability.destinations import directory_destination, regular_destination, write_through


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary sibling, then take the name by one rename; a failed write leaves nothing."""
    destination = regular_destination(path)
    if destination is None:
        write_through(path, write)
        return
    path = destination
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def directory_at_once(path: Path) -> Iterator[Path]:
    """A new directory to fill that becomes `path` when the block ends well; otherwise `path` is left as it was.

    A directory already there is replaced only then, and its content removed.
    """
    path = directory_destination(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    former = path.with_name(f".{path.name}.{os.getpid()}.old")
    beside.mkdir()
    try:
        yield beside
        if path.exists():
            path.rename(former)
        beside.rename(path)
    except BaseException:
        if former.exists() and not path.exists():
            former.rename(path)
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)
