"""Kind of destination that a path names: a file to replace, or a device, FIFO or socket to write into.

Renaming over the name would put a file in the place of a link or, as root, of a device.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path


def regular_destination(path: Path) -> Path | None:
    """The regular file that `path` names, links followed, whether it exists or not; None for what is written into.

    Raises OSError for a directory, and for links that lead in a circle.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:  # a new name, or a link to one
        return Path(os.path.realpath(path))
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "is a directory; name a file", str(path))
    return Path(os.path.realpath(path)) if stat.S_ISREG(mode) else None


def directory_destination(path: Path) -> Path:
    """The directory that `path` names, links followed, whether it exists or not. Raises OSError for anything else."""
    real = Path(os.path.realpath(path))
    if real.exists() and not real.is_dir():
        raise OSError(errno.ENOTDIR, "is no directory", str(path))
    return real


def write_through(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file, then copy it into the device, FIFO or socket at `path`. An OSError names `path`."""
    with tempfile.TemporaryDirectory(prefix="deepscaler-") as directory:
        part = Path(directory) / "content"
        write(part)
        try:
            with part.open("rb") as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        except OSError as error:
            number = error.errno or errno.EIO
            raise OSError(number, error.strerror or os.strerror(number), str(path)) from error
