"""Functions and pieces under another letter for their argument: `f(t) = 1/t` is `f(x) = 1/x`."""

from __future__ import annotations

import re
from dataclasses import replace

from deepscaler.answers.comparison.constants import with_symbols
from deepscaler.answers.kinds import Answer, Items, Named, Prose, Reals, Scalar
from deepscaler.answers.values.same_value import mentions

_BOUND_LETTERS = frozenset("xyztuvwnkmrs")
_APPLIED = re.compile(r"([^()]+)\(([a-zA-Z](?:,[a-zA-Z]){0,3})\)")


def under_one_name(a: Named, b: Named) -> Named | None:
    """`b` by the name of `a`: `f(t) = 1/t` as `f(x) = 1/x`, `y = …` as `f(x) = …`; None where the names differ."""
    first, second = _APPLIED.fullmatch(a.name), _APPLIED.fullmatch(b.name)
    if first and second and first[1] == second[1]:
        letters, others = first[2].split(","), second[2].split(",")
        bound = all(_binds(a.value, x) for x in letters) and all(_binds(b.value, y) for y in others)
        if not bound or len(letters) != len(others) or any(mentioned(b.value, x) for x in letters if x not in others):
            return None
        return replace(b, name=a.name, value=renamed(b.value, dict(zip(others, letters, strict=True))))
    if (first and b.name == "y") or (second and a.name == "y"):
        applied = first or second
        return replace(b, name=a.name) if applied and applied[1] in "fgh" and applied[2] == "x" else None
    return None


def _binds(value: Answer, letter: str) -> bool:
    """Whether the letter in `f(x) = …` is a variable: one that the value mentions, or that is hardly ever a name.

    The A of `P(A) = 1/2` is a name: it says which event.
    """
    return letter in _BOUND_LETTERS or mentioned(value, letter)


def mentioned(answer: Answer, letter: str) -> bool:
    if isinstance(answer, Scalar):
        return mentions(answer.tree, letter)
    if isinstance(answer, Prose):
        return answer.product is not None and mentions(answer.product, letter)
    if isinstance(answer, Named):
        return mentioned(answer.value, letter)
    if isinstance(answer, Reals):  # the condition of a piece
        return answer.name == letter or any(
            mentions(span.low, letter) or mentions(span.high, letter) for span in answer.spans
        )
    return isinstance(answer, Items) and any(mentioned(item, letter) for item in answer.items)


def renamed(answer: Answer, names: dict[str, str]) -> Answer:
    """The answer with the variables under other names, all at once."""
    if isinstance(answer, Scalar):
        return replace(answer, tree=with_symbols(answer.tree, names))
    if isinstance(answer, Prose) and answer.product is not None:
        return Scalar(with_symbols(answer.product, names))
    if isinstance(answer, Named):
        return replace(answer, value=renamed(answer.value, names), equation=None)
    if isinstance(answer, Reals):
        return replace(answer, name=names.get(answer.name, answer.name))
    if isinstance(answer, Items):
        return replace(answer, items=tuple(renamed(item, names) for item in answer.items))
    return answer
