"""Expressions that are lines with rational coefficients."""

from __future__ import annotations

from fractions import Fraction

from deepscaler.answers.trees import Tree
from deepscaler.answers.values.budget import TooBigError, UndefinedError
from deepscaler.answers.values.exact import exact_value
from deepscaler.answers.values.same_value import calls
from deepscaler.answers.values.sample_points import PIECEWISE


def linear(tree: Tree, name: str) -> tuple[Fraction, Fraction] | None:
    """Slope and offset where the tree is a line in `name` with rational coefficients and a slope."""
    if not calls(tree).isdisjoint(PIECEWISE):
        return None
    try:
        values = [exact_value(tree, {name: Fraction(x)}) for x in (0, 1, 5, Fraction(-7, 3))]
    except (UndefinedError, TooBigError):
        return None
    at0, at1, at5, at_last = values
    if at0 is None or at1 is None or at5 is None or at_last is None:
        return None
    slope = at1 - at0
    if slope == 0 or at5 != at0 + 5 * slope or at_last != at0 - Fraction(7, 3) * slope:
        return None
    return slope, at0
