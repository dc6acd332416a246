"""Equations, chains of equal values and inequalities; a solved inequality is an interval."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import TypeGuard

from deepscaler.answers.comparison.compare import Comparison
from deepscaler.answers.comparison.intervals import MINUS_INFINITY, intersection, union, without_points
from deepscaler.answers.grammar.names import name_of, quantity_of, tuple_names
from deepscaler.answers.grammar.scalars import scalar, trimmed
from deepscaler.answers.kinds import (
    Answer,
    Approximated,
    Choice,
    Items,
    Named,
    Prose,
    Reals,
    Record,
    Relation,
    Scalar,
    Span,
)
from deepscaler.answers.tokens.brackets import Tokens, is_sign, split, top_level
from deepscaler.answers.tokens.lexer import UnreadableError
from deepscaler.answers.trees import INFINITY, Tree
from deepscaler.answers.values.budget import TooBigError, UndefinedError
from deepscaler.answers.values.exact import exact_value
from deepscaler.answers.values.lines import linear
from deepscaler.answers.values.same_value import (
    calls,
    decimal_places,
    ends,
    is_rounding,
    mentions,
    real_value,
    same_value,
    symbols,
)

RELATIONS = {"=": "=", "<": "<", ">": ">", "le": "<=", "ge": ">=", "ne": "!=", "in": "in", "approx": "≈", "equiv": "≡"}
MAX_LINKS = 12  # of a chain
Read = Callable[[Tokens], Answer]


def read_relation(tokens: Tokens, read: Read) -> Answer | None:
    """None if there is no relation at the top level. Raises UnreadableError."""
    operators = [RELATIONS[t.value] for _, t in top_level(tokens) if t.kind in ("sign", "cmd") and t.value in RELATIONS]
    if not operators:
        return None
    if len(operators) > MAX_LINKS:
        raise UnreadableError("a chain of too many relations")
    parts = split(tokens, lambda t: t.kind in ("sign", "cmd") and t.value in RELATIONS)
    if operators == ["in"]:
        if not name_of(parts[0]):
            raise UnreadableError("an element that is no variable")
        value = read(parts[1])
        name = name_of(parts[0])
        return Reals(value.spans, name) if isinstance(value, Reals) else Named(name, value, None)
    if operators == ["≡"]:
        return Named(name_of(parts[0]), read(parts[1]), None)
    if set(operators) <= {"=", "≈"}:
        return _equal(parts, operators, read)
    if set(operators) <= {"<", "<=", ">", ">=", "!="}:
        return _inequality(parts, operators)
    raise UnreadableError("relations that do not go together")


def _equal(parts: list[Tokens], operators: list[str], read: Read) -> Answer:
    """`name = value`, a chain of equal values, or an equation; the value after ≈ is approximate."""
    if operators == ["="] or (operators == ["≈"] and name_of(parts[0])):
        for name, value in ((0, 1), (1, 0)):
            text = name_of(parts[name])
            if text:
                return _named(text, tuple_names(parts[name]), read(parts[value]), _equation(parts))
    name = name_of(parts[0])
    exact = 1 + next((i for i, op in enumerate(operators) if op == "≈" and not (i == 0 and name)), len(operators))
    links = [_tree(part) for part in parts[bool(name) :]]
    values = [tree for tree in links[: exact - bool(name)] if _is_constant(tree)]
    rounded = [tree for tree in links if tree is not None and any(is_near(tree, value) for value in values)]
    values = [tree for tree in values if tree not in rounded]
    if any(not same_value(a, b) for a, b in pairwise(values)):
        raise UnreadableError("a chain of equal signs between different values")
    if values and (name or all(map(_is_constant, links))):
        answer = Approximated(Scalar(values[-1]), Scalar(rounded[-1])) if rounded else read(parts[exact - 1])
        return Named(name, answer, None) if name else answer
    if exact < len(parts) or (name and len(parts) > 2):
        answer = read(parts[exact - 1])
        return Named(name, answer, None) if name and exact > 1 else answer
    return _stating(parts, links, read)


def _stating(parts: list[Tokens], links: list[Tree | None], read: Read) -> Answer:
    r"""An equation of expressions with the constant it states, `m+n = 3+4 = 7`; or the value of anything else.

    Constant links agree, which was tested before.
    """
    first, last = links[0], links[-1]
    constant = next((i for i in range(len(parts) - 1, -1, -1) if _is_constant(links[i])), None)
    if first is not None and last is not None and len(parts) == 2:
        return Relation("=", first, last, None if constant is None else read(parts[constant]))
    side, value = (first if constant else last), (None if constant is None else links[constant])
    if constant is not None and side is not None and value is not None:
        return Relation("=", side, value, read(parts[constant]))
    place = next((i for i in (0, len(parts) - 1) if quantity_of(parts[i])), 0)
    name, value = quantity_of(parts[place]), read(parts[-1 if place == 0 else 0])
    if isinstance(value, (Prose, Relation)) or not _agrees(parts[place], name, value, read):
        raise UnreadableError("an equation of what are no expressions")
    return Named(name, value, None) if name else value


def _is_constant(tree: Tree | None) -> TypeGuard[Tree]:
    return tree is not None and not symbols(tree) and not any(name.startswith("unknown ") for name in calls(tree))


def _agrees(tokens: Tokens, name: str, value: Answer, read: Read) -> bool:
    """Whether the other side is equal, where it is a set or list of constants, or else has a name."""
    try:
        other = read(tokens)
    except UnreadableError:
        return bool(name)
    if isinstance(other, Items) and all(isinstance(i, Scalar) and _is_constant(i.tree) for i in other.items):
        return Comparison().same(other, value)
    return bool(name) and not isinstance(other, (Reals, Choice))


def _named(name: str, names: list[str], value: Answer, equation: Relation | None) -> Answer:
    """A named value; `(x, y) = (1, 2)` as the record `x = 1, y = 2`."""
    if isinstance(value, Items) and value.kind == "tuple" and 1 < len(names) == len(value.items):
        return Record(tuple(names), value.items)
    if equation is not None and isinstance(value, Scalar) and mentions(value.tree, name):
        return equation  # x = 3x+2 gives x no value
    return Named(name, value, equation)


def is_near(decimal: Tree, value: Tree) -> bool:
    """Whether a bare decimal is another value rounded to its places: the 0.33 of 1/3 = 0.33."""
    if decimal[0] != "num" or decimal[2] == 0 or decimal == value:
        return False
    exact = real_value(value)
    if exact is None:
        return False
    place = Fraction(1, 10 ** decimal_places(decimal[1]))
    if isinstance(exact, Fraction) and ends(exact):
        return 0 < abs(exact - decimal[1]) * 2 <= place
    return is_rounding(decimal[1], place, exact)


def _tree(tokens: Tokens) -> Tree | None:
    try:
        answer = scalar(trimmed(tokens))
    except UnreadableError:
        return None
    if not isinstance(answer, Scalar):
        return None
    return ("call", "percent", answer.tree) if answer.percent else answer.tree


def _equation(parts: list[Tokens]) -> Relation | None:
    left, right = _tree(parts[0]), _tree(parts[1])
    return None if left is None or right is None else Relation("=", left, right)


def _inequality(parts: list[Tokens], operators: list[str]) -> Answer:
    """An interval if a single variable is alone or can be isolated, else a relation."""
    trees = [_side(trimmed(part)) for part in parts]
    if len(trees) == 3 and "!=" not in operators and operators[0][0] == operators[1][0]:
        low, middle, high = trees
        first = _pair(low, operators[0], middle)
        second = _pair(middle, operators[1], high)
        if isinstance(first, Reals) and isinstance(second, Reals) and first.name == second.name:
            return _between(first, second)
    if len(trees) != 2:
        if "!=" in operators or len({op[0] for op in operators}) > 1:
            raise UnreadableError("a chain of inequalities that turns around")
        links = [_pair(a, op, b) for (a, b), op in zip(pairwise(trees), operators, strict=True)]
        return Items("list", tuple(links))
    return _pair(trees[0], operators[0], trees[1])


def _side(tokens: Tokens) -> Tree:
    """`g(x)` is one variable here, not g times x."""
    name = name_of(tokens) if any(is_sign(t, "(") for t in tokens) else ""
    if name:
        return ("sym", name)
    side = scalar(tokens)
    if not isinstance(side, Scalar):
        raise UnreadableError("an inequality between what are no numbers")
    return side.tree


def _between(a: Reals, b: Reals) -> Reals:
    common = intersection(a.spans, b.spans)
    if common is not None:
        return Reals(common, a.name)
    (x,), (y,) = a.spans, b.spans
    low, high = (x, y) if x.high == INFINITY else (y, x)
    return Reals((Span(low.low, low.low_closed, high.high, high.high_closed),), a.name)


def _pair(left: Tree, op: str, right: Tree) -> Answer:
    if op in (">", ">="):
        left, right, op = right, left, op.replace(">", "<")
    for variable, other, below in ((left, right, True), (right, left, False)):
        name = _variable(variable)
        if name and name not in symbols(other):
            return _half_line(name, other, op, below=below)
        if variable[:2] == ("call", "abs") and not symbols(other):
            return _around(variable[2], other, op, inside=below)
    return _isolated(left, op, right) or Relation(op, left, right)


def _variable(tree: Tree) -> str:
    if tree[0] == "sym" and tree[1] not in ("π", "e", "i", "∞"):
        return tree[1]
    if tree[0] == "call" and tree[1].startswith("unknown ") and tree[2][0] == "sym":
        return f"{tree[1][8:]}({tree[2][1]})"
    return ""


def _half_line(name: str, edge: Tree, op: str, *, below: bool) -> Reals:
    if op == "!=":
        return Reals(without_points([edge]), name)
    if below:
        return Reals((Span(MINUS_INFINITY, False, edge, op == "<="),), name)
    return Reals((Span(edge, op == "<=", INFINITY, False),), name)


def _around(inner: Tree, distance: Tree, op: str, *, inside: bool) -> Answer:
    """`|x-a| < c` and `|x-a| > c` with rational numbers."""
    names = symbols(inner)
    line = linear(inner, next(iter(names))) if len(names) == 1 else None
    try:
        c = exact_value(distance)
    except (UndefinedError, TooBigError):
        c = None
    if line is None or c is None or c < 0 or op == "!=":
        raise UnreadableError("an absolute value that is not solved")
    slope, offset = line
    low, high = (("num", x, 0) for x in sorted([(-c - offset) / slope, (c - offset) / slope]))
    closed, name = op == "<=", next(iter(names))
    if inside:
        return Reals((Span(low, closed, high, closed),), name)
    return Reals(union([Span(MINUS_INFINITY, False, low, closed), Span(high, closed, INFINITY, False)]), name)


def _isolated(left: Tree, op: str, right: Tree) -> Reals | None:
    """A linear inequality in one variable with rational coefficients, solved."""
    difference: Tree = ("add", left, ("neg", right))
    names = symbols(difference)
    if len(names) != 1:
        return None
    name = next(iter(names))
    line = linear(difference, name)
    if line is None:
        return None
    slope, offset = line
    return _half_line(name, ("num", -offset / slope, 0), op, below=slope > 0)
