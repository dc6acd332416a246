"""Whether two answers of whatever kinds are the same. Symmetric: the pair is put in order before it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from deepscaler.answers.comparison.alike import (
    are_letters,
    as_spans,
    is_tuple,
    same_letter,
    same_others,
    same_ratio,
    same_relation,
    same_time,
)
from deepscaler.answers.comparison.constants import by_other_constants
from deepscaler.answers.comparison.intervals import same_spans
from deepscaler.answers.comparison.progressions import goes_on, same_progression
from deepscaler.answers.comparison.renaming import mentioned, renamed, under_one_name
from deepscaler.answers.comparison.spellings import (
    is_arranged,
    same_but_for_added_constant,
    same_without_degrees,
    tree_of,
)
from deepscaler.answers.comparison.vectors import in_order_of_names, same_vector
from deepscaler.answers.kinds import (
    Answer,
    Approximated,
    Based,
    Choice,
    Clock,
    Conditioned,
    Items,
    Matrix,
    Named,
    Prose,
    Reals,
    Record,
    Relation,
    Residue,
    Scalar,
)
from deepscaler.answers.trees import Tree
from deepscaler.answers.units.measures import in_degrees_and_radians, same_measure
from deepscaler.answers.values.same_value import real_value, rounds_to, same_value

# Earlier kinds know how to be compared with later ones.
_ORDER = (
    Conditioned,
    Approximated,
    Choice,
    Named,
    Record,
    Clock,
    Items,
    Reals,
    Relation,
    Matrix,
    Residue,
    Based,
    Prose,
    Scalar,
)
_RANK = {kind: rank for rank, kind in enumerate(_ORDER)}
DEGREE: Tree = ("div", ("sym", "π"), ("num", Fraction(180), 0))
HUNDREDTH: Tree = ("num", Fraction(1, 100), 0)


class Comparison:
    """`how` names the kind of comparison that found equality, outermost last."""

    def __init__(self, tolerance: Fraction | None = None) -> None:
        self.tolerance = tolerance
        self.how = ""

    def same(self, a: Answer, b: Answer) -> bool:
        if _RANK[type(a)] > _RANK[type(b)]:
            a, b = b, a
        if a == b:
            return self._because(True, "same " + _KIND[type(a)])
        if isinstance(a, Conditioned):
            return self._conditioned(a, b)
        if isinstance(a, Approximated):
            return self.same(a.value, b) or self.same(a.rounded, b)
        if isinstance(a, Choice):
            return self._because(self._choice(a, b), "same choice")
        if isinstance(a, Named):
            return self._named(a, b)
        if isinstance(a, Record):
            return self._because(self._record(a, b), "same values of the same names")
        if isinstance(a, Clock):
            return self._because(same_time(a, b), "same time") if isinstance(b, Clock) else self.same(a.ratio, b)
        if isinstance(a, Items):
            return self._items(a, b)
        if isinstance(a, Scalar) and isinstance(b, Scalar):
            return self._because(self._scalars(a, b), "same value")
        return self._because(same_others(a, b), "same " + _KIND[type(a)])

    def _because(self, equal: bool, how: str) -> bool:
        if equal:
            self.how = how
        return equal

    def _conditioned(self, a: Conditioned, b: Answer) -> bool:
        if not isinstance(b, Conditioned):
            return self.same(a.value, b)
        others = {reals.name: reals for reals in b.ranges}
        pairs = [(reals, others[reals.name]) for reals in a.ranges if reals.name in others]
        other = b.value
        if a.parameter and b.parameter and a.parameter != b.parameter and not mentioned(other, a.parameter):
            other = renamed(other, {b.parameter: a.parameter})
        return self.same(a.value, other) and all(same_spans(x.spans, y.spans) for x, y in pairs)

    def _choice(self, a: Choice, b: Answer) -> bool:
        if isinstance(b, Choice):
            values_differ = a.value is not None and b.value is not None and not self.same(a.value, b.value)
            return a.letter == b.letter and not values_differ
        if isinstance(b, Scalar) and b.tree[0] == "sym" and b.tree[1].upper() == a.letter:
            return True
        return a.value is not None and self.same(a.value, b)

    def _named(self, a: Named, b: Answer) -> bool:
        if isinstance(b, Named):
            if a.name == b.name or not a.name or not b.name:
                return self.same(a.value, b.value) or self._by_other_constants(a, b)
            alike = under_one_name(a, b)
            if alike is not None:
                return self.same(a.value, alike.value) or self._by_other_constants(a, alike)
            equal = a.equation is not None and b.equation is not None and same_relation(a.equation, b.equation)
            return self._because(equal, "same equation")
        if isinstance(b, Record):
            return b.numbered and b.names[0] == f"{a.name}_1" and self.same(a.value, b)
        if isinstance(b, Relation):
            return self._because(a.equation is not None and same_relation(a.equation, b), "same equation")
        if isinstance(b, Reals) and b.name and a.name and a.name != b.name:
            return False
        if isinstance(b, Items) and any(isinstance(i, Named) and a.name and i.name != a.name for i in b.items):
            return False
        return self.same(a.value, b) or self._because(is_arranged(a, b), "same number of arrangements")

    def _by_other_constants(self, a: Named, b: Named) -> bool:
        """`y = Ce^x` and `y = Ae^x`, `f(x) = cx` and `f(x) = kx`."""
        x, y = tree_of(a.value), tree_of(b.value)
        if x is None or y is None or a.name != b.name or not (a.name == "y" or "(" in a.name):
            return False
        return self._because(any(same_value(x, z) for z in by_other_constants(x, y)), "same but for a constant's name")

    def _record(self, a: Record, b: Answer) -> bool:
        if isinstance(b, Record):
            if set(a.names) != set(b.names) or len(a.names) != len(b.names):
                return a.numbered and b.numbered and self._unordered(a.values, b.values)
            other = dict(zip(b.names, b.values, strict=True))
            return all(self.same(v, other[n]) for n, v in zip(a.names, a.values, strict=True))
        if not isinstance(b, Items) or b.kind not in ("list", "tuple"):
            return False
        return self._ordered(in_order_of_names(a), b.items) or (
            a.numbered and b.kind == "list" and self._unordered(a.values, b.items)
        )

    def _items(self, a: Items, b: Answer) -> bool:
        if isinstance(b, Items):
            kinds = {a.kind, b.kind}
            if kinds <= {"list", "set"}:
                once = kinds == {"set"} or all(is_tuple(item) for item in (*a.items, *b.items))
                x, y = (self._distinct(a), self._distinct(b)) if once else (a.items, b.items)
                if goes_on(x) and goes_on(y) and same_progression(x, y):
                    return self._because(True, "same progression")
                match = self._ordered if goes_on(x) or goes_on(y) else self._unordered
                return self._because(match(x, y), "same elements in any order")
            if kinds == {"ratio"}:
                return self._because(same_ratio(a, b), "same ratio")
            if kinds <= {"list", "tuple"}:
                return self._because(self._ordered(a.items, b.items), "same elements in order")
            return False
        if isinstance(b, Reals):
            return self._because(as_spans(a, b), "same set of real numbers")
        if isinstance(b, Matrix) or (a.kind == "tuple" and isinstance(b, Scalar)):
            return self._because(same_vector(a, b), "same vector")
        if isinstance(b, Prose) and are_letters(a, b):
            return self._because(True, "same choices")
        if a.kind == "ratio":
            pair = [item.tree for item in a.items if isinstance(item, Scalar)]
            quotient = len(a.items) == 2 and len(pair) == 2 and isinstance(b, Scalar)
            return quotient and self.same(Scalar(("div", pair[0], pair[1])), b)
        return a.kind in ("list", "set") and len(a.items) == 1 and self.same(a.items[0], b)

    def _distinct(self, items: Items) -> list[Answer]:
        kept: list[Answer] = []
        for item in items.items:
            if not any(self.same(item, other) for other in kept):
                kept.append(item)
        return kept

    def _elements(self, a: Answer, b: Answer) -> bool:
        """A set among the elements of a set is no number: {3} is not 3."""
        sets = [isinstance(x, Items) and x.kind == "set" for x in (a, b)]
        return sets[0] == sets[1] and self.same(a, b)

    def _ordered(self, a: Sequence[Answer], b: Sequence[Answer]) -> bool:
        return len(a) == len(b) and all(self.same(x, y) for x, y in zip(a, b, strict=True))

    def _unordered(self, a: Sequence[Answer], b: Sequence[Answer]) -> bool:
        if len(a) != len(b):
            return False
        unused = list(b)
        for x in a:
            index = next((i for i, y in enumerate(unused) if self._elements(x, y)), None)
            if index is None:
                return False
            del unused[index]
        return True

    def _scalars(self, a: Scalar, b: Scalar) -> bool:
        x, y = a.tree, b.tree
        if not same_measure(a, b):
            return False
        if a.unit is not None and b.unit is not None and a.unit.dimensions == b.unit.dimensions:
            x, y = ("mul", x, ("num", a.unit.size, 0)), ("mul", y, ("num", b.unit.size, 0))
        if not in_degrees_and_radians(a, b) and self._values(x, y):
            return True
        if same_without_degrees(x, y) or same_but_for_added_constant(x, y):
            return True
        if a.percent != b.percent:
            return self._values(*((("mul", x, HUNDREDTH), y) if a.percent else (x, ("mul", y, HUNDREDTH))))
        if a.degree != b.degree:
            return self._values(*((("mul", x, DEGREE), y) if a.degree else (x, ("mul", y, DEGREE))))
        return False

    def _values(self, a: Tree, b: Tree) -> bool:
        if same_value(a, b) or same_letter(a, b) or rounds_to(a, b) or rounds_to(b, a):
            return True
        if self.tolerance is None:
            return False
        x, y = real_value(a), real_value(b)
        if x is None or y is None:
            return False
        if isinstance(x, Fraction) and isinstance(y, Fraction):
            return abs(x - y) <= self.tolerance
        return bool(abs(float(x) - float(y)) <= float(self.tolerance))


_KIND: dict[type, str] = {
    Conditioned: "value under a condition",
    Approximated: "value",
    Clock: "time",
    Choice: "choice",
    Named: "named value",
    Record: "named values",
    Items: "elements",
    Reals: "set of real numbers",
    Relation: "relation",
    Matrix: "matrix",
    Residue: "residue",
    Based: "digits in the same base",
    Prose: "words",
    Scalar: "expression",
}
