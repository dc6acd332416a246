"""What an answer states, and what a reference asks for."""

from __future__ import annotations

from deepscaler.answers.kinds import Answer, Approximated, Conditioned, Items, Relation, Scalar
from deepscaler.answers.trees import ZERO
from deepscaler.answers.values.same_value import calls, symbols


def stated(answer: Answer) -> Answer:
    """`m+n = 7` as 7, also in lists: what an equation says, for a reference that asks for a value; `5, 5` as 5."""
    if isinstance(answer, Relation) and answer.value is not None:
        return answer if _is_unsolved(answer) else answer.value
    if (
        isinstance(answer, Items)
        and answer.kind == "list"
        and answer.items
        and all(item == answer.items[0] for item in answer.items)
    ):
        return stated(answer.items[0])
    if isinstance(answer, Conditioned):
        return stated(answer.value)
    if isinstance(answer, Items) and any(isinstance(i, Relation) for i in answer.items):
        return Items(answer.kind, tuple(map(stated, answer.items)))
    return answer


def _is_unsolved(equation: Relation) -> bool:
    """`x^2-4 = 0`: a condition on one variable, which says nothing of a value that was asked for."""
    side = equation.right if equation.left[0] == "num" else equation.left
    zero = equation.left == ZERO or equation.right == ZERO
    return zero and len(symbols(side)) == 1 and not calls(side)


def is_bare(answer: Answer) -> bool:
    """Whether only a value is asked for: a constant, or several, without a name or an equation."""
    if isinstance(answer, Items):
        return all(map(is_bare, answer.items))
    return isinstance(answer, Approximated) or (isinstance(answer, Scalar) and not symbols(answer.tree))
