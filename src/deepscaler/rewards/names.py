"""Names of what has a value, left of an equal sign; functions under another letter for their argument."""

from __future__ import annotations

import re
from dataclasses import replace

from deepscaler.rewards.answers import Answer, Items, Named, Prose, Reals, Scalar
from deepscaler.rewards.brackets import Tokens, closing, is_sign, split
from deepscaler.rewards.constants import with_symbols
from deepscaler.rewards.same_value import mentions
from deepscaler.rewards.scalars import trimmed
from deepscaler.rewards.tokens import Token
from deepscaler.rewards.trees import CONSTANTS, FUNCTIONS, GREEK, is_digits
from deepscaler.rewards.vocabulary import ARTICLES, CONDITIONING, REFUSING, SUBORDINATE

MAX_NAME_TOKENS = 24
MAX_QUANTITY_TOKENS = 60
_VALUE_SIGNS = frozenset(["+", "-", "*", "^", "sqrt", "cdot", "times", "!", "sum", "prod"])
_QUANTITIES = frozenset(["angle", "triangle", "measuredangle", ":"])
_RELATING = frozenset(["le", "ge", "ne", "approx", "pm", "mp"])
_DERIVATIVE = re.compile(r"frac(?:d|partial)(?:\^\d)?\w{0,8}(?:\(\w\))?(?:d|partial)[a-zA-Z](?:\^\d)?[\w()^+*-]{0,20}")
_BOUND_LETTERS = frozenset("xyztuvwnkmrs")
_ANGLE = re.compile(r"(?:measured)?angle([A-Z]+)")
_APPLIED = re.compile(r"([^()]+)\(([a-zA-Z](?:,[a-zA-Z]){0,3})\)")


def name_of(tokens: Tokens) -> str:
    r"""The text of what has a value: `x`, `f(x)`, `(x, y)`, `AB`, `m\angle A`, `\frac{NO}{BO}`, "area".

    "" for what is rather a value or an expression.
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

    "" where no name stands in it, or a word that makes it a condition or the opposite.
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
    """A word that denies or doubts what stands beside it; NO may well be a segment."""
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


def under_one_name(a: Named, b: Named) -> Named | None:
    """`b` by the name of `a`: `f(t) = 1/t` as `f(x) = 1/x`, `y = …` as `f(x) = …`; None where the names differ."""
    first, second = _APPLIED.fullmatch(a.name), _APPLIED.fullmatch(b.name)
    if first and second and first[1] == second[1]:
        letters, others = first[2].split(","), second[2].split(",")
        bound = all(_binds(a.value, x) for x in letters) and all(_binds(b.value, y) for y in others)
        if not bound or len(letters) != len(others) or any(mentioned(b.value, x) for x in letters if x not in others):
            return None
        return replace(b, name=a.name, value=renamed(b.value, dict(zip(others, letters, strict=True))))
    if (first and b.name == "y") or (second and a.name == "y"):
        applied = first or second
        return replace(b, name=a.name) if applied and applied[1] in "fgh" and applied[2] == "x" else None
    return None


def _binds(value: Answer, letter: str) -> bool:
    """Whether the letter in `f(x) = …` is a variable: one that the value mentions, or that is hardly ever a name.

    The A of `P(A) = 1/2` is a name: it says which event.
    """
    return letter in _BOUND_LETTERS or mentioned(value, letter)


def mentioned(answer: Answer, letter: str) -> bool:
    if isinstance(answer, Scalar):
        return mentions(answer.tree, letter)
    if isinstance(answer, Prose):
        return answer.product is not None and mentions(answer.product, letter)
    if isinstance(answer, Named):
        return mentioned(answer.value, letter)
    if isinstance(answer, Reals):  # the condition of a piece
        return answer.name == letter or any(
            mentions(span.low, letter) or mentions(span.high, letter) for span in answer.spans
        )
    return isinstance(answer, Items) and any(mentioned(item, letter) for item in answer.items)


def renamed(answer: Answer, names: dict[str, str]) -> Answer:
    """The answer with the variables under other names, all at once."""
    if isinstance(answer, Scalar):
        return replace(answer, tree=with_symbols(answer.tree, names))
    if isinstance(answer, Prose) and answer.product is not None:
        return Scalar(with_symbols(answer.product, names))
    if isinstance(answer, Named):
        return replace(answer, value=renamed(answer.value, names), equation=None)
    if isinstance(answer, Reals):
        return replace(answer, name=names.get(answer.name, answer.name))
    if isinstance(answer, Items):
        return replace(answer, items=tuple(renamed(item, names) for item in answer.items))
    return answer
