"""A unit, a percent sign or a word for what is counted, taken off the end or the front of a number's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from deepscaler.rewards.answers import Unit
from deepscaler.rewards.tokens import Token
from deepscaler.rewards.vocabulary import (
    CONNECTING,
    COUNTED,
    DEGREES,
    ITALIC_UNITS,
    MILLIONS,
    PERCENT,
    RAISED,
    SQUARE,
    TEMPERATURES,
    UNITS,
)

_MODIFYING = frozenset(["per", *SQUARE, *RAISED])
ROMAN_UNITS = frozenset("mshgJNWVAKCFLlTH")
_SIGNS = frozenset(["^", "{", "}", "-", "/", "cdot", "times", ".", "(", ")", "circ", ",", "*"])


@dataclass(frozen=True, slots=True)
class Measured:
    """The tokens of the number, and what stood around it."""

    tokens: Sequence[Token]
    unit: Unit | None = None
    percent: bool = False
    degree: bool = False
    factor: int = 1


def without_unit(tokens: Sequence[Token]) -> Measured:
    """The number alone. What is no unit stays, for the expression grammar to accept or to refuse."""
    if len(tokens) > 1 and tokens[0].kind == "prose" and _is_money(tokens[0].value):
        rest = without_unit(tokens[1:])
        return Measured(rest.tokens, rest.unit or _unit([tokens[0]]), rest.percent, rest.degree, rest.factor)
    if len(tokens) > 2 and tokens[-2].value == "circ" and tokens[-1].value in TEMPERATURES:
        return Measured(tokens[:-1])
    start = next((i for i in range(1, len(tokens)) if _begins(tokens, i)), None)
    if start is None or not all(map(_belongs, tokens[start:])):
        return Measured(tokens)
    words = [t.value.lower() for t in tokens[start:] if t.kind in ("prose", "letters", "roman")]
    number = tokens[:start]
    if any(word in CONNECTING and (word != "in" or index < len(words) - 1) for index, word in enumerate(words)):
        return Measured(tokens)
    if words and words[0] in MILLIONS:
        rest = without_unit([*number, *tokens[start + 1 :]])
        return Measured(rest.tokens, rest.unit, rest.percent, rest.degree, MILLIONS[words[0]])
    if words and words[0] in PERCENT:
        return Measured(number, percent=True)
    if words and words[0] in DEGREES:
        return Measured(number, degree=True)
    return Measured(number, _unit(tokens[start:]))


def _is_money(word: str) -> bool:
    return UNITS.get(word.lower(), ("",))[0] in ("money", "euro", "yen", "yuan", "rupee") or word.lower() in (
        "pound",
        "rs",
    )


def _begins(tokens: Sequence[Token], index: int) -> bool:
    """Whether a unit may start here."""
    token, before = tokens[index], tokens[index - 1]
    if before.kind == "sign" and before.value in ("_", "^", "(", "+", "-", "=", "/", "*") and token.value != "(":
        return False
    if token.kind == "prose":
        return True
    if token.kind == "sign" and token.value == "(":  # a remark: 42 (as required)
        return all(t.kind in ("prose", "sign") for t in tokens[index:]) and any(
            t.kind == "prose" for t in tokens[index:]
        )
    if token.kind == "roman":
        return token.value in ROMAN_UNITS and (before.kind == "num" or before.value in (")", "}"))
    if token.kind == "letters" and (before.kind == "num" or before.value in (")", "}") or token.spaced):
        word = token.value.lower()
        last = index == len(tokens) - 1 and before.kind == "num" and token.spaced
        return word in ITALIC_UNITS or word in COUNTED or word in MILLIONS or (last and word in ("min", "in"))
    return False


def _belongs(token: Token) -> bool:
    if token.kind in ("prose", "roman"):
        return True
    if token.kind == "letters":
        return len(token.value) > 1 or token.value in "msh"
    if token.kind == "num":
        return token.value in ("1", "2", "3")
    return token.value in _SIGNS


COUNT = Unit((("count", 1),), Fraction(1))  # of whatever: apples are not told from pears


def _unit(tokens: Sequence[Token]) -> Unit | None:
    """The powers of known dimensions; COUNT for other nouns; None for "units" and for a mixture."""
    known = [_known(t) for t in tokens if t.kind in ("prose", "letters", "roman") and t.value.lower() not in _MODIFYING]
    if all(unit is None for unit in known):
        return COUNT if known else None
    if any(unit is None or unit[0] == "unit" for unit in known):
        return None
    return _compound(tokens)


def _known(token: Token) -> tuple[str, Fraction] | None:
    return UNITS.get(token.value.lower())


def _compound(tokens: Sequence[Token]) -> Unit:
    """`km/h`, `square inches`, `m^{-1}`: every word is a known unit or modifies one."""
    powers: dict[str, int] = {}
    size, sign, power = Fraction(1), 1, 1
    last: tuple[str, Fraction] | None = None
    raised = negative = False
    for token in tokens:
        word = token.value.lower() if token.kind in ("prose", "letters", "roman") else ""
        extra = 0
        if token.value in ("/", "per"):
            sign = -1
        elif word in SQUARE:
            power = SQUARE[word]
        elif word in RAISED:
            extra = (RAISED[word] - 1) * sign
        elif word:
            last, extra, power = UNITS[word], sign * power, 1
        elif token.value in ("^", "-"):
            raised, negative = raised or token.value == "^", token.value == "-"
        elif token.kind == "num" and raised:
            extra = (-int(token.value) if negative else int(token.value)) * sign - sign
            raised = negative = False
        if extra and last is not None:
            powers[last[0]] = powers.get(last[0], 0) + extra
            size *= last[1] ** extra
    return Unit(tuple(sorted(powers.items())), size)
