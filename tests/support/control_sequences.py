"""Whether a text would make a terminal do anything."""

from __future__ import annotations


def obeys(text: str) -> set[str]:
    """Control characters that a terminal would act on."""
    return {c for c in text if c not in "\n\t" and not c.isprintable() and not c.isspace()} | set(
        "\r\x0b\x0c\x85"
    ) & set(text)
