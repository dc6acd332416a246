"""Replies of a judge on disk, by what was asked, shared by all processes of a run."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from deepscaler.json_text import canonical_digest
from deepscaler.rewards.judge.client import Reply

FILE = "judge-cache.sqlite"
FOLDER_VARIABLE = "DEEPSCALER_REWARD_DIR"
LOCK_S = 10.0


class ReplyCache:
    """path: None keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @classmethod
    def of_environment(cls) -> ReplyCache:
        """In the run directory's `rewards`, which the process that runs the function is told of."""
        folder = os.environ.get(FOLDER_VARIABLE)
        return cls(Path(folder) / FILE if folder else None)

    def find(self, url: str, body: Mapping[str, Any]) -> Reply | None:
        if self._path is None or not self._path.exists():
            return None
        with closing(self._opened()) as database:
            row = database.execute(
                "SELECT text, prompt_tokens, completion_tokens FROM replies WHERE key = ?", (_key(url, body),)
            ).fetchone()
        return None if row is None else Reply(*row)

    def keep(self, url: str, body: Mapping[str, Any], reply: Reply) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._opened()) as database, database:
            database.execute(
                "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)",
                (_key(url, body), reply.text, reply.prompt_tokens, reply.completion_tokens),
            )

    def _opened(self) -> sqlite3.Connection:
        assert self._path is not None
        database = sqlite3.connect(self._path, timeout=LOCK_S)
        database.execute(
            "CREATE TABLE IF NOT EXISTS replies "
            "(key TEXT PRIMARY KEY, text TEXT, prompt_tokens INTEGER, completion_tokens INTEGER)"
        )
        return database


def _key(url: str, body: Mapping[str, Any]) -> str:
    return canonical_digest([url, dict(body)])
