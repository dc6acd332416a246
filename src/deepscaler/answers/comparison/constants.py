r"""Letters that somebody chose: the constant of an integral, the c of `f(x) = cx`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from deepscaler.answers.trees import Tree
from deepscaler.answers.values.same_value import symbols

_CERTAIN = frozenset(["C", "c", "C_1", "C_2", "c_1", "c_2", "C_0"])
_POSSIBLE = _CERTAIN | {"K", "k", "A", "B", "a", "D", "k_1", "k_2", "K_1", "K_2"}
MAX_CONSTANTS = 2


def with_symbols(tree: Tree, names: dict[str, str]) -> Tree:
    """The tree with every variable of `names` under its other name, all at once."""
    if tree[0] == "sym":
        return ("sym", names.get(tree[1], tree[1]))
    return tuple(with_symbols(part, names) if isinstance(part, tuple) else part for part in tree)


def by_other_constants(a: Tree, b: Tree) -> Iterator[Tree]:
    """`b` with its arbitrary constants named as in `a`, in every way; none where other letters differ too.

    One side has C or c, which name a constant wherever something else varies.
    """
    first, second = symbols(a) - symbols(b), symbols(b) - symbols(a)
    if not 0 < len(first) == len(second) <= MAX_CONSTANTS or not symbols(a) & symbols(b):
        return
    if not (first <= _POSSIBLE and second <= _POSSIBLE and (first <= _CERTAIN or second <= _CERTAIN)):
        return
    for order in permutations(sorted(first)):
        yield with_symbols(b, dict(zip(sorted(second), order, strict=True)))


def is_added(tree: Tree, name: str) -> bool:
    """Whether the variable is a term of the sum that the tree is, and nowhere else: the C of `x^2 + C`."""
    terms = tree[1:] if tree[0] == "add" else ()
    others = [term for term in terms if term != ("sym", name)]
    return len(others) == len(terms) - 1 and not any(name in symbols(term) for term in others)
