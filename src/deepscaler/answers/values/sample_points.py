"""Where two expressions are compared: near the origin always, and far from it where a function has pieces.

Two analytic functions that agree at a few generic points are the same. A function with pieces, such as |x-1000| or
gcd(n, 1001), is a different one in each of them, so the numbers in the expressions say where else to look.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from fractions import Fraction

from deepscaler.answers.trees import Tree
from deepscaler.answers.values.budget import TooBigError, UndefinedError
from deepscaler.answers.values.exact import exact_value

WHOLE_POINTS = 4
# √(x+1000)² has two pieces as well, but most roots have none that near points do not see: two more points will do.
ROOT = "root"
PIECEWISE = frozenset(["abs", "max", "min", "floor", "ceil", "mod", "gcd", "lcm", "sgn", "arg", ROOT])
MAX_EDGES = 3  # numbers in the expressions around which more points are chosen
NEAR = 2  # as far as near points reach to both sides
MAX_LEADS = 2  # names that take each of the values in turn
MAX_EDGE = 10**12
_BESIDE = Fraction(377, 1009)
Point = dict[str, Fraction]


def near_points(names: frozenset[str]) -> Iterator[Point]:
    """Whole, broken and signed points; a function of the names alone."""
    ordered = sorted(names)
    for index in range(7):
        point: Point = {}
        for name in ordered:
            draw = zlib.crc32(f"{index}:{name}".encode())
            if index < WHOLE_POINTS:
                value = Fraction((2 + draw % 995) if index < 2 else 2 + (draw % 9) * 2 + index % 2)
            else:
                value = Fraction(300 + draw % 2200, 1009)
            negative = (index == 5 and (len(names) == 1 or draw & 1024)) or index == 6
            point[name] = -value if negative else value
        yield point


def far_points(a: Tree, b: Tree, names: frozenset[str], functions: frozenset[str], *, whole: bool) -> Iterator[Point]:
    """Beyond and beside the numbers in the two trees, of both signs; positive whole ones for `whole`.

    `functions`: those in the trees. None where they have one piece each.
    """
    pieces = functions & PIECEWISE
    if not pieces:
        return
    edges = sorted(_numbers(a) | _numbers(b), reverse=True)[:MAX_EDGES] or [Fraction(1)]
    if pieces == {ROOT}:
        far = 3 * edges[0] + _BESIDE
        if edges[0] > NEAR:
            yield from ({name: value * (j + 1) for j, name in enumerate(sorted(names))} for value in (far, -far))
        return
    product = Fraction(1)
    for edge in edges:
        product *= edge
    values = list(dict.fromkeys((*_whole_values(edges, product),) if whole else (*_real_values(edges, product),)))
    for lead in sorted(names)[:MAX_LEADS]:
        for index, value in enumerate(values):
            others = {name: values[_draw(f"{lead}{index}.{name}") % len(values)] for name in names - {lead}}
            yield {lead: value} | others


def _draw(text: str) -> int:
    """Low bits of a CRC follow those of the text; these do not."""
    return zlib.crc32(text.encode()) * 2654435761 >> 13


def _whole_values(edges: list[Fraction], product: Fraction) -> Iterator[Fraction]:
    for edge in [*edges, product]:
        whole = Fraction(max(1, round(edge)))
        yield from (whole, whole + 1, 3 * whole, 5 * whole - 1)


def _real_values(edges: list[Fraction], product: Fraction) -> Iterator[Fraction]:
    far = [3 * edges[0] + _BESIDE, 2 * product + _BESIDE]
    for value in (*far, *(edge + _BESIDE for edge in edges), *(edge - _BESIDE for edge in edges)):
        yield from (value, -value)


def _numbers(tree: Tree) -> set[Fraction]:
    """Sizes of the constant parts of a tree, the largest ones: 1000 for `10^3 + x`."""
    if tree[0] == "sym":
        return set()
    try:
        value = exact_value(tree)
    except (UndefinedError, TooBigError):
        value = None
    if value is not None:
        return {abs(value)} if 0 < abs(value) <= MAX_EDGE else set()
    return {number for part in tree[1:] if isinstance(part, tuple) for number in _numbers(part)}
