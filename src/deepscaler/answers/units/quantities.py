r"""Numbers with several units: `2\text{ hours }30\text{ minutes}`, `5\text{ feet }2\text{ inches}`, `30^\circ 15'`."""

from __future__ import annotations

from fractions import Fraction

from deepscaler.answers.kinds import Scalar
from deepscaler.answers.tokens.brackets import Tokens, is_sign
from deepscaler.answers.tokens.lexer import Token
from deepscaler.answers.tokens.vocabulary import AND
from deepscaler.answers.trees import Tree, number
from deepscaler.answers.units.parse import unit_of
from deepscaler.answers.units.words import UNITS

_ARC = {"'": Fraction(1, 60), "''": Fraction(1, 3600)}


def read_quantity(tokens: Tokens) -> Scalar | None:
    """The sum in its first unit; None unless the units get smaller and measure the same."""
    parts: list[tuple[Tree, str, Fraction]] = []
    position = 0
    while position < len(tokens):
        joint = bool(parts) and (is_sign(tokens[position], ",") or tokens[position].value.lower() in AND)
        part = _part(tokens[position + joint :])
        if part is None or (parts and (part[2] != parts[0][1] or part[3] >= parts[-1][2])):
            return None
        parts.append(part[1:])
        position += joint + part[0]
    if len(parts) < 2:
        return None
    _, dimension, size = parts[0]
    total: Tree = ("add", *(("mul", tree, ("num", part / size, 0)) for tree, _, part in parts))
    if dimension == "degree":
        return Scalar(total, degree=True)
    return Scalar(total, unit_of({dimension: 1}, size))


def _part(tokens: Tokens) -> tuple[int, Tree, str, Fraction] | None:
    """How many tokens one number and its unit take, the number, and what the unit measures in which size."""
    if len(tokens) < 2 or tokens[0].kind != "num":
        return None
    value = number(tokens[0].value)
    if len(tokens) > 2 and is_sign(tokens[1], "^") and is_sign(tokens[2], "circ"):
        return 3, value, "degree", Fraction(1)
    if len(tokens) > 4 and [t.value for t in tokens[1:5]] == ["^", "{", "circ", "}"]:
        return 5, value, "degree", Fraction(1)
    marks = "".join(t.value for t in tokens[1:3] if is_sign(t, "'"))
    if marks:
        return 1 + len(marks), value, "degree", _ARC[marks]
    unit = _known(tokens[1])
    return None if unit is None else (2, value, *unit)


def _known(token: Token) -> tuple[str, Fraction] | None:
    return UNITS.get(token.value.lower()) if token.kind in ("prose", "roman", "letters") else None
