"""`problems.jsonl` of an evaluation: what was asked and what counts as right, once per problem."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from deepscaler.json_text import parse_json
from deepscaler.observability.files import write_atomically
from deepscaler.types import Problem

PROBLEMS_FILE = "problems.jsonl"


class Question(NamedTuple):
    """prompt: the problem's text, without the instruction that follows it."""

    prompt: str
    references: tuple[str, ...]


def write_problem_texts(directory: Path, sets: Mapping[str, Sequence[Problem]]) -> None:
    def lines() -> Iterator[str]:
        for name, problems in sets.items():
            for p in problems:
                row = {"benchmark": name, "problem_id": p.id, "prompt": p.prompt, "references": list(p.references)}
                yield json.dumps(row, ensure_ascii=False) + "\n"

    text = "".join(lines())
    write_atomically(directory / PROBLEMS_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def read_problem_texts(directory: Path) -> dict[tuple[str, str], Question]:
    """(benchmark, problem id) -> question; empty where none were kept. Raises ValueError for a damaged file."""
    path = directory / PROBLEMS_FILE
    if not path.is_file():
        return {}
    found: dict[tuple[str, str], Question] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")):
        if not line:
            continue
        try:
            row = parse_json(line)
            found[row["benchmark"], row["problem_id"]] = Question(row["prompt"], tuple(row["references"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, row {number}: {error!r}; restore the file, or remove it") from error
    return found
