"""Expressions that are the same though their trees differ by more than value: degree signs, constants, arrangements."""

from __future__ import annotations

from deepscaler.answers.comparison.constants import by_other_constants, is_added
from deepscaler.answers.expressions.arrangements import ARRANGING, arranged
from deepscaler.answers.kinds import Answer, Items, Named, Prose, Scalar
from deepscaler.answers.trees import Tree
from deepscaler.answers.values.same_value import mentions, same_value, symbols


def tree_of(answer: Answer) -> Tree | None:
    """The expression that an answer is, `cx` too."""
    return answer.tree if isinstance(answer, Scalar) else answer.product if isinstance(answer, Prose) else None


def without_degrees(tree: Tree) -> Tree:
    """The tree without degree signs other than in arguments of functions."""
    if tree[:2] == ("call", "degree"):
        return without_degrees(tree[2])
    if tree[0] in ("add", "mul", "neg", "div"):
        return (tree[0], *(without_degrees(part) for part in tree[1:]))
    return tree


def same_without_degrees(a: Tree, b: Tree) -> bool:
    r"""`180^\circ - 2\alpha` and `180 - 2\alpha`; multiples of π are no degrees."""
    x, y = without_degrees(a), without_degrees(b)
    return (x != a or y != b) and not (mentions(a, "π") or mentions(b, "π")) and same_value(x, y)


def same_but_for_added_constant(a: Tree, b: Tree) -> bool:
    """`x^2 + C` and `x^2 + K`: an integral."""
    first, second = symbols(a) - symbols(b), symbols(b) - symbols(a)
    if len(first) != 1 or len(second) != 1 or not (is_added(a, *first) and is_added(b, *second)):
        return False
    other = next(by_other_constants(a, b), None) if any(name.startswith("C") for name in first | second) else None
    return other is not None and not (first | second) & set("aAB") and same_value(a, other)


def is_arranged(a: Named, b: Answer) -> bool:
    """Whether the point P(5,2) is rather 5·4 arrangements."""
    pair = a.value.items if isinstance(a.value, Items) and a.name in ARRANGING else ()
    trees = [item.tree for item in pair if isinstance(item, Scalar)]
    number = arranged(a.name, *trees) if len(trees) == len(pair) == 2 else None
    return number is not None and isinstance(b, Scalar) and same_value(number, b.tree)
