"""One number or expression with its unit, and the text stripped from any answer before it is parsed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from deepscaler.answers.expressions.parser import parse_expression
from deepscaler.answers.kinds import Answer, Items, Scalar
from deepscaler.answers.tokens.brackets import Tokens, closing, is_sign, top_level
from deepscaler.answers.tokens.lexer import Token
from deepscaler.answers.tokens.vocabulary import CHECK_MARKS, COUNTED, LEADING, NUMBER_WORDS
from deepscaler.answers.trees import PLUS_MINUS, Tree
from deepscaler.answers.units.parse import without_unit
from deepscaler.answers.units.words import MAGNITUDES, UNITS
from deepscaler.answers.values.same_value import same_value

MAX_BRACES = 20
_FOR_ALL = frozenset(["for", "For", "forall"])
_CONDITIONS = frozenset(["=", "<", ">", "le", "ge", "ne", "equiv", "mod", "pmod"])


def trimmed(tokens: Tokens) -> Tokens:
    """Without closing marks, words like "the answer is", braces around everything and `for all x` at the end."""
    for _ in range(MAX_BRACES):
        tokens = _without_ends(tokens)
        end = qualification(tokens)
        whole = number_condition(tokens)
        if end:
            tokens = tokens[:end]
        elif whole:
            tokens = tokens[:whole]
        elif _is_braced(tokens):
            tokens = tokens[1:-1]
        else:
            break
    return tokens


def _without_ends(tokens: Tokens) -> Tokens:
    end, start = len(tokens), 0
    while end > 1 and tokens[end - 1].value in CHECK_MARKS:
        end -= 1
    while end and is_sign(tokens[end - 1], ".", ",", ";", ":", "\\\\"):
        end -= 1
    while start < end and is_sign(tokens[start], "approx", "=", "therefore", "Rightarrow", "implies"):
        start += 1
    words = start
    while words < end and (_leads(tokens[words]) or (words > start and is_sign(tokens[words], ":", ",", "="))):
        words += 1
    tokens = tokens[words if words < end else start : end]
    if tokens and tokens[-1].kind == "num" and tokens[-1].value.endswith("."):
        tokens = [*tokens[:-1], replace(tokens[-1], value=tokens[-1].value[:-1])]
    return tokens


def number_condition(tokens: Tokens) -> int:
    r"""Where `, k \in \mathbb{Z}` or `(c \in \mathbb{R})` starts at the end; 0 where there is none."""
    end = len(tokens) - 1 if tokens and is_sign(tokens[-1], ")") else len(tokens)
    if end < 5 or tokens[end - 1].value not in ("ℤ", "ℕ", "ℝ", "ℚ", "ℂ") or tokens[end - 2].value != "in":
        return 0
    start = end - 3
    if tokens[start].kind != "letters" or len(tokens[start].value) > 1:
        return 0
    while start and (is_sign(tokens[start - 1], ",", "(", ";") or tokens[start - 1].value in ("where", "with", "for")):
        start -= 1
    return start if start < end - 3 else 0


def qualification(tokens: Tokens) -> int:
    """Where `for all x` starts behind an equation; 0 for nowhere."""
    if _FOR_ALL.isdisjoint([t.value for t in tokens]):
        return 0
    return next((i for i, _ in top_level(tokens) if i and _qualifies(tokens, i)), 0)


def _is_braced(tokens: Tokens) -> bool:
    """One pair of braces around everything, and no list in them."""
    if len(tokens) < 3 or not is_sign(tokens[0], "{") or closing(tokens, 0) != len(tokens) - 1:
        return False
    return not any(is_sign(t, ",", ";") for t in tokens)


def number_in_words(tokens: Tokens) -> Tokens:
    """`minus 5` and `seven days` with the sign and the number as such."""
    if len(tokens) < 2 or tokens[0].kind not in ("prose", "letters"):
        return tokens
    word, behind = tokens[0].value.lower(), tokens[1]
    if word in ("minus", "negative") and behind.kind == "num":
        return [Token("sign", "-"), *tokens[1:]]
    counted = behind.kind in ("prose", "letters") and behind.value.lower() in COUNTED | UNITS.keys() | MAGNITUDES.keys()
    if len(tokens) == 2 and counted and word in NUMBER_WORDS and len(behind.value) > 1:
        return [Token("num", str(NUMBER_WORDS[word])), behind]
    return tokens


def _leads(token: Token) -> bool:
    return token.kind in ("prose", "letters") and len(token.value) > 1 and token.value.lower() in LEADING


def _qualifies(tokens: Tokens, index: int) -> bool:
    """Whether `for all x …` starts here, behind an equation."""
    word = tokens[index].value.lower()
    if word not in ("for", "forall") or not any(is_sign(t, "=") for t in tokens[:index]):
        return False
    rest = tokens[index + 1 :]
    if any(t.kind == "num" or (t.kind in ("sign", "cmd") and t.value in _CONDITIONS) for t in rest):
        return False
    return word == "forall" or (bool(rest) and rest[0].value.lower() in ("all", "any", "every", "each"))


def scalar(tokens: Tokens) -> Answer:
    """A number or expression, its unit taken off; two of them where it holds a ±."""
    measured = without_unit(tokens)
    tree = parse_expression(trimmed(measured.tokens))
    percent, degree = measured.percent, measured.degree
    while tree[:2] in (("call", "percent"), ("call", "degree")):
        percent, degree = percent or tree[1] == "percent", degree or tree[1] == "degree"
        tree = tree[2]
    if tree[0] == "neg" and tree[1][:2] in (("call", "percent"), ("call", "degree")):
        percent, degree = percent or tree[1][1] == "percent", degree or tree[1][1] == "degree"
        tree = ("neg", tree[1][2])
    if measured.factor != 1:
        tree = ("mul", tree, ("num", measured.factor, 0))
    degree = degree and measured.unit is None  # 30 °C is no angle
    if _has_sign(tree):
        both = [_with_sign(tree, sign) for sign in (1, -1)]
        if same_value(*both):  # 7 ± 0
            return Scalar(both[0], measured.unit, percent, degree)
        return Items("list", tuple(Scalar(t, measured.unit, percent, degree) for t in both))
    return Scalar(tree, measured.unit, percent, degree)


def _has_sign(tree: Tree) -> bool:
    return tree == PLUS_MINUS or any(isinstance(part, tuple) and _has_sign(part) for part in tree[1:])


def _with_sign(tree: Tree, sign: int) -> Tree:
    if tree == PLUS_MINUS:
        return ("num", Fraction(sign), 0)
    return tuple(_with_sign(part, sign) if isinstance(part, tuple) else part for part in tree)
