"""Reference answers and labelled cases of `../shared`, turned into what the grader takes. Tests skip without them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[2] / "shared"
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
