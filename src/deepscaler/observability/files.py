"""Files and directories that are whole or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary sibling, then take the name by one rename; a failed write leaves nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path) -> Iterator[None]:
    """A directory to work in. Where the block raises and nothing stands in it, what was made of its path goes again."""
    made = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for place in made:
            with suppress(OSError):  # not empty: something is kept there
                place.rmdir()
        raise


@contextmanager
def directory_at_once(path: Path) -> Iterator[Path]:
    """A new directory to fill that becomes `path` when the block ends well; otherwise `path` is left as it was.

    A directory already there is replaced only then, and its content removed.
    """
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
