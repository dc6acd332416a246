"""JSON documents: reading those of others, their canonical digest, and the differences between two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 500  # nesting that every later step (repr, dumps, pyarrow) still takes; real documents have below 20
SHOWN_CHARACTERS = 40  # of a value in a message


def parse_json(text: str | bytes | bytearray, **options: Any) -> Any:
    """`json.loads`, with ValueError for everything that cannot be read: also for nesting beyond MAX_DEPTH.

    `json.loads` itself raises RecursionError there, which is no ValueError and ends whatever called it.
    options: those of `json.loads`.
    """
    try:
        value = json.loads(text, **options)
    except RecursionError as error:
        raise ValueError(_too_deep()) from error
    if _brackets(text) > MAX_DEPTH and _is_deep(value):
        raise ValueError(_too_deep())
    return value


def _brackets(text: str | bytes | bytearray) -> int:
    """Brackets that open; no nesting is deeper than that."""
    if isinstance(text, str):
        return text.count("[") + text.count("{")
    return text.count(b"[") + text.count(b"{")


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: object) -> list[object]:
    children = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return [child for child in children if isinstance(child, list | dict)]


def _too_deep() -> str:
    return f"nested more than {MAX_DEPTH} levels deep"


def canonical_digest(
    value: object, *, separators: tuple[str, str] = (",", ":"), default: Callable[[object], object] | None = None
) -> str:
    """SHA-256 (hex) of the value's canonical JSON: keys sorted, ASCII, no spaces.

    separators, default: as for `json.dumps`.
    """
    text = json.dumps(value, sort_keys=True, separators=separators, default=default)
    return hashlib.sha256(text.encode()).hexdigest()


def flattened(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of every leaf; an array's elements are numbered. An empty table or array has no leaf."""
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield prefix, value
        return
    for name, child in items:
        yield from flattened(child, f"{prefix}.{name}" if prefix else str(name))


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


@dataclass(frozen=True, slots=True)
class Difference:
    """A leaf in which two documents differ; `ABSENT` on the side that does not have it."""

    key: str
    before: object
    after: object

    def words(self) -> str:
        """`key: value before -> value after`, long values truncated."""
        return f"{self.key}: {_shown(self.before)} -> {_shown(self.after)}"


def differences(before: object, after: object) -> list[Difference]:
    """Every leaf that only one of two documents has, or that differs, sorted by its dotted key."""
    first, second = dict(flattened(before)), dict(flattened(after))
    pairs = ((key, first.get(key, ABSENT), second.get(key, ABSENT)) for key in sorted(first.keys() | second.keys()))
    return [Difference(*pair) for pair in pairs if pair[1] != pair[2]]


def _shown(value: object) -> str:
    text = repr(value) if value is ABSENT else json.dumps(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
