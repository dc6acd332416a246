r"""Lists that go on: `1, 2, \ldots, 100` and `1, 2, 3, \ldots, 100` are the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from deepscaler.answers.kinds import Answer, Scalar
from deepscaler.answers.trees import Tree
from deepscaler.answers.values.same_value import mentions, real_value, same_value

DOTS: Tree = ("sym", "ldots")


@dataclass(frozen=True, slots=True)
class Progression:
    """Whole numbers with the same step. `last` is None where it never ends; any expression where it does."""

    first: Fraction
    step: Fraction
    last: Tree | None


def goes_on(items: Sequence[Answer]) -> bool:
    return any(isinstance(item, Scalar) and mentions(item.tree, "ldots") for item in items)


def same_progression(a: Sequence[Answer], b: Sequence[Answer]) -> bool:
    """Whether both are arithmetic progressions of numbers, and the same."""
    x, y = _progression(a), _progression(b)
    if x is None or y is None or (x.first, x.step) != (y.first, y.step):
        return False
    return x.last == y.last or (x.last is not None and y.last is not None and same_value(x.last, y.last))


def _progression(items: Sequence[Answer]) -> Progression | None:
    trees = [item.tree for item in items if isinstance(item, Scalar) and item.unit is None]
    if len(trees) < len(items) or trees.count(DOTS) != 1:
        return None
    place = trees.index(DOTS)
    before, behind = [real_value(tree) for tree in trees[:place]], trees[place + 1 :]
    known = [value for value in before if isinstance(value, Fraction)]
    if not known or len(known) < len(before) or len(behind) > 3:
        return None
    step = known[1] - known[0] if len(known) > 1 else Fraction(1)
    if step == 0 or any(value != known[0] + i * step for i, value in enumerate(known)):
        return None
    if not _leads_to(behind, step):
        return None
    return Progression(known[0], step, behind[-1] if behind else None)


def _leads_to(behind: Sequence[Tree], step: Fraction) -> bool:
    """Whether the terms after the dots have the same step: `…, n-1, n`."""
    shifted = [("add", tree, ("num", step, 0)) for tree in behind[:-1]]
    return all(same_value(tree, following) for tree, following in zip(shifted, behind[1:], strict=True))
