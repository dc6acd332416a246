r"""Numbers as words and letters count them: `1^{st}` and `\text{first}`, `\text{IV}`, `\text{Quadrant I}`."""

from __future__ import annotations

from fractions import Fraction

from deepscaler.answers.kinds import Answer, Prose, Scalar
from deepscaler.answers.tokens.brackets import Tokens
from deepscaler.answers.tokens.lexer import Token
from deepscaler.answers.tokens.vocabulary import ARTICLES, NUMBER_WORDS, ORDINAL_WORDS

MAX_TOKENS = 12
# What I, V and X write: 1 to 39.
_ROMAN = {
    "X" * tens + ones: 10 * tens + number
    for tens in range(4)
    for number, ones in enumerate(["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"])
    if tens or ones
}
_REGIONS = frozenset(["quadrant", "octant"])
_LETTERS = ("prose", "letters", "roman")


def read_ordinal(tokens: Tokens) -> Answer | None:
    """An ordinal or a Roman numeral of at least two letters as its number, a quadrant by its number; else None."""
    if len(tokens) > MAX_TOKENS or not any(t.kind in _LETTERS and len(t.value) > 1 for t in tokens):
        return None
    words = [t for t in tokens if t.value not in ("{", "}")]
    region = _region(words)
    if region is not None:
        return region
    number = _ordinal(words)
    if number is None and len(words) == 1 and len(words[0].value) > 1 and words[0].kind in _LETTERS:
        number = _ROMAN.get(words[0].value)
    return None if number is None else Scalar(("num", Fraction(number), 0))


def _region(words: Tokens) -> Prose | None:
    """`Quadrant I`, `the first quadrant`, `IV quadrant`, `Quadrant 4`."""
    said = [t for t in words if t.value.casefold() not in ARTICLES | {"in"} and t.value not in ("^", "-")]
    names = [t for t in said if t.value.casefold() in _REGIONS]
    others = [t for t in said if t.value.casefold() not in _REGIONS]
    if len(names) != 1 or not others:
        return None
    number = _ordinal(others)
    if number is None and len(others) == 1:
        number = _cardinal(others[0])
    return None if number is None else Prose(f"{names[0].value.casefold()} {number}")


def _ordinal(words: Tokens) -> int | None:
    r"""`first`, `1st`, `1^{st}`, `1\text{st}`."""
    if len(words) == 1 and words[0].kind in _LETTERS:
        return ORDINAL_WORDS.get(words[0].value.casefold())
    parts = [t for t in words if t.value != "^"]
    if len(parts) != 2 or parts[0].kind != "num" or not parts[0].value.isdecimal() or parts[1].spaced:
        return None
    return int(parts[0].value) if parts[1].value == _ending(int(parts[0].value)) else None


def _ending(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def _cardinal(token: Token) -> int | None:
    if token.kind == "num":
        return int(token.value) if token.value.isdecimal() else None
    return _ROMAN.get(token.value) or NUMBER_WORDS.get(token.value.casefold())
