r"""Equations without their fractions: `y = \frac2x` and `xy = 2` say the same wherever both say something."""

from __future__ import annotations

from fractions import Fraction

from deepscaler.answers.trees import Tree
from deepscaler.answers.values.budget import charge
from deepscaler.answers.values.same_value import symbols

MAX_DENOMINATORS = 8
_ONE: Tree = ("num", Fraction(1), 0)


def has_variable_denominator(tree: Tree) -> bool:
    if tree[0] == "div" and symbols(tree[2]):
        return True
    return tree[0] in ("add", "mul", "div", "neg") and any(map(has_variable_denominator, tree[1:]))


def numerator(tree: Tree) -> Tree:
    """The tree over one denominator, without it. Raises TooBigError where that takes too much work."""
    return _quotient(tree)[0]


def _quotient(tree: Tree) -> tuple[Tree, Tree]:
    charge(4)
    kind = tree[0]
    if kind == "neg":
        top, bottom = _quotient(tree[1])
        return ("neg", top), bottom
    if kind == "div":
        (a, b), (c, d) = _quotient(tree[1]), _quotient(tree[2])
        return _product(a, d), _product(b, c)
    if kind == "mul":
        parts = [_quotient(part) for part in tree[1:]]
        return _product(*(top for top, _ in parts)), _product(*(bottom for _, bottom in parts))
    if kind == "add":
        parts = [_quotient(part) for part in tree[1:]]
        bottoms = list(dict.fromkeys(bottom for _, bottom in parts if bottom != _ONE))
        if len(bottoms) <= MAX_DENOMINATORS:
            terms = [_product(top, *(other for other in bottoms if other != bottom)) for top, bottom in parts]
            return ("add", *terms), _product(*bottoms)
    return tree, _ONE


def _product(*factors: Tree) -> Tree:
    kept = [factor for factor in factors if factor != _ONE]
    return _ONE if not kept else kept[0] if len(kept) == 1 else ("mul", *kept)
