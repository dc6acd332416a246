"""Scores that others published: shown beside measured ones, never computed with."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from deepscaler.config.evaluation import COMPETITION, NINE

_FILES = {"competition": "published.toml", "nine": "published_nine.toml"}


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """Fractions of 1 by benchmark; what was not published is absent. average: as published, else None."""

    model: str
    scores: dict[str, float]
    average: float | None


@dataclass(frozen=True, slots=True)
class Published:
    """columns: benchmark -> its short name, in the order of the table."""

    title: str
    source: str
    url: str
    note: str
    columns: dict[str, str]
    rows: tuple[PublishedRow, ...]


@lru_cache
def published(suite: str = "competition") -> Published:
    """The table of a suite."""
    text = resources.files("deepscaler.evaluation").joinpath(_FILES[suite]).read_text(encoding="utf-8")
    data = tomllib.loads(text)
    rows = tuple(
        PublishedRow(
            row["model"],
            {name: score / 100 for name, score in row["scores"].items()},
            row["average"] / 100 if "average" in row else None,
        )
        for row in data["row"]
    )
    return Published(data["title"], data["source"], data["url"], data["note"], data["columns"], rows)


def published_beside(benchmarks: Collection[str]) -> Published:
    """The table that these benchmarks belong beside: of the nine sets where one is there that the five do not have."""
    return published("nine" if set(benchmarks) & (set(NINE) - set(COMPETITION)) else "competition")
