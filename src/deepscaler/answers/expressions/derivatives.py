r"""`\frac{dy}{dx}` and `\frac{\partial f}{\partial x}` are names of derivatives, no quotients in which d cancels."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deepscaler.answers.tokens.brackets import closing
from deepscaler.answers.tokens.lexer import Token
from deepscaler.answers.trees import GREEK

_TOP = re.compile(r"(d|partial)(?:\^(\d))?\w*")
_BELOW = re.compile(r"(d|partial)[a-z]+(?:\^(\d))?")


def derivative_at(tokens: Sequence[Token], start: int) -> tuple[int, str] | None:
    """How many tokens behind `\\frac` the two groups take, and the derivative's name; None for a quotient."""
    if start + 5 > len(tokens) or tokens[start].value != "{" or tokens[start + 1].value not in ("d", "partial"):
        return None
    middle = closing(tokens, start) + 1
    if middle < 1 or middle >= len(tokens) or tokens[middle].value != "{":
        return None
    end = closing(tokens, middle) + 1
    top, below = tokens[start + 1 : middle - 1], tokens[middle + 1 : end - 1]
    names = [t for t in below[1:] if t.kind == "letters" or t.value in GREEK]
    first, second = _TOP.fullmatch(_text(top)), _BELOW.fullmatch(_text(below))
    if first is None or second is None or len(names) != 1 or first.groups() != second.groups():
        return None
    return end - start, f"{_text(top)}/{_text(below)}"


def _text(tokens: Sequence[Token]) -> str:
    return "".join(t.value for t in tokens if t.value not in ("{", "}"))
