"""From the tokens of an answer to the kind of thing it is, by its outermost structure first."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from deepscaler.rewards.answers import (
    Answer,
    Based,
    Choice,
    Conditioned,
    Items,
    Matrix,
    Named,
    Prose,
    Reals,
    Record,
    Residue,
    Scalar,
    Span,
)
from deepscaler.rewards.asides import read_aside
from deepscaler.rewards.brackets import Tokens, closing, is_sign, split, top_level
from deepscaler.rewards.clocks import read_clock
from deepscaler.rewards.expressions import parse_expression
from deepscaler.rewards.intervals import MINUS_INFINITY, intersection, union, without_points
from deepscaler.rewards.matrices import MAX_CELLS, environment_rows, read_determinant, read_matrix
from deepscaler.rewards.phrases import read_phrase
from deepscaler.rewards.quantities import read_quantity
from deepscaler.rewards.relations import RELATIONS, read_relation
from deepscaler.rewards.same_value import same_value, symbols
from deepscaler.rewards.scalars import number_condition, number_in_words, qualification, scalar, trimmed
from deepscaler.rewards.sets import ALL_REALS, EMPTY, HALVES_IN_WORDS, read_set
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
_ALIGNED = frozenset(["aligned", "align", "alignedat", "gathered", "gather", "split", "eqnarray"])
_DIGITS = re.compile(r"(?=.*[0-9])[0-9A-Z]+")
MAX_ITEMS = 60
MAX_BRACKETS = 60  # around everything, one in another


def read_answer(tokens: Tokens, depth: int = 0) -> Answer:
    """Raises UnreadableError for what is none of the kinds of `answers`."""
    start = 0 if depth else number_condition(tokens) or qualification(tokens)
    if start:
        parameter = next((t.value for t in tokens[start:] if t.kind == "letters" and len(t.value) == 1), "")
        whole = any(t.value in ("ℤ", "ℕ", "integer", "integers") for t in tokens[start:])
        return Conditioned(read_answer(tokens[:start], 1), (), parameter if whole else "")
    tokens = number_in_words(trimmed(tokens))
    if not tokens or depth > MAX_DEPTH:
        raise UnreadableError("nothing there" if not tokens else "nested too deeply")
    for rule in _RULES:
        answer = rule(tokens, depth)
        if answer is not None:
            return answer
    determinant = read_determinant(tokens)
    if determinant is not None:
        return Scalar(determinant)
    matrix = read_matrix(tokens)
    return scalar(tokens) if matrix is None else matrix


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
    if _is_applied(tokens):
        return None
    said = [t.value.casefold() for i, t in enumerate(words) if not _is_article(t, first=i == 0)]
    text = " ".join(said)
    text = SAME_WORDS.get(text, text)
    if text in EVERY_REAL:
        return ALL_REALS
    if text in HALVES_IN_WORDS:
        return HALVES_IN_WORDS[text]
    if text in NO_SOLUTION:
        return EMPTY
    if text == "∞":
        return Scalar(INFINITY)
    if text in NUMBER_WORDS:
        return Scalar(("num", Fraction(NUMBER_WORDS[text]), 0))
    return Prose(text, _letters_product(tokens))


def _is_article(token: Token, *, first: bool) -> bool:
    """A capital A behind another word is a name: Plan A."""
    return token.value.casefold() in ARTICLES and (first or token.value != "A")


def _is_applied(tokens: Tokens) -> bool:
    """`sqrt(x)`, `x sin x`: a function and its argument, and no other word."""
    applied = any(t.value in FUNCTIONS and (is_sign(n, "(") or len(n.value) == 1) for t, n in pairwise(tokens))
    return applied and all(len(t.value) == 1 or t.value in FUNCTIONS for t in tokens)


def _phrase(tokens: Tokens, depth: int) -> Answer | None:
    return read_phrase(tokens, lambda part: read_answer(part, depth + 1))


def _aside(tokens: Tokens, depth: int) -> Answer | None:
    return read_aside(tokens, lambda part: read_answer(part, depth + 1))


def _letters_product(tokens: Tokens) -> Tree | None:
    """`xy` as a product of variables, `kx-k` as a difference; a longer run or one of capitals is a word."""
    runs = [t for t in tokens if t.kind == "letters"]
    if len(runs) < len(tokens) and all(len(t.value) < 3 for t in runs):
        try:
            return parse_expression(tokens)
        except UnreadableError:
            return None
    if len(runs) < len(tokens) or sum(len(t.value) for t in tokens) > 4:
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
    if not opened and (not rest or (mark.value == ":" and not rest[0].spaced)):
        return None
    if rest and not rest[0].spaced and rest[0].kind not in ("prose", "num"):
        return None
    if rest and (_joins(rest[0], AND) or _joins(rest[0], OR) or _has_choice(rest)):
        return None
    return Choice(letter, read_answer(rest, depth + 1) if rest else None)


def _system(tokens: Tokens, depth: int) -> Answer | None:
    """Rows behind a brace: equations that hold together, or the pieces of a function with their conditions."""
    if len(tokens) > 9 and is_sign(tokens[0], "\\{") and is_sign(tokens[1], "begin"):
        tokens = tokens[1:]
    elif not (len(tokens) > 9 and (tokens[2].value in _ALIGNED | {"cases"} or _is_stack(tokens))):
        return None
    if not is_sign(tokens[0], "begin") or not is_sign(tokens[-4], "end"):
        return None
    rows = [_joined(row, aligned=tokens[2].value in _ALIGNED) for row in environment_rows(tokens)]
    if all(len(row) == 1 for row in rows):
        return _assembled([read_answer(row[0], depth + 1) for row in rows], meet=True)
    pieces = [tuple(_piece(cell, depth) for cell in row) for row in rows]
    return Items("list", tuple(Items("tuple", piece) for piece in pieces))


def _joined(row: list[Tokens], *, aligned: bool) -> list[Tokens]:
    """The row as one cell where `&` only sets its signs below each other: `x &= 1`."""
    if not aligned and not any(cell and is_sign(cell[0], *RELATIONS) for cell in row[1:]):
        return row
    return [[token for cell in row for token in cell]]


def _is_stack(tokens: Tokens) -> bool:
    """An array of equations without brackets."""
    return tokens[2].value == "array" and any(is_sign(t, "=") for t in tokens)


def _piece(cell: Tokens, depth: int) -> Answer:
    while cell and (cell[0].value in ("if", "for", "when") or is_sign(cell[0], ",")):
        cell = cell[1:]
    return read_answer(cell, depth + 1)


def _based(tokens: Tokens, depth: int) -> Answer | None:
    """Digits below which a base stands: `1010_2`, `(2BF)_{16}`, `1010_{two}`."""
    tokens = _with_base_below(tokens)
    place = next((i for i, t in enumerate(tokens) if t.value == "_"), 0)
    script = [t for t in tokens[place + 1 :] if t.value not in ("{", "}", "(", ")")]
    negative = bool(tokens) and is_sign(tokens[0], "-")
    digits = "".join(t.value for t in tokens[negative:place] if t.value not in ("(", ")")).upper()
    if place == 0 or len(script) != 1 or not _DIGITS.fullmatch(digits):
        return None
    word = script[0].value.lower()
    base = int(word) if word.isdigit() and len(word) < 3 else NUMBER_WORDS.get(word)
    if base is None or base < 2 or (base <= 10 and not digits.isdigit()):
        return None
    return Based("-" * negative + (digits.lstrip("0") or "0"), base)


def _has_choice(tokens: Tokens) -> bool:
    """Whether another choice stands in the tokens: `A: 3, B: 4`."""
    return any(
        t.kind in ("letters", "roman") and "A" <= t.value <= "J" and len(t.value) == 1 and is_sign(mark, ":", ")")
        for t, mark in pairwise(tokens)
    )


def _with_base_below(tokens: Tokens) -> Tokens:
    """`1010 (base 2)` and `1010_{base 2}` as `1010_2`."""
    place = next((i for i, t in enumerate(tokens) if t.value == "base"), 0)
    if place == 0:
        return tokens
    before = [t for t in tokens[:place] if t.value not in ("_", "{", "(")]
    behind = [t for t in tokens[place + 1 :] if t.value not in ("}", ")")]
    return [*before, Token("sign", "_"), *behind]


# Lists, sets, tuples -----------------------------------------------------------------------------------------------


def _joins(token: Token, words: frozenset[str]) -> bool:
    return token.kind in ("prose", "cmd", "letters") and token.value.lower() in words


def _listed(tokens: Tokens, depth: int) -> Answer | None:
    """Parts between `;`, or else between commas, "and" and "or"."""
    joints = [t for _, t in top_level(tokens) if is_sign(t, ",", ";", "\\\\") or _joins(t, AND) or _joins(t, OR)]
    if not joints:
        return None
    either, both = any(_joins(t, OR) for t in joints), any(_joins(t, AND) for t in joints)
    if any(is_sign(t, ";") for t in joints):
        parts = split(tokens, lambda t: is_sign(t, ";"))
    elif either and both:
        parts = split(tokens, lambda t: _joins(t, OR))  # "and" binds more closely
    else:
        parts = split(tokens, lambda t: is_sign(t, ",", "\\\\") or _joins(t, AND) or _joins(t, OR))
    parts = [part for part in parts if part]
    if len(parts) > MAX_ITEMS:
        raise UnreadableError("too many items")
    items: list[Answer] = []
    for part in parts:
        answer = read_answer(part, depth + 1)
        items += answer.items if isinstance(answer, Items) and answer.kind == "list" else [answer]
    if either:
        items = _distinct(items)
    return _assembled(items, meet=True if both and not either else False if either else None)


def _distinct(items: list[Answer]) -> list[Answer]:
    """`1/2 or 0.5` is one answer."""
    kept: list[Answer] = []
    for item in items:
        if not any(item == other or _is_same_number(item, other) for other in kept):
            kept.append(item)
    return kept


def _is_same_number(a: Answer, b: Answer) -> bool:
    if not isinstance(a, Scalar) or not isinstance(b, Scalar):
        return False
    return (a.unit, a.percent, a.degree) == (b.unit, b.percent, b.degree) and same_value(a.tree, b.tree)


def _assembled(items: list[Answer], *, meet: bool | None) -> Answer:
    """`meet`: True behind "and", False behind "or", None where only commas stand."""
    if len(items) == 1:
        return items[0]
    items = _as_reals(items, meet=meet)
    if len(items) == 1:
        return items[0]
    reals = [item for item in items if isinstance(item, Reals)]
    if items and len(reals) == len(items) and len({item.name for item in reals if item.name}) < 2:
        bound = meet or (meet is None and all(item.name for item in reals))
        common = _common(reals) if bound else None
        common = None if common == () and meet is None else common
        spans = union([span for item in reals for span in item.spans]) if common is None else common
        return Reals(spans, reals[0].name)
    if items and isinstance(items[0], Named):
        return _named_items(items)
    return Items("list", tuple(items))


def _as_reals(items: list[Answer], *, meet: bool | None) -> list[Answer]:
    r"""`x\ne2, 3` as `x\ne2, x\ne3`; `x\ge3 or x=0` as a half-line and a point."""
    first = next((item for item in items if isinstance(item, Reals)), None)
    if first is None or all(isinstance(item, Reals) for item in items):
        return items
    points = [item.tree for item in items if isinstance(item, Scalar) and not symbols(item.tree)]
    pierced = [item for item in items if isinstance(item, Reals)]
    if len(points) + len(pierced) == len(items) and all(map(_is_pierced, pierced)) and isinstance(items[0], Reals):
        holes = [span.high for item in pierced for span in item.spans[:-1]]
        return [Reals(without_points([*holes, *points]), next((r.name for r in pierced if r.name), ""))]
    if meet:
        return items
    return [_as_point(item, first.name) for item in items]


def _is_pierced(reals: Reals) -> bool:
    """The real line, perhaps without some points."""
    ends = [*pairwise(reals.spans)]
    open_ends = not any(s.low_closed or s.high_closed for s in reals.spans)
    whole = bool(reals.spans) and reals.spans[0].low == MINUS_INFINITY and reals.spans[-1].high == INFINITY
    return whole and open_ends and all(a.high == b.low for a, b in ends)


def _as_point(item: Answer, name: str) -> Answer:
    if not name or not isinstance(item, Named) or item.name != name:
        return item
    values = item.value.items if isinstance(item.value, Items) else (item.value,)
    trees = [value.tree for value in values if isinstance(value, Scalar) and not symbols(value.tree)]
    return Reals(tuple(Span(t, True, t, True) for t in trees), name) if len(trees) == len(values) else item


def _common(reals: list[Reals]) -> tuple[Span, ...] | None:
    """Where all of them hold; None where that is not known."""
    common: tuple[Span, ...] | None = reals[0].spans
    for other in reals[1:]:
        common = None if common is None else intersection(common, other.spans)
    return common


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
    if len(tokens) > 5 and tokens[0].value.isupper() and tokens[0].value != "C" and is_sign(tokens[1], "("):
        point = _enclosed(tokens[1:], depth)  # P(2, 3)
        return Named(tokens[0].value, point, None) if isinstance(point, Items) else None
    french = _with_french_brackets(tokens)
    if french is not None:
        return _enclosed(french, depth)
    first, last = tokens[0].value, tokens[-1].value
    if not is_sign(tokens[0], "(", "[", "{", "\\{") or closing(tokens, 0) != len(tokens) - 1:
        return None
    inner = tokens[1:-1]
    for _ in range(MAX_BRACKETS):
        if not (first == "(" and len(inner) > 2 and is_sign(inner[0], "(") and closing(inner, 0) == len(inner) - 1):
            break
        inner = inner[1:-1]
    if first == "[" and last == "]":
        rows = _rows_in_brackets(inner)
        if rows is not None:
            return rows
    if first == "\\{" and last == "\\}":
        return _set(inner, depth)
    parts = split(inner, lambda t: is_sign(t, ",", ";"))
    if len(parts) == 1:
        return read_answer(inner, depth + 1) if first == "(" and last == ")" else None
    if first == "{":
        return Items("set", tuple(read_answer(part, depth + 1) for part in parts))
    if len(parts) > MAX_ITEMS:
        raise UnreadableError("too many items")
    if len(parts) > 2 and (first, last) not in (("(", ")"), ("[", "]")):
        raise UnreadableError("brackets that do not match")
    if len(parts) == 2 and (first, last) != ("(", ")"):
        low, high = (parse_expression(trimmed(part)) for part in parts)
        return Reals((Span(low, first == "[", high, last == "]"),))
    return _points([read_answer(part, depth + 1) for part in parts])


def _points(entries: list[Answer]) -> Items:
    r"""One tuple, or the two of `(\pm1, 0)`. Several signs stay: nothing says how they belong together."""
    double = [i for i, entry in enumerate(entries) if isinstance(entry, Items) and entry.kind == "list"]
    entry = entries[double[0]] if len(double) == 1 else None
    if not isinstance(entry, Items):
        return Items("tuple", tuple(entries))
    both = ([*entries[: double[0]], value, *entries[double[0] + 1 :]] for value in entry.items)
    return Items("list", tuple(Items("tuple", tuple(point)) for point in both))


def _with_french_brackets(tokens: Tokens) -> Tokens | None:
    """`]1,2]` as `(1,2]`; None for what is no interval of this kind."""
    signs = [t.value for t in tokens if is_sign(t, "[", "]")]
    if len(signs) != 2 or (signs[0] == "[" and signs[1] == "]"):
        return None
    if not is_sign(tokens[0], "[", "]") or not is_sign(tokens[-1], "[", "]"):
        return None
    first = Token("sign", "(") if tokens[0].value == "]" else tokens[0]
    last = Token("sign", ")") if tokens[-1].value == "[" else tokens[-1]
    return [first, *tokens[1:-1], last]


def _rows_in_brackets(inner: Tokens) -> Matrix | None:
    """`[1,2],[3,4]` in brackets, rows of a matrix."""
    rows = split(inner, lambda t: is_sign(t, ","))
    if not all(len(r) > 2 and is_sign(r[0], "[") and closing(r, 0) == len(r) - 1 and is_sign(r[-1], "]") for r in rows):
        return None
    cells = [[parse_expression(trimmed(c)) for c in split(r[1:-1], lambda t: is_sign(t, ","))] for r in rows]
    if len({len(row) for row in cells}) > 1 or len(cells) * len(cells[0]) > MAX_CELLS:
        raise UnreadableError("rows of different lengths, or too many")
    return Matrix(tuple(map(tuple, cells)))


def _set(inner: Tokens, depth: int) -> Answer:
    condition = split(inner, lambda t: is_sign(t, "|", ":"))
    if len(condition) == 2:
        answer = _with_condition(condition[0], condition[1], depth)
        if answer is not None:
            return answer
    if not inner:
        return EMPTY
    answer = read_answer(inner, depth + 1)
    return Items("set", answer.items if isinstance(answer, Items) and answer.kind == "list" else (answer,))


def _with_condition(value: Tokens, condition: Tokens, depth: int) -> Answer | None:
    r"""`\{x : x > 0\}` is its condition, `\{2k : k\in\mathbb{Z}\}` its formula with what the letter ranges over."""
    said = {t.value for t in condition}
    point = is_sign(value[0], "(") and any(t.value in said for t in value)
    if len(value) <= 5 and (point or (value[0].value in said and (len(value) == 1 or is_sign(value[1], "in", "_")))):
        return read_answer(condition, depth + 1)
    if len(condition) == 3 and condition[0].kind == "letters" and condition[2].value in ("ℤ", "ℕ"):
        return Conditioned(read_answer(value, depth + 1), (), condition[0].value)
    return read_answer([*value, Token("sign", ","), *condition], depth + 1)


# Relations ---------------------------------------------------------------------------------------------------------


def _real_set(tokens: Tokens, depth: int) -> Answer | None:
    return read_set(tokens, lambda part: read_answer(part, depth + 1))


def _related(tokens: Tokens, depth: int) -> Answer | None:
    return read_relation(tokens, lambda part: read_answer(part, depth + 1))


# Numbers -----------------------------------------------------------------------------------------------------------


def _residue(tokens: Tokens, depth: int) -> Answer | None:
    place = next((i for i, t in enumerate(tokens) if t.value in ("pmod", "mod") and i), None)
    if place is None:
        return None
    bracketed = is_sign(tokens[place - 1], "(") and place > 1  # 5 (mod 7)
    if tokens[place].value != "pmod" and not bracketed:
        return None
    modulus = [t for t in tokens[place + 1 :] if t.value not in ("{", "}", "(", ")")]
    value = scalar(tokens[: place - bracketed])
    return Residue(value.tree, parse_expression(modulus)) if isinstance(value, Scalar) else None


def _quantity(tokens: Tokens, depth: int) -> Answer | None:
    return read_quantity(tokens) if len(tokens) > 3 and tokens[0].kind == "num" else None


def _clock(tokens: Tokens, depth: int) -> Answer | None:
    return read_clock(tokens)


def _ratio(tokens: Tokens, depth: int) -> Answer | None:
    parts = split(tokens, lambda t: is_sign(t, ":"))
    return None if len(parts) < 2 else Items("ratio", tuple(scalar(trimmed(part)) for part in parts))


# From the outermost structure to the innermost.
_RULES: tuple[Callable[[Tokens, int], Answer | None], ...]
_RULES = (
    *(_choice, _quantity, _aside, _phrase, _listed, _system, _prose, _based, _enclosed, _real_set, _related),
    *(_residue, _clock, _ratio),
)
