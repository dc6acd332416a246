"""Reference answers and labelled cases as the grader takes them: ours, and those of `../shared` where it exists."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared_data import SHARED

FORMS = Path(__file__).parents[1] / "unit" / "answers" / "answer_forms.txt"
DATA, GRADING = SHARED / "data", SHARED / "grading"
FILES = (
    "train/aime",
    "train/math",
    "benchmarks/aime24",
    "benchmarks/math500",
    "benchmarks/amc23",
    "benchmarks/minerva",
    "benchmarks/olympiadbench",
)
_DIGIT = re.compile(r"\d")


def read_forms(mark: str) -> dict[str, list[list[str]]]:
    """The lines of answers under the forms that start with `mark`."""
    forms: dict[str, list[list[str]]] = {}
    chosen: list[list[str]] | None = None
    for line in FORMS.read_text(encoding="utf-8").splitlines():
        if line.startswith(("= ", "! ", "> ", "< ")):
            chosen = forms.setdefault(line[2:], []) if line.startswith(mark) else None
        elif line and not line.startswith("#") and chosen is not None:
            chosen.append(line.split(" || "))
    return forms


def texts(answer: Any) -> list[str]:
    """An answer field as reference texts: whole floats as integers, lists as alternatives, ends trimmed."""
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    items = answer if isinstance(answer, list) else [answer]
    return [str(item).strip() for item in items if item is not None and str(item).strip()]


def references() -> Iterator[tuple[str, str]]:
    """(where, text) of every reference answer of the training files and benchmarks that is not missing or empty."""
    for name in FILES:
        for index, row in enumerate(json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))):
            for text in texts(row["answer"]):
                yield f"{name} {index}", text


def labelled(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (GRADING / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def mutations(text: str, draw: random.Random, count: int) -> Iterator[str]:
    """The text with one digit changed into another that is not 0, at `count` random places."""
    places = [match.start() for match in _DIGIT.finditer(text)]
    for place in draw.sample(places, min(count, len(places))):
        digit = draw.choice([d for d in "123456789" if d != text[place]])
        yield text[:place] + digit + text[place + 1 :]
