"""From the tokens of an answer to the kind of thing it is, by its outermost structure first."""

from __future__ import annotations

import re
from fractions import Fraction

from deepscaler.rewards.answers import Answer, Based, Choice, Items, Named, Prose, Reals, Record, Residue, Scalar, Span
from deepscaler.rewards.brackets import Tokens, closing, is_sign, split, top_level
from deepscaler.rewards.expressions import parse_expression
from deepscaler.rewards.intervals import EVERYTHING, intersection, union, without_points
from deepscaler.rewards.matrices import read_matrix
from deepscaler.rewards.relations import read_relation
from deepscaler.rewards.scalars import scalar, trimmed
from deepscaler.rewards.tokens import Token, UnreadableError
from deepscaler.rewards.trees import FUNCTIONS, INFINITY, Tree
from deepscaler.rewards.vocabulary import (
    AND,
    ARTICLES,
    EVERY_REAL,
    NO_SOLUTION,
    NUMBER_WORDS,
    OR,
    SAME_WORDS,
)

MAX_DEPTH = 8
_DIGITS = re.compile(r"(?=.*[0-9])[0-9A-Z]+")
MAX_ITEMS = 60
ALL_REALS = Reals((EVERYTHING,))
EMPTY = Items("set", ())


def read_answer(tokens: Tokens, depth: int = 0) -> Answer:
    """Raises UnreadableError for what is none of the kinds of `answers`."""
    tokens = trimmed(tokens)
    if not tokens or depth > MAX_DEPTH:
        raise UnreadableError("nothing there" if not tokens else "nested too deeply")
    for rule in (_set_sign, _choice, _listed, _prose, _based, _enclosed, _set_algebra, _related, _residue, _ratio):
        answer = rule(tokens, depth)
        if answer is not None:
            return answer
    matrix = read_matrix(tokens)
    return scalar(tokens) if matrix is None else matrix


def _set_sign(tokens: Tokens, depth: int) -> Answer | None:
    if len(tokens) != 1 or tokens[0].kind != "cmd":
        return None
    name = tokens[0].value
    if name in ("ℤ", "ℕ", "ℚ", "ℂ"):
        return Prose(name)
    return {"ℝ": ALL_REALS, "emptyset": EMPTY}.get(name)


# Words -------------------------------------------------------------------------------------------------------------


def _prose(tokens: Tokens, depth: int) -> Answer | None:
    """Words only, at least one of two letters or more."""
    words = [t for t in tokens if t.kind in ("prose", "letters", "roman")]
    if not any(len(t.value) > 1 for t in words) or is_sign(tokens[0], "-", "/"):
        return None
    if len(words) == 1 and (words[0].value in FUNCTIONS or words[0].value in ("pi", "infty", "oo", "inf")):
        return None
    if any(t.kind in ("num", "cmd") or (t.kind == "sign" and t.value not in "-'.?!\"&/()") for t in tokens):
        return None
    said = [t.value.casefold() for t in words if t.value.casefold() not in ARTICLES]
    text = " ".join(said)
    text = SAME_WORDS.get(text, text)
    if text in EVERY_REAL:
        return ALL_REALS
    if text in NO_SOLUTION:
        return EMPTY
    if text == "∞":
        return Scalar(INFINITY)
    if text in NUMBER_WORDS:
        return Scalar(("num", Fraction(NUMBER_WORDS[text]), 0))
    return Prose(text, _letters_product(tokens))


def _letters_product(tokens: Tokens) -> Tree | None:
    """`xy` as a product of variables; a longer run or one of capitals is a word."""
    if any(t.kind != "letters" for t in tokens) or sum(len(t.value) for t in tokens) > 4:
        return None
    if sum(len(t.value) for t in tokens) > 2 and all(t.value.isupper() for t in tokens):
        return None
    return parse_expression(tokens)


def _choice(tokens: Tokens, depth: int) -> Answer | None:
    """`(B)`, `(B) 12`, `B. 12`, `B) 12`; a bare letter is a variable until it is compared with a choice."""
    opened = is_sign(tokens[0], "(")
    place = 1 if opened else 0
    if len(tokens) < place + 2 or tokens[place].kind not in ("letters", "roman"):
        return None
    letter, mark = tokens[place].value, tokens[place + 1]
    if len(letter) != 1 or not "A" <= letter <= "J" or not is_sign(mark, ")", *(() if opened else (".", ":"))):
        return None
    rest = tokens[place + 2 :]
    if not opened and (not rest or mark.value == ":" and not rest[0].spaced):
        return None
    if rest and not rest[0].spaced and rest[0].kind not in ("prose", "num"):
        return None
    if rest and (_joins(rest[0], AND) or _joins(rest[0], OR)):
        return None
    return Choice(letter, read_answer(rest, depth + 1) if rest else None)


