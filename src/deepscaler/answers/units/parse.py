"""A unit, a percent sign or a word for what is counted, taken off the end or the front of a number's tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from deepscaler.answers.kinds import Unit
from deepscaler.answers.tokens.brackets import closing, is_sign
from deepscaler.answers.tokens.lexer import Token
from deepscaler.answers.tokens.vocabulary import CONNECTING, COUNTED
from deepscaler.answers.trees import CONSTANTS, FUNCTIONS
from deepscaler.answers.units.words import (
    ALTERING,
    DEGREES,
    ITALIC_UNITS,
    MAGNITUDES,
    PER,
    PERCENT,
    RAISED,
    SPELLED,
    SQUARE,
    TEMPERATURES,
    UNITS,
)

ROMAN_UNITS = frozenset("mshgJNWVAKCFLlTH")
_SIGNS = frozenset(["^", "{", "}", "-", "/", "cdot", "times", ".", "(", ")", "circ", ",", "*"])
_DENYING = frozenset(["incorrect", "untrue", "false", "impossible", "no", "none", "maybe", "perhaps", "possibly"])
_REAL = frozenset(["solution", "solutions", "root", "roots", "zero", "zeros", "value", "values"])
_SQUARED_UNIT = re.compile("(平方|立方|제곱|세제곱)(.+)")
UNIT_OF_ANYTHING = Unit((("unit", 1),), Fraction(1))  # "units" of whatever the problem measures in
COUNT = Unit((("count", 1),), Fraction(1))  # of whatever: apples are not told from pears
RADIANS = Unit((("angle", 1),), Fraction(1))


@dataclass(frozen=True, slots=True)
class Measured:
    """The tokens of the number, and what stood around it."""

    tokens: Sequence[Token]
    unit: Unit | None = None
    percent: bool = False
    degree: bool = False
    factor: Fraction = Fraction(1)


def without_unit(tokens: Sequence[Token]) -> Measured:
    """The number alone. Anything else is left to the expression grammar."""
    if any(t.kind == "cmd" and t.value == "mu" for t in tokens):
        tokens = _with_micro_units(tokens)
    if len(tokens) > 1 and tokens[0].kind == "prose" and _is_money(tokens[0].value):
        rest = without_unit(tokens[1:])
        return Measured(rest.tokens, rest.unit or _unit([tokens[0]]), rest.percent, rest.degree, rest.factor)
    if len(tokens) > 2 and tokens[-2].value == "circ" and tokens[-1].value in TEMPERATURES:
        return Measured(tokens[:-1], _temperature(TEMPERATURES[tokens[-1].value]))
    start = next((i for i in range(1, len(tokens)) if _begins(tokens, i)), None)
    if start is None or not all(_belongs(token, before) for before, token in pairwise(tokens[start - 1 :])):
        return Measured(tokens)
    words = [t.value.lower() for t in tokens[start:] if t.kind in ("prose", "letters", "roman")]
    if any(_connects(word, words[index + 1 :]) for index, word in enumerate(words)):
        return Measured(tokens)
    if words and (words[0] in RAISED or not ALTERING.isdisjoint(words) or not _DENYING.isdisjoint(words)):
        return Measured(tokens)
    return _named(tokens[:start], tokens[start:], words)


def _connects(word: str, behind: list[str]) -> bool:
    """Inches are a unit, and real solutions are counted."""
    if word == "in" and not behind:
        return False
    return word in CONNECTING and not (word == "real" and behind and behind[0] in _REAL)


def _named(number: Sequence[Token], rest: Sequence[Token], words: list[str]) -> Measured:
    """A number with what its words say: a magnitude first, then percent, degrees or a unit."""
    factor, left = _magnitude(rest[0])
    if factor != 1:
        measured = without_unit([*number, *left, *rest[1:]])
        return replace(measured, factor=measured.factor * factor)
    if words and (words[0] in PERCENT or words[:2] == ["per", "cent"]):
        return Measured(number, percent=True)
    temperature = next((word for word in words if word in ("celsius", "fahrenheit")), "")
    if temperature:
        return Measured(number, _temperature(temperature))
    if words and words[0] in DEGREES:
        return Measured(number, degree=True)
    return Measured(number, _unit(rest))


def _magnitude(token: Token) -> tuple[Fraction, list[Token]]:
    """The factor that a word is, or starts with where words are not spaced: 万元; and the rest of the word."""
    word, factor = token.value.lower(), Fraction(1)
    if word in MAGNITUDES:
        return MAGNITUDES[word], []
    while word and not word.isascii() and word[:2] not in UNITS and word[0] in MAGNITUDES:
        factor, word = factor * MAGNITUDES[word[0]], word[1:]
    return factor, [Token("prose", word)] if word else []


def _temperature(word: str) -> Unit:
    return Unit(((word, 1),), Fraction(1))


def _with_micro_units(tokens: Sequence[Token]) -> Sequence[Token]:
    r"""`\mu\text{m}` as the one word that it is."""
    for i, (mu, unit) in enumerate(pairwise(tokens)):
        if mu.kind == "cmd" and mu.value == "mu" and unit.kind in ("prose", "roman"):
            return [*tokens[:i], Token("prose", "μ" + unit.value), *tokens[i + 2 :]]
    return tokens


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
        return token.value == "min" or token.value not in (FUNCTIONS | CONSTANTS.keys())
    if token.kind == "cmd" and token.value == "frac":  # \\frac{\\text{m}}{\\text{s}}
        return _is_unit_fraction(tokens[index + 1 :])
    if token.kind == "cmd" and token.value == "Omega":
        return before.kind == "num" and index == len(tokens) - 1
    if token.kind == "sign" and token.value == "(":  # a remark: 42 (as required)
        return all(t.kind in ("prose", "sign") for t in tokens[index:]) and any(
            t.kind == "prose" for t in tokens[index:]
        )
    if token.kind == "roman":
        return token.value in ROMAN_UNITS and (before.kind == "num" or before.value in (")", "}"))
    if token.kind == "letters" and (before.kind == "num" or before.value in (")", "}") or token.spaced):
        word = token.value.lower()
        ends = index == len(tokens) - 1 or is_sign(tokens[index + 1], "^")
        last = ends and before.kind == "num" and token.spaced
        return word in ITALIC_UNITS or word in COUNTED or word in MAGNITUDES or (last and word in ("min", "in"))
    return False


def _is_unit_fraction(tokens: Sequence[Token]) -> bool:
    words = [t for t in tokens if t.kind in ("prose", "roman")]
    return bool(words) and all(t in words or is_sign(t, "{", "}", "^") or t.value in ("2", "3") for t in tokens)


def _belongs(token: Token, before: Token) -> bool:
    if token.kind in ("prose", "roman"):
        return True
    if token.kind == "letters":
        return len(token.value) > 1 or token.value in "msh"
    if token.kind == "num":
        return token.value in ("1", "2", "3") and is_sign(before, "^", "{", "-")
    if token.kind == "cmd" and token.value in ("Omega", "frac"):
        return True
    return token.value in _SIGNS


def _unit(tokens: Sequence[Token]) -> Unit:
    """The powers of known dimensions, COUNT where there is none. Other words beside a known unit are a remark."""
    tokens = [part for token in _without_remarks(tokens) for part in _spelled(token)]
    known = [_known(t) for t in tokens]
    if all(unit is None for unit in known):
        return COUNT
    compound = _compound(tokens)
    anything = any(unit is not None and unit[0] == "unit" for unit in known)
    return UNIT_OF_ANYTHING if anything and len(compound.dimensions) != 1 else compound


def _without_remarks(tokens: Sequence[Token]) -> Sequence[Token]:
    """`cm (length)` as `cm`; brackets that hold all there is, and those with operations in them, stay: `J/(kg K)`."""
    start = next((i for i, t in enumerate(tokens) if i and is_sign(t, "(")), 0)
    end = closing(tokens, start) if start else -1
    if end < 0 or tokens[start - 1].value in PER or any(is_sign(t, "/", "^", "cdot") for t in tokens[start:end]):
        return tokens
    return [*tokens[:start], *tokens[end + 1 :]]


def _spelled(token: Token) -> list[Token]:
    """The words of an abbreviation or a word without spaces: mph, 平方米, 米每秒."""
    word = token.value.lower()
    if word in SPELLED:
        return [Token("prose", part) for part in SPELLED[word].split()]
    if token.kind != "prose" or word.isascii() or word in UNITS:
        return [token]
    first, per, second = word.partition("每")
    if per:
        return [*(_spelled(Token("prose", first)) if first else []), Token("prose", per), Token("prose", second)]
    squared = _SQUARED_UNIT.fullmatch(word)
    return [Token("prose", squared[1]), Token("prose", squared[2])] if squared else [token]


def _known(token: Token) -> tuple[str, Fraction] | None:
    return UNITS.get(token.value.lower()) if token.kind in ("prose", "letters", "roman") else None


def _compound(tokens: Sequence[Token]) -> Unit:
    """`km/h`, `square inches`, `m^{-1}`, `words per minute`: other words are left out."""
    powers: dict[str, int] = {}
    size, sign, power = Fraction(1), 1, 1
    last: tuple[str, Fraction] | None = None
    raised = negative = False
    for before, token in pairwise([Token("sign", ""), *tokens]):
        word = token.value.lower() if token.kind in ("prose", "letters", "roman") else ""
        extra = 0
        if token.value.lower() in PER or (before.value, token.value) == ("}", "{"):
            sign = -1
        elif word in SQUARE:
            power = SQUARE[word]
        elif word in RAISED:
            extra = (RAISED[word] - 1) * sign
        elif word:
            last, extra, power = UNITS.get(word), sign * power, 1
        elif token.value in ("^", "-"):
            raised, negative = raised or token.value == "^", token.value == "-"
        elif token.kind == "num" and raised:
            extra = (-int(token.value) if negative else int(token.value)) * sign - sign
            raised = negative = False
        if extra and last is not None:
            powers[last[0]] = powers.get(last[0], 0) + extra
            size *= last[1] ** extra
    return unit_of(powers, size)


def unit_of(powers: dict[str, int], size: Fraction) -> Unit:
    """Litres are a thousandth of a cubic metre."""
    litres = powers.get("volume", 0)
    if litres:
        powers = {**powers, "volume": 0, "length": powers.get("length", 0) + 3 * litres}
        size /= Fraction(1000) ** litres
    return Unit(tuple(sorted((name, power) for name, power in powers.items() if power)), size)
