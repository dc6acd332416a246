"""Names of what has a value, left of an equal sign."""

from __future__ import annotations

import re

from deepscaler.answers.grammar.scalars import trimmed
from deepscaler.answers.tokens.brackets import Tokens, closing, is_sign, split
from deepscaler.answers.tokens.lexer import Token
from deepscaler.answers.tokens.vocabulary import ARTICLES, CONDITIONING, REFUSING, SUBORDINATE
from deepscaler.answers.trees import CONSTANTS, FUNCTIONS, GREEK, is_digits

MAX_NAME_TOKENS = 24
MAX_QUANTITY_TOKENS = 60
_VALUE_SIGNS = frozenset(["+", "-", "*", "^", "sqrt", "cdot", "times", "!", "sum", "prod"])
_QUANTITIES = frozenset(["angle", "triangle", "measuredangle", ":"])
_RELATING = frozenset(["le", "ge", "ne", "approx", "pm", "mp"])
_DERIVATIVE = re.compile(r"frac(?:d|partial)(?:\^\d)?\w{0,8}(?:\(\w\))?(?:d|partial)[a-zA-Z](?:\^\d)?[\w()^+*-]{0,20}")
_ANGLE = re.compile(r"(?:measured)?angle([A-Z]+)")


def name_of(tokens: Tokens) -> str:
    r"""The text of what has a value: `x`, `f(x)`, `(x, y)`, `AB`, `m\angle A`, `\frac{NO}{BO}`, "area".

    "" for a value or an expression.
    """
    tokens = trimmed(tokens)
    if not 0 < len(tokens) <= MAX_NAME_TOKENS:
        return ""
    values = [t.value for t in tokens if t.value not in ("{", "}")]
    text = _ANGLE.sub(lambda m: f"angle{min(m[1], m[1][::-1])}", "".join(values))
    if any(map(refuses, tokens)) or tokens[0].value.lower() in CONDITIONING | SUBORDINATE:
        return ""
    if any(t.kind == "prose" for t in tokens):
        return " ".join(values) if all(t.kind in ("prose", "letters", "roman") for t in tokens) else ""
    if (len(tokens) == 1 and _is_word(tokens[0])) or _DERIVATIVE.fullmatch(text):
        return text
    parts = _variables(tokens)
    if parts:
        return f"({','.join(parts)})"
    if _is_variable(tokens) or (any(map(_is_quantity, tokens)) and not any(v in _VALUE_SIGNS for v in values)):
        return text if tokens[0].kind != "num" else ""
    return ""


def quantity_of(tokens: Tokens) -> str:
    r"""The text of a quantity that is no expression of the grammar: `\#S`, `\max f`, `E[X]`, `\text{area of }ABC`.

    "" if it holds no name, or a word that makes it a condition or the opposite.
    """
    tokens = trimmed(tokens)
    if not 0 < len(tokens) <= MAX_QUANTITY_TOKENS:
        return ""
    words = [t for t in tokens if t.kind in ("prose", "letters", "roman", "cmd")]
    if not words or any(
        refuses(t)
        or t.value.lower() in (CONDITIONING - {"with"}) | SUBORDINATE
        or (t.kind == "cmd" and t.value in _RELATING)
        for t in words
    ):
        return ""
    return " ".join(t.value for t in tokens if t.value not in ("{", "}") and t.value.lower() not in ARTICLES)


def refuses(token: Token) -> bool:
    """A word that denies or doubts the value beside it; NO may well be a segment."""
    word = token.kind == "prose" or (token.kind == "letters" and not token.value.isupper())
    return word and token.value.lower() in REFUSING


def tuple_names(tokens: Tokens) -> list[str]:
    """The names in `(x, y)`; empty for anything else."""
    return _variables(trimmed(tokens))


def _variables(tokens: Tokens) -> list[str]:
    if len(tokens) < 5 or not is_sign(tokens[0], "(") or closing(tokens, 0) != len(tokens) - 1:
        return []
    parts = split(tokens[1:-1], lambda t: is_sign(t, ",", ";"))
    if len(parts) < 2 or not all(map(_is_variable, parts)):
        return []
    return ["".join(t.value for t in part if t.value not in ("{", "}")) for part in parts]


def _is_word(token: Token) -> bool:
    return token.kind == "letters" and len(token.value) > 2 and token.value not in FUNCTIONS


def _is_quantity(token: Token) -> bool:
    """An angle, a triangle, a ratio, or a segment like AB."""
    capitals = token.kind == "letters" and len(token.value) > 1 and token.value.isupper()
    return capitals or (token.kind in ("sign", "cmd") and token.value in _QUANTITIES)


def _is_variable(tokens: Tokens) -> bool:
    """One letter with scripts and primes, perhaps behind a Delta, perhaps applied to something."""
    position = 1 if len(tokens) > 1 and tokens[0].value in ("Delta", "partial") else 0
    if position >= len(tokens) or not _is_letter(tokens[position]):
        return False
    position += 1
    while position < len(tokens) and is_sign(tokens[position], "_", "^", "'"):
        mark = tokens[position].value
        position += 1
        if mark == "'" or position >= len(tokens):
            continue
        end = closing(tokens, position) + 1 if is_sign(tokens[position], "{") else position + 1
        if mark == "^" and not _is_mark(tokens[position:end], applied=end < len(tokens) and is_sign(tokens[end], "(")):
            return False
        position = max(end, position + 1)
    if position < len(tokens) and is_sign(tokens[position], "("):
        return closing(tokens, position) == len(tokens) - 1
    return position == len(tokens)


def _is_letter(token: Token) -> bool:
    if token.kind in ("letters", "roman"):
        return len(token.value) == 1
    greek = token.value in GREEK and token.value not in CONSTANTS
    return token.kind == "cmd" and (greek or is_digits(token.value))


def _is_mark(tokens: Tokens, *, applied: bool) -> bool:
    """Whether a superscript belongs to the name: primes and stars, or any before an argument: `f^{-1}(x)`."""
    return applied or all(is_sign(t, "'", "*", "+", "{", "}") for t in tokens)