def _based(tokens: Tokens, depth: int) -> Answer | None:
    """Digits below which a base stands: `1010_2`, `(2BF)_{16}`, `1010_{two}`."""
    place = next((i for i, t in enumerate(tokens) if t.value == "_"), 0)
    script = [t for t in tokens[place + 1 :] if t.value not in ("{", "}", "(", ")")]
    negative = bool(tokens) and is_sign(tokens[0], "-")
    digits = "".join(t.value for t in tokens[negative:place] if t.value not in ("(", ")"))
    if place == 0 or len(script) != 1 or not _DIGITS.fullmatch(digits):
        return None
    word = script[0].value.lower()
    base = int(word) if word.isdigit() and len(word) < 3 else NUMBER_WORDS.get(word)
    if base is None or base < 2 or (base <= 10 and not digits.isdigit()):
        return None
    return Based("-" * negative + (digits.lstrip("0") or "0"), base)


# Lists, sets, tuples -----------------------------------------------------------------------------------------------


def _joins(token: Token, words: frozenset[str]) -> bool:
    return token.kind in ("prose", "cmd", "letters") and token.value.lower() in words


def _listed(tokens: Tokens, depth: int) -> Answer | None:
    """Parts between `;`, or else between commas, "and" and "or"."""
    parts = split(tokens, lambda t: is_sign(t, ";"))
    if len(parts) == 1:
        parts = split(tokens, lambda t: is_sign(t, ",") or _joins(t, AND) or _joins(t, OR))
    if len(parts) == 1:
        return None
    parts = [part for part in parts if part]
    if len(parts) > MAX_ITEMS:
        raise UnreadableError("too many items")
    items: list[Answer] = []
    for part in parts:
        answer = read_answer(part, depth + 1)
        items += answer.items if isinstance(answer, Items) and answer.kind == "list" else [answer]
    meet = any(_joins(t, AND) for _, t in top_level(tokens))
    return _assembled(items, meet=meet)


def _assembled(items: list[Answer], *, meet: bool) -> Answer:
    if len(items) == 1:
        return items[0]
    reals = [item for item in items if isinstance(item, Reals)]
    if items and len(reals) == len(items):
        common = intersection(reals[0].spans, reals[1].spans) if meet and len(reals) == 2 else None
        spans = common or union([span for item in reals for span in item.spans])
        return Reals(spans, reals[0].name)
    if items and isinstance(items[0], Named):
        return _named_items(items)
    return Items("list", tuple(items))


def _named_items(items: list[Answer]) -> Answer:
    """`x=1, x=2` and `x=1, 2` are values of x; `x=1, y=2` is a record; `x=1, y=2, x=3, y=4` are two records."""
    named = [item for item in items if isinstance(item, Named)]
    first = named[0].name
    if all(item.name == first for item in named):
        values: list[Answer] = []
        for item in items:
            value = item.value if isinstance(item, Named) else item
            values += value.items if isinstance(value, Items) and value.kind == "list" else [value]
        return Named(first, Items("list", tuple(values)), None)
    if len(named) < len(items):
        return Items("list", tuple(items))
    names = [item.name for item in named]
    size = next((i for i in range(1, len(names)) if names[i] == first), len(names))
    groups = [named[i : i + size] for i in range(0, len(named), size)]
    if len(set(names[:size])) < size or any([n.name for n in group] != names[:size] for group in groups):
        return Items("list", tuple(items))
    records = tuple(_record(group) for group in groups)
    return records[0] if len(records) == 1 else Items("list", records)


def _record(group: list[Named]) -> Record:
    names = tuple(n.name for n in group)
    stem = names[0].partition("_")[0]
    numbered = names == tuple(f"{stem}_{i + 1}" for i in range(len(names)))
    return Record(names, tuple(n.value for n in group), numbered)


