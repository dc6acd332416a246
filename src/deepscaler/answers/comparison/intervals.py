"""Sets of real numbers as unions of intervals, and their comparison. Endpoints are trees, constants or not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from deepscaler.answers.kinds import Answer, Items, Named, Reals, Relation, Scalar, Span
from deepscaler.answers.tokens.lexer import UnreadableError
from deepscaler.answers.trees import INFINITY, Tree
from deepscaler.answers.values.numeric import Number
from deepscaler.answers.values.same_value import FINE, real_value, same_value

MAX_SPANS = 40
MINUS_INFINITY: Tree = ("neg", INFINITY)
EVERYTHING = Span(MINUS_INFINITY, False, INFINITY, False)


def union(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Sorted, with what overlaps or touches joined; as given where an endpoint is no constant."""
    keyed = _keyed(spans)
    if keyed is None or any(low > high for low, high, _ in keyed):
        return tuple(spans)
    joined: list[tuple[Number, Number, Span]] = []
    for low, high, span in sorted(keyed, key=lambda k: (k[0], not k[2].low_closed)):
        if joined:
            first_low, last_high, last = joined[-1]
            if low < last_high or (low == last_high and (span.low_closed or last.high_closed)):
                if high > last_high or (high == last_high and span.high_closed):
                    last = Span(last.low, last.low_closed, span.high, span.high_closed)
                    joined[-1] = (first_low, high, last)
                continue
        joined.append((low, high, span))
    return tuple(span for _, _, span in joined)


def intersection(a: Sequence[Span], b: Sequence[Span]) -> tuple[Span, ...] | None:
    """None where an endpoint is no constant."""
    left, right = _keyed(a), _keyed(b)
    if left is None or right is None or len(left) * len(right) > MAX_SPANS**2:
        return None
    parts: list[Span] = []
    for low_a, high_a, x in left:
        for low_b, high_b, y in right:
            low, low_closed = (x.low, x.low_closed) if low_a > low_b else (y.low, y.low_closed)
            if low_a == low_b:
                low_closed = x.low_closed and y.low_closed
            high, high_closed = (x.high, x.high_closed) if high_a < high_b else (y.high, y.high_closed)
            if high_a == high_b:
                high_closed = x.high_closed and y.high_closed
            first, last = max(low_a, low_b), min(high_a, high_b)
            if first < last or (first == last and low_closed and high_closed):
                parts.append(Span(low, low_closed, high, high_closed))
    return union(parts)


def complement(spans: Sequence[Span]) -> tuple[Span, ...] | None:
    """The rest of the real line; None where an endpoint is no constant."""
    rest: tuple[Span, ...] | None = (EVERYTHING,)
    for span in spans:
        below = Span(MINUS_INFINITY, False, span.low, not span.low_closed)
        above = Span(span.high, not span.high_closed, INFINITY, False)
        outside = [s for s, edge in ((below, span.low), (above, span.high)) if edge not in (INFINITY, MINUS_INFINITY)]
        rest = None if rest is None else intersection(rest, outside)
    return rest


def without_points(points: Sequence[Tree]) -> tuple[Span, ...]:
    """The real line without some points, sorted where they are constants."""
    values = [real_value(point) for point in points]
    if all(value is not None for value in values):
        points = [p for _, p in sorted(zip(values, points, strict=True), key=lambda pair: _fine(pair[0]))]
    edges = [MINUS_INFINITY, *points, INFINITY]
    return tuple(Span(a, False, b, False) for a, b in pairwise(edges))


def same_spans(a: Sequence[Span], b: Sequence[Span]) -> bool:
    left, right = union(a), union(b)
    if len(left) != len(right):
        return False
    unused = list(right)
    for span in left:
        match = next((other for other in unused if _same_span(span, other)), None)
        if match is None:
            return False
        unused.remove(match)
    return True


def as_relation(reals: Reals) -> Relation | None:
    """`y < 5 - x` again from the half-line of the y; None for anything but a half-line of a variable."""
    if len(reals.spans) != 1 or not reals.name:
        return None
    span, variable = reals.spans[0], ("sym", reals.name)
    if span.low == MINUS_INFINITY and span.high != INFINITY:
        return Relation("<=" if span.high_closed else "<", variable, span.high)
    if span.high == INFINITY and span.low != MINUS_INFINITY:
        return Relation("<=" if span.low_closed else "<", span.low, variable)
    return None


def _same_span(a: Span, b: Span) -> bool:
    return (
        a.low_closed == b.low_closed
        and a.high_closed == b.high_closed
        and same_value(a.low, b.low)
        and same_value(a.high, b.high)
    )


def _keyed(spans: Sequence[Span]) -> list[tuple[Number, Number, Span]] | None:
    keyed = [(_edge(span.low), _edge(span.high), span) for span in spans]
    return None if len(spans) > MAX_SPANS or any(k[0] is None or k[1] is None for k in keyed) else keyed


def _edge(tree: Tree) -> Number:
    if tree == INFINITY:
        return FINE.context.inf
    if tree == MINUS_INFINITY:
        return -FINE.context.inf
    value = real_value(tree)
    return None if value is None else _fine(value)


def _fine(value: Number) -> Number:
    return FINE.context.mpf(value.numerator) / value.denominator if hasattr(value, "numerator") else value


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
