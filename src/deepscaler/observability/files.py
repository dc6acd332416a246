"""Files and directories that are whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from deepscaler.observability.destinations import directory_destination, regular_destination, write_through

# What a file system refuses for want of room or health, in words that say what to look at.
STORAGE_FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would grow beyond the size allowed (`ulimit -f`, or the file system's limit)",
    errno.EIO: "the device reports an input/output error (see `dmesg`)",
    errno.EROFS: "the file system is mounted read-only",
}
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


class Fingerprint(NamedTuple):
    """Size and SHA-256 (hex) of a file's content."""

    num_bytes: int
    sha256: str


def fingerprint(path: Path, num_bytes: int | None = None) -> Fingerprint:
    """Of the whole file, or of its first `num_bytes`."""
    digest, count = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(2**20 if num_bytes is None else min(2**20, num_bytes - count)):
            digest.update(block)
            count += len(block)
    return Fingerprint(count, digest.hexdigest())


def fsync(path: Path) -> None:
    """Let a file's content, or a directory's entries, reach the device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_fault(error: BaseException) -> str | None:
    """A fault of the storage in words, None for any other error.

    safetensors raises an error type of its own, with the system's number in the text: `I/O error: ... (os error 28)`,
    in version 0.5 `IoError(Os { code: 28, ...`.
    """
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"(?:\(os error |Os \{ code: )(\d+)", str(error))):
        number = int(found[1])
    if number is None and os.strerror(errno.ENOSPC) in str(error):
        number = errno.ENOSPC
    return STORAGE_FAULTS.get(number) if isinstance(number, int) else None


def remove_temporaries(directory: Path) -> None:
    """Clear what killed processes left half-written in a directory that only this process writes to."""
    for path in directory.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary sibling, then take the name by one rename; a failed write leaves nothing.

    Content and name have reached the device when it returns. An OSError names `path`.
    """
    destination = regular_destination(path)
    if destination is None:
        write_through(path, write)
        return
    path = destination
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path) -> Iterator[None]:
    """A directory to work in; removed, with the parents made for it, where the block raises and it is empty."""
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
