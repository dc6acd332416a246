r"""Text after a value that may be left out: a second form, `1024\ (=2^{10})`, or a condition, `x+1,\ x\ne1`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from deepscaler.answers.comparison.compare import Comparison
from deepscaler.answers.comparison.intervals import intersection
from deepscaler.answers.grammar.names import refuses
from deepscaler.answers.grammar.phrases import is_word
from deepscaler.answers.grammar.relations import is_near
from deepscaler.answers.kinds import (
    Answer,
    Approximated,
    Conditioned,
    Items,
    Named,
    Prose,
    Reals,
    Relation,
    Scalar,
    Span,
)
from deepscaler.answers.tokens.brackets import Tokens, is_sign, split, top_level
from deepscaler.answers.tokens.lexer import Token, UnreadableError
from deepscaler.answers.tokens.vocabulary import AND, CONDITIONING, KINDS_OF_NUMBERS, SAME_AGAIN
from deepscaler.answers.trees import FUNCTIONS, GREEK, Tree, split_letters
from deepscaler.answers.values.same_value import real_value, symbols

Read = Callable[[Tokens], Answer]
MAX_CONDITIONS = 6
CARELESS = 0.02
_ORDERING = frozenset(["<", ">", "le", "ge", "ne", "in"])
_OPERATORS = frozenset(
    ["+", "-", "*", "/", "^", "_", "=", "cdot", "times", "<", ">", "le", "ge", "ne", "in", ",", "|", ":"]
)
_NO_VALUES = _OPERATORS | FUNCTIONS
_SETS = frozenset("ℤℕℚℝℂ")


def read_aside(tokens: Tokens, read: Read) -> Answer | None:
    """None if the end holds nothing of the kind. Raises UnreadableError."""
    if len(tokens) < 4:
        return None
    if is_sign(tokens[-1], ")"):
        start = _opening(tokens)
        if 0 < start < len(tokens) - 2 and tokens[start - 1].value not in _NO_VALUES:
            answer = _bracketed(tokens[:start], tokens[start + 1 : -1], tokens[start].spaced, read)
            if answer is not None:
                return answer
    if not any(t.value in _ORDERING or t.value == "forall" or is_word(t) for t in tokens):
        return None
    return _conditioned(tokens, read)


def _opening(tokens: Tokens) -> int:
    """Index of the bracket that the last token closes; -1 for none."""
    depth = 0
    for index in range(len(tokens) - 1, -1, -1):
        if tokens[index].kind == "sign":
            depth += (tokens[index].value in (")", "]", "}", "\\}")) - (tokens[index].value in ("(", "[", "{", "\\{"))
            if depth == 0:
                return index if is_sign(tokens[index], "(") else -1
    return -1


# A second form -------------------------------------------------------------------------------------------------


def _bracketed(value: Tokens, inner: Tokens, spaced: bool, read: Read) -> Answer | None:
    start = 4 if [t.value for t in inner[:4]] == ["i", ".", "e", "."] else 0
    while start < len(inner) and (inner[start].value.lower() in SAME_AGAIN and is_word(inner[start])):
        start += 1
    while start and start < len(inner) and is_sign(inner[start], ",", ".", ":"):
        start += 1
    near = any(is_sign(t, "approx") or t.value.startswith(("approx", "about")) for t in inner[: start + 1])
    if start or near or is_sign(inner[0], "="):
        second = [t for t in inner[start:] if not is_sign(t, "approx", "=")] if near else inner[start:]
        answer = _second(value, second, near, read)
        if answer is not None:
            return answer
    if any(is_sign(t, *_ORDERING) for _, t in top_level(inner)) or any(map(refuses, inner)):
        return _with_ranges(value, inner, read)
    if all(map(is_word, inner)) and any(is_sign(t, "=") for _, t in top_level(value)):
        return read(value)  # a remark
    return _equal_form(value, inner, read) if spaced or all(map(is_word, inner)) else _with_ranges(value, inner, read)


def _equal_form(value: Tokens, inner: Tokens, read: Read) -> Answer | None:
    r"""`\frac12 (50\%)` where both are equal constants, else what the brackets would mean in a product."""
    if [t.value for t in value] != [t.value for t in inner]:
        first, second = _try(value, read), _try(inner, read)
        if isinstance(first, Scalar) and isinstance(second, Scalar) and not symbols(first.tree):
            return first if Comparison().same(first, second) else None
    return _with_ranges(value, inner, read) if any(map(is_word, inner)) else None


def _second(value: Tokens, inner: Tokens, near: bool, read: Read) -> Answer | None:
    first, second = read(value), _try(inner[1:] if inner and is_sign(inner[0], "=") else inner, read)
    if second is None or isinstance(second, Prose):
        return None
    if Comparison().same(first, second):
        return first
    plain = first.value if isinstance(first, Named) else first
    if near and isinstance(plain, Scalar) and isinstance(second, Scalar):
        if is_near(second.tree, plain.tree):
            return Approximated(first, second)
        if _is_close(plain.tree, second.tree):
            return first
    raise UnreadableError("two forms of different values")


def _is_close(a: Tree, b: Tree) -> bool:
    """Whether one may be a careless rounding of the other: then the exact one counts."""
    x, y = real_value(a), real_value(b)
    return x is not None and y is not None and abs(float(x) - float(y)) <= CARELESS * abs(float(x))


def _try(tokens: Tokens, read: Read) -> Answer | None:
    try:
        return read(tokens) if tokens else None
    except UnreadableError:
        return None


# A condition ---------------------------------------------------------------------------------------------------


def _conditioned(tokens: Tokens, read: Read) -> Answer | None:
    """The first position with only conditions after it."""
    for index, token in top_level(tokens):
        if index and (is_sign(token, ",", ";", "forall") or token.value.lower() in CONDITIONING):
            answer = _with_ranges(tokens[:index], tokens[index:], read)
            if answer is not None:
                return answer
    return None


def _with_ranges(value: Tokens, rest: Tokens, read: Read) -> Answer | None:
    if any(is_sign(t, *(_ORDERING - {"in"})) for _, t in top_level(value)) or any(map(refuses, rest)):
        return None
    parts = [_without_words(p) for p in split(rest, lambda t: is_sign(t, ",", ";") or t.value.lower() in AND) if p]
    if not 0 < len(parts) <= MAX_CONDITIONS or not all(not part or _is_condition(part) for part in parts):
        return None
    known, used = _letters(value), frozenset[str]().union(*map(_letters, parts))
    if (known and not used <= known) or not (used or any(map(is_word, rest))):
        return None
    answer = read(value)
    if isinstance(answer, (Reals, Prose)) or (isinstance(answer, Relation) and answer.op != "="):
        return None
    ranges = [r for r in (_try(part, read) for part in parts if part) if isinstance(r, Reals) and r.name]
    return None if _contradicts(answer, ranges) else Conditioned(answer, tuple(ranges), _parameter(rest))


def _parameter(rest: Tokens) -> str:
    """The one letter that is said to be an integer."""
    letters = {t.value for t in rest if t.kind == "letters" and len(t.value) == 1}
    whole = any(t.value in ("ℤ", "ℕ") or t.value.lower() in ("integer", "integers") for t in rest)
    return letters.pop() if whole and len(letters) == 1 else ""


def _without_words(part: Tokens) -> Tokens:
    """The relation alone; nothing of what only says what kind of number a letter is."""
    part = [t for t in part if not (t.kind == "roman" and t.value == "a")]
    words = [t for t in part if is_word(t)]
    signs = [t for t in part if not is_word(t) and not is_sign(t, "forall")]
    if any(t.value.lower() not in CONDITIONING | KINDS_OF_NUMBERS for t in words) or (words and part[0].kind == "num"):
        return part
    if any(not is_word(before) and is_word(t) and t.value.lower() in CONDITIONING for before, t in pairwise(part)):
        return part  # `-x for x < 0` is another piece
    if any(is_sign(t, *_ORDERING) for t in signs):
        return signs
    return () if _only_letters(signs) and len(signs) < len(part) else part


def _only_letters(tokens: Sequence[Token]) -> bool:
    return all(t.kind == "letters" or t.value in GREEK or t.value in ("_", "{", "}") for t in tokens)


def _is_condition(tokens: Tokens) -> bool:
    """`x > 0`, `0 < x < 1`, `k \\in \\mathbb{Z}`, of at least one letter, without words and equal signs."""
    signs = [t.value for _, t in top_level(tokens) if t.kind in ("sign", "cmd")]
    relations = [s for s in signs if s in _ORDERING]
    if not 0 < len(relations) <= 2 or "=" in signs or any(map(is_word, tokens)) or is_sign(tokens[0], *_ORDERING):
        return False
    return not is_sign(tokens[-1], *_ORDERING) and bool(_letters(tokens))


def _letters(tokens: Tokens) -> frozenset[str]:
    return frozenset(
        t.value
        for t in split_letters([t for t in tokens if not is_word(t) or t.kind == "letters"])
        if (t.kind == "letters" and len(t.value) == 1) or (t.kind == "cmd" and t.value in GREEK)
    )


def _contradicts(answer: Answer, ranges: list[Reals]) -> bool:
    """`x=0, x\\ge3` is a list."""
    if not isinstance(answer, Named):
        return False
    values = answer.value.items if isinstance(answer.value, Items) else (answer.value,)
    points = [Span(v.tree, True, v.tree, True) for v in values if isinstance(v, Scalar) and not symbols(v.tree)]
    return any(intersection([p], r.spans) == () for p in points for r in ranges if r.name == answer.name)
