r"""Points and vectors as they are written: `(3,-2,1)`, a column, `3\mathbf{i}-2\mathbf{j}+\mathbf{k}`."""

from __future__ import annotations

from collections.abc import Sequence

from deepscaler.answers.kinds import Answer, Items, Matrix, Record, Scalar
from deepscaler.answers.trees import ZERO, Tree
from deepscaler.answers.values.same_value import mentions, same_value

_UNIT_VECTORS = ("i", "j", "k")
_COORDINATES = ("xyzw", "abcdef", "mn", "pqrst", "uvw")  # letters whose order everybody knows


def entries(answer: Answer) -> list[Tree] | None:
    """The entries of a tuple or a column; None for anything else."""
    if isinstance(answer, Matrix):
        return [row[0] for row in answer.rows] if len(answer.rows[0]) == 1 else None
    if isinstance(answer, Items) and answer.kind in ("tuple", "list"):
        trees = [item.tree for item in answer.items if isinstance(item, Scalar) and item.unit is None]
        return trees if len(trees) == len(answer.items) else None
    return None


def same_vector(vector: Answer, other: Answer) -> bool:
    """Whether a tuple or column is the other one, entry by entry, or a sum of multiples of i, j and k."""
    values = entries(vector)
    if values is None:
        return False
    if isinstance(other, Scalar):
        return _same_sum(values, other.tree)
    others = entries(other)
    return others is not None and len(others) == len(values) and all(map(same_value, values, others))


def _same_sum(values: Sequence[Tree], total: Tree) -> bool:
    if not 2 <= len(values) <= 3 or not (mentions(total, "j") or mentions(total, "k")):
        return False
    terms = [("mul", v, ("sym", name)) for v, name in zip(values, _UNIT_VECTORS, strict=False) if v != ZERO]
    return bool(terms) and same_value(("add", *terms) if len(terms) > 1 else terms[0], total)


def in_order_of_names(record: Record) -> tuple[Answer, ...]:
    """The values as a tuple without names has them: `y=2, x=1` is (1, 2). Names without an order stay as they are."""
    for letters in _COORDINATES:
        if all(len(name) == 1 and name in letters for name in record.names):
            order = sorted(range(len(record.names)), key=lambda i: letters.index(record.names[i]))
            return tuple(record.values[i] for i in order)
    return record.values
