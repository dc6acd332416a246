"""JSON that comes from elsewhere: a server, a file of somebody else's, a file that may be damaged."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 500  # nesting that every later step (repr, dumps, pyarrow) still takes; real documents have below 20


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


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: Any) -> list[Any]:
    children = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return [child for child in children if isinstance(child, list | dict)]


def _too_deep() -> str:
    return f"nested more than {MAX_DEPTH} levels deep"
