"""The end of a worker's log, for the message about its loss."""

from __future__ import annotations

from pathlib import Path

SHOWN_LINES = 6
SHOWN_BYTES = 4000


def shown(content: bytes, path: Path | None, count: int = SHOWN_LINES) -> str:
    """`; its last lines (PATH):` and up to `count` lines of the content; empty where there is none."""
    lines = content[-SHOWN_BYTES:].decode(errors="replace").splitlines()[-count:]
    where = f" ({path})" if path else ""
    return f"; its last lines{where}:\n" + "\n".join(lines) if lines else ""


def last_lines(path: Path | None, *, since: int = 0, count: int = SHOWN_LINES) -> str:
    """As `shown`, of what a file holds from byte `since` on; empty where it cannot be read."""
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            file.seek(max(since, path.stat().st_size - SHOWN_BYTES))
            return shown(file.read(), path, count)
    except OSError:
        return ""