def _enclosed(tokens: Tokens, depth: int) -> Answer | None:
    """Brackets around everything, with commas inside: set, interval or tuple."""
    first, last = tokens[0].value, tokens[-1].value
    if not is_sign(tokens[0], "(", "[", "{", "\\{") or closing(tokens, 0) != len(tokens) - 1:
        return None
    inner = tokens[1:-1]
    while first == "(" and len(inner) > 2 and is_sign(inner[0], "(") and closing(inner, 0) == len(inner) - 1:
        inner = inner[1:-1]
    if first == "\\{" and last == "\\}":
        return _set(inner, depth)
    parts = split(inner, lambda t: is_sign(t, ",", ";"))
    if len(parts) == 1:
        return read_answer(inner, depth + 1) if first == "(" and last == ")" else None
    if first == "{":
        return Items("set", tuple(read_answer(part, depth + 1) for part in parts))
    if len(parts) > MAX_ITEMS:
        raise UnreadableError("too many items")
    if len(parts) == 2 and (first, last) != ("(", ")"):
        low, high = (parse_expression(trimmed(part)) for part in parts)
        return Reals((Span(low, first == "[", high, last == "]"),))
    return Items("tuple", tuple(read_answer(part, depth + 1) for part in parts))


def _set(inner: Tokens, depth: int) -> Answer:
    condition = split(inner, lambda t: is_sign(t, "|", ":"))
    if len(condition) == 2 and len(condition[0]) <= 5:
        return read_answer(condition[1], depth + 1)
    if not inner:
        return EMPTY
    answer = read_answer(inner, depth + 1)
    return Items("set", answer.items if isinstance(answer, Items) and answer.kind == "list" else (answer,))


# Sets of real numbers ----------------------------------------------------------------------------------------------


def _set_algebra(tokens: Tokens, depth: int) -> Answer | None:
    for sign in ("cup", "cap", "setminus"):
        parts = split(tokens, lambda t, sign=sign: is_sign(t, sign))
        if len(parts) > 1:
            answers = [read_answer(part, depth + 1) for part in parts]
            spans = [spans_of(answer) for answer in answers]
            if sign == "cup":
                return Reals(union([span for group in spans for span in group]))
            if sign == "cap":
                common = intersection(spans[0], spans[1]) if len(spans) == 2 else None
                return Reals(_known(common))
            if len(spans) == 2 and isinstance(answers[1], Items):
                holes = without_points([span.low for span in spans[1]])
                return Reals(holes if answers[0] == ALL_REALS else _known(intersection(spans[0], holes)))
            raise UnreadableError("a difference of sets that is not worked out")
    return None


def _known(spans: tuple[Span, ...] | None) -> tuple[Span, ...]:
    if spans is None:
        raise UnreadableError("sets whose endpoints are no constants")
    return spans


def spans_of(answer: Answer) -> tuple[Span, ...]:
    """An interval, a pair read as an open interval, or a set of points. Raises UnreadableError."""
    if isinstance(answer, Reals):
        return answer.spans
    if isinstance(answer, Named):
        return spans_of(answer.value)
    if isinstance(answer, Items) and answer.kind == "tuple" and len(answer.items) == 2:
        low, high = answer.items
        if isinstance(low, Scalar) and isinstance(high, Scalar):
            return (Span(low.tree, False, high.tree, False),)
    if isinstance(answer, Items) and answer.kind == "set":
        trees = [item.tree for item in answer.items if isinstance(item, Scalar)]
        if len(trees) == len(answer.items):
            return tuple(Span(tree, True, tree, True) for tree in trees)
    raise UnreadableError("no set of real numbers")


def _related(tokens: Tokens, depth: int) -> Answer | None:
    return read_relation(tokens, lambda part: read_answer(part, depth + 1))


# Numbers -----------------------------------------------------------------------------------------------------------


def _residue(tokens: Tokens, depth: int) -> Answer | None:
    place = next((i for i, t in top_level(tokens) if t.value in ("pmod", "mod") and i), None)
    if place is None or tokens[place].value != "pmod":
        return None
    modulus = [t for t in tokens[place + 1 :] if t.value not in ("{", "}", "(", ")")]
    value = scalar(tokens[:place])
    return Residue(value.tree, parse_expression(modulus)) if isinstance(value, Scalar) else None


def _ratio(tokens: Tokens, depth: int) -> Answer | None:
    parts = split(tokens, lambda t: is_sign(t, ":"))
    return None if len(parts) < 2 else Items("ratio", tuple(scalar(trimmed(part)) for part in parts))
