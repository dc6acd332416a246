"""Whatever becomes of an answer when pieces are dropped, put in or exchanged, grading it ends with a verdict."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from deepscaler.answers.equivalence import equivalent

_PIECE = re.compile(r"\\[a-zA-Z]+|\\.|\w+|\s+|.")


def answers() -> list[str]:
    text = Path(__file__).with_name("answer_forms.txt").read_text(encoding="utf-8")
    return [answer for line in text.splitlines() if " || " in line for answer in line.split(" || ")]


def damaged(draw: random.Random, count: int) -> Iterator[tuple[str, str]]:
    """An answer in which one to three pieces have changed, and the answer."""
    known = answers()
    pieces = [piece for answer in known for piece in _PIECE.findall(answer)]
    for _ in range(count):
        answer = draw.choice(known)
        parts = _PIECE.findall(answer)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(parts) + 1)
            parts[place : place + draw.randint(0, 1)] = [draw.choice(pieces)] * draw.randint(0, 1)
        yield "".join(parts), answer


def test_a_damaged_answer_is_graded() -> None:
    for answer, reference in damaged(random.Random(11), 1500):
        equality = equivalent(answer, reference)
        assert equality.how
        assert equivalent(answer, answer).equal is bool(answer.strip())
