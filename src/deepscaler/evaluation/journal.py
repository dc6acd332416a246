"""An append-only file of checksummed lines: what was written before a crash is read back, what was torn is dropped.

A line is `CRC32 JSON\\n`, the checksum in eight hexadecimal digits over the bytes of the JSON. Each line is one
unbuffered write, so that a killed process loses at most the line it was writing; `fdatasync` follows at most
`SYNC_S` seconds later, so that a power failure loses at most what was written in that time.
"""

from __future__ import annotations

import errno
import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from deepscaler.observability.files import storage_fault
from deepscaler.types import RunError

SYNC_S = 5.0
HEAD = 9  # the checksum and a space


class Place(NamedTuple):
    """Place of a line: byte offset and length, with its line break."""

    offset: int
    length: int


class Journal:
    """The one writer of a file. `entries()` first, which also finds where the intact part ends; then `append`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_damaged = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._end = 0
        self._synced = time.monotonic()
        self._dirty = False

    def entries(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Every intact line in order. Damaged ones are counted; a torn last line is dropped."""
        offset = intact = damaged = 0
        with self.path.open("rb") as file:
            for line in file:
                place = Place(offset, len(line))
                offset += len(line)
                row = _parse(line)
                if row is None:
                    damaged += 1
                    continue
                intact = offset
                yield place, row
        self.num_damaged = damaged
        os.ftruncate(self._descriptor, intact)
        self._end = intact

    def append(self, row: dict[str, object]) -> Place:
        """Raises RunError when the line cannot be stored whole; then the file ends where it ended before."""
        data = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
        line = b"%08x %b\n" % (zlib.crc32(data), data)
        try:
            written = os.pwrite(self._descriptor, line, self._end)
            if written < len(line):  # a disk that fills up in the middle of a line raises nothing by itself
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            what = storage_fault(error) or str(error.strerror)
            raise RunError(
                f"{self.path}: {what}, so a sample could not be stored. Everything stored before is whole; make room "
                "and run the same command again to go on"
            ) from error
        place = Place(self._end, len(line))
        self._end += len(line)
        self._dirty = True
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()
        return place

    def read(self, place: Place) -> dict[str, Any]:
        """The row at a place. Raises RunError when it is no longer what was written."""
        row = _parse(os.pread(self._descriptor, place.length, place.offset))
        if row is None:
            raise RunError(f"{self.path}, byte {place.offset}: the line changed while the evaluation was running")
        return row

    def sync(self) -> None:
        if self._dirty:
            os.fdatasync(self._descriptor)
        self._synced, self._dirty = time.monotonic(), False

    def close(self) -> None:
        self.sync()
        os.close(self._descriptor)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The row of a whole line with the right checksum, else None."""
    data = line[HEAD:-1]
    if not line.endswith(b"\n") or line[:HEAD] != b"%08x " % zlib.crc32(data):
        return None
    return json.loads(data)
