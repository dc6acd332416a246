"""What kinds of thing an answer can be: a number, a list, an interval, an equation, a matrix, a choice, prose."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from deepscaler.answers.trees import Tree


@dataclass(frozen=True, slots=True)
class Unit:
    """A known unit: powers of dimensions and the size in base units. cm² is ((length, 2),), 1/10000."""

    dimensions: tuple[tuple[str, int], ...]
    size: Fraction


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number or expression; what stood behind it is taken off. `unit` is None for none and for a strange one."""

    tree: Tree
    unit: Unit | None = None
    percent: bool = False
    degree: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    """kind: `list` and `set` have no order, `tuple` and `ratio` have."""

    kind: str
    items: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day; `half` is am, pm or "". As `ratio` it is hours to minutes."""

    hour: int
    minute: int
    second: int
    half: str
    ratio: Items


@dataclass(frozen=True, slots=True)
class Span:
    """An interval of the real line."""

    low: Tree
    low_closed: bool
    high: Tree
    high_closed: bool


@dataclass(frozen=True, slots=True)
class Reals:
    """A union of intervals, of which `name` may say whose values they are."""

    spans: tuple[Span, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Relation:
    """`left op right`, op one of = < <= !=. `value`: the side of an equation that is a constant, as it was read."""

    op: str
    left: Tree
    right: Tree
    value: Answer | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Named:
    """`name = value`, which may be compared by its value alone; `equation` where both sides are expressions."""

    name: str
    value: Answer
    equation: Relation | None


@dataclass(frozen=True, slots=True)
class Record:
    """Several different names with their values: `x=1, y=2`. `numbered`: the names are x_1, x_2, …, in any order."""

    names: tuple[str, ...]
    values: tuple[Answer, ...]
    numbered: bool = False


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple[tuple[Tree, ...], ...]


@dataclass(frozen=True, slots=True)
class Based:
    """A number in another base, by its digits."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Residue:
    """`value (mod modulus)`."""

    value: Tree
    modulus: Tree


@dataclass(frozen=True, slots=True)
class Choice:
    """A letter of a multiple choice, and the value that stood beside it."""

    letter: str
    value: Answer | None


@dataclass(frozen=True, slots=True)
class Approximated:
    r"""A value and the decimal that it was rounded to: `25\pi = 78.54`. Either counts as the answer."""

    value: Answer
    rounded: Answer


@dataclass(frozen=True, slots=True)
class Conditioned:
    r"""`\frac{x^2-1}{x-1},\ x\ne1`: a value and what its variables range over, which may be left out.

    `parameter`: the letter that is any integer, `k` in `k\pi, k\in\mathbb{Z}`.
    """

    value: Answer
    ranges: tuple[Reals, ...]
    parameter: str = ""


@dataclass(frozen=True, slots=True)
class Prose:
    """Words; a short run of letters may as well be a `product` of variables."""

    words: str
    product: Tree | None = None


Answer = (
    Scalar
    | Items
    | Clock
    | Reals
    | Relation
    | Named
    | Record
    | Matrix
    | Based
    | Residue
    | Choice
    | Approximated
    | Conditioned
    | Prose
)
