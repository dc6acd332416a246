"""Scores that others published: shown beside measured ones, never computed with."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

COLUMNS = {
    "aime24": "AIME24",
    "math500": "MATH500",
    "amc23": "AMC23",
    "minerva": "Minerva",
    "olympiadbench": "Olympiad",
}


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """Fractions of 1 by benchmark; what was not published is absent. average: as published, else None."""

    model: str
    scores: dict[str, float]
    average: float | None


@dataclass(frozen=True, slots=True)
class Published:
    title: str
    source: str
    url: str
    note: str
    rows: tuple[PublishedRow, ...]


@lru_cache
def published() -> Published:
    """The table of published.toml."""
    text = resources.files("deepscaler.evaluation").joinpath("published.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    rows = tuple(
        PublishedRow(
            row["model"],
            {name: score / 100 for name, score in row["scores"].items()},
            row["average"] / 100 if "average" in row else None,
        )
        for row in data["row"]
    )
    return Published(data["title"], data["source"], data["url"], data["note"], rows)
