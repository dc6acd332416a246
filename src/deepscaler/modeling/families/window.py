"""Sliding windows: how many tokens a token sees, itself included."""

from __future__ import annotations

from typing import Any


def window_of(attention: Any) -> int | None:
    """Of transformers' attention module: its own attribute, or where it has none the configuration's."""
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window
    return getattr(attention.config, "sliding_window", None)
