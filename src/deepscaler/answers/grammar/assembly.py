"""From the parts of a list to what they are together: a region, values of one name, a record, or a list."""

from __future__ import annotations

from itertools import pairwise

from deepscaler.answers.comparison.intervals import MINUS_INFINITY, intersection, union, without_points
from deepscaler.answers.kinds import Answer, Items, Named, Reals, Record, Scalar, Span
from deepscaler.answers.trees import INFINITY
from deepscaler.answers.values.same_value import same_value, symbols


def assembled(items: list[Answer], *, meet: bool | None) -> Answer:
    """`meet`: True after "and", False after "or", None with commas only."""
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


def distinct(items: list[Answer]) -> list[Answer]:
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
