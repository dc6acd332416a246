"""One line of a diagnosis, and how an amount becomes one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GIB = 1024**3
Status = Literal["ok", "note", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """status: `ok`, `note` (worth knowing) or `missing` (what was asked about does not work without it)."""

    topic: str
    status: Status
    text: str


def amount(topic: str, size: int | None, least: float, otherwise: str, *, status: Status = "note") -> Finding:
    """A size in bytes against the least that is wanted; `status` and `otherwise` apply to less."""
    if size is None:
        return Finding(topic, "note", "unknown on this system")
    if size >= least:
        return Finding(topic, "ok", f"{size / GIB:.1f} GiB")
    return Finding(topic, status, f"{size / GIB:.1f} GiB; {otherwise}")
