"""Whether two expressions are the same: exactly where values are rational, else to 25 digits at several points."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from fractions import Fraction
from itertools import chain, islice

from deepscaler.answers.trees import TEN, Tree
from deepscaler.answers.values.budget import TooBigError, UndefinedError, charge
from deepscaler.answers.values.exact import exact_value
from deepscaler.answers.values.numeric import FINE, FINEST, FLOAT, Evaluation, Number, Precision, PrecisionLostError
from deepscaler.answers.values.sample_points import WHOLE_POINTS, Point, far_points, near_points

CONSTANTS = frozenset(["π", "e", "i", "∞", "±"])
FLOAT_ZERO = 1e-9
ROUNDED_DIGITS = 8  # a decimal this long may equal the number that it rounds
INTEGER_NAMES = frozenset("nkmNKMjpqrst")
_WAVES = frozenset(["sin", "cos", "tan", "cis", "exp"])
_STEPS = frozenset(["sign^", "sum", "prod", "floor", "ceil", "mod", "factorial", "factorial2", "binom", "gcd", "lcm"])


def symbols(tree: Tree) -> frozenset[str]:
    """Free variables."""
    if tree[0] == "num":
        return frozenset()
    if tree[0] == "sym":
        return frozenset() if tree[1] in CONSTANTS else frozenset([tree[1]])
    found: frozenset[str] = frozenset().union(*(symbols(part) for part in tree[1:] if isinstance(part, tuple)))
    return found - {tree[2][1]} if tree[0] == "call" and tree[1] in ("sum", "prod") else found


def calls(tree: Tree) -> frozenset[str]:
    """Names of the functions in the tree; `sign^` for a negative number to a power with a variable."""
    if tree[0] in ("num", "sym"):
        return frozenset()
    found: frozenset[str] = frozenset().union(*(calls(part) for part in tree[1:] if isinstance(part, tuple)))
    if tree[0] == "call":
        return found | {tree[1]}
    if tree[0] == "pow" and tree[1][0] == "neg" and symbols(tree[2]):
        return found | {"sign^"}
    return found


def mentions(tree: Tree, name: str) -> bool:
    """Whether the tree holds the symbol `name`."""
    return tree[:2] == ("sym", name) or any(isinstance(part, tuple) and mentions(part, name) for part in tree[1:])


def _is_infinite(tree: Tree) -> bool:
    """Whether the tree holds ∞ other than as the limit of a sum."""
    if tree == ("sym", "∞"):
        return True
    parts = (*tree[2:4], tree[5]) if tree[:2] == ("call", "sum") else tree[1:]
    return any(isinstance(part, tuple) and _is_infinite(part) for part in parts)


def same_value(a: Tree, b: Tree) -> bool:
    """Whether two expressions are equal wherever real roots and logarithms are defined. Never raises."""
    if a == b:
        return True
    names, others = symbols(a), symbols(b)
    if _is_infinite(a) or _is_infinite(b):
        return False
    try:
        if names != others:
            return (names < others or others < names) and _cancels(a, b, names | others)
        return _same_function(a, b, names) if names else _agree_at(a, b, {}) in (Agreement.EXACT, Agreement.CLOSE)
    except TooBigError:
        return not names and a[0] == b[0] == "pow" and same_value(a[1], b[1]) and same_value(a[2], b[2])
    except (UndefinedError, PrecisionLostError):
        return False


def _cancels(a: Tree, b: Tree, names: frozenset[str]) -> bool:
    """Whether a variable that only one side has makes no difference, to 80 digits: x - x is 0."""
    if {"sum", "prod"} & (calls(a) | calls(b)) or _differ_at_once(a, b, next(near_points(names))):
        return False
    return _same_function(a, b, names) and all(
        _agree_numerically(a, b, point, FINEST) is Agreement.CLOSE for point in islice(near_points(names), 2)
    )


def _differ_at_once(a: Tree, b: Tree, point: Point) -> bool:
    """Whether floats tell them apart at a point, as they do nearly all different pairs."""
    first, second = Evaluation(FLOAT, point), Evaluation(FLOAT, point)
    try:
        x, y = first.value(a), second.value(b)
    except PrecisionLostError:
        return False
    except (OverflowError, ValueError, ZeroDivisionError):
        return True
    return bool(abs(x - y) > 1e-6 * max(1.0, abs(x), abs(y)))


def _same_function(a: Tree, b: Tree, names: frozenset[str]) -> bool:
    functions = calls(a) | calls(b)
    steps = functions & _STEPS or (functions & _WAVES and (mentions(a, "π") or mentions(b, "π")))
    whole_only = bool(steps) and all(n[0] in INTEGER_NAMES for n in names)
    if not _same_nearby(a, b, names, functions, whole_only):
        return False
    return _same_far_off(a, b, far_points(a, b, names, functions, whole=whole_only))


def _same_far_off(a: Tree, b: Tree, points: Iterator[Point]) -> bool:
    for point in points:
        try:
            if _agree_at(a, b, point) is Agreement.APART:
                return False
        except (UndefinedError, PrecisionLostError):
            continue
        except TooBigError:
            charge(0)  # raises again where the whole budget is used up
    return True


def _same_nearby(a: Tree, b: Tree, names: frozenset[str], functions: frozenset[str], whole_only: bool) -> bool:
    seen: list[tuple[bool, Agreement]] = []
    for index, point in enumerate(near_points(names)):
        if index == WHOLE_POINTS:
            exact = sum(verdict is Agreement.EXACT for _, verdict in seen)
            same = sum(verdict in (Agreement.EXACT, Agreement.CLOSE) for _, verdict in seen)
            if (not functions and exact == WHOLE_POINTS) or (whole_only and same >= 2):
                return True
        try:
            verdict = _agree_at(a, b, point)
        except (UndefinedError, TooBigError, PrecisionLostError):
            continue
        if verdict is Agreement.APART:
            return False
        seen.append((all(value > 0 for value in point.values()), verdict))
    agreed = [positive for positive, verdict in seen if verdict in (Agreement.EXACT, Agreement.CLOSE)]
    half_seen = any(positive and verdict is Agreement.ONE_BRANCHED for positive, verdict in seen)
    if half_seen and "sign^" in functions:  # (-1)^x is cos πx at whole x only
        return whole_only
    return len(agreed) >= 2 and (any(agreed) or not half_seen)


class Agreement(Enum):
    """BRANCHED: both values took a branch of a root or logarithm, which says nothing about real numbers."""

    EXACT = 0
    CLOSE = 1
    APART = 2
    BRANCHED = 3
    ONE_BRANCHED = 4


def _agree_at(a: Tree, b: Tree, point: Point) -> Agreement:
    """Raises UndefinedError, TooBigError, and PrecisionLostError where 150 digits are not enough."""
    left, right = _exactly(a, point), _exactly(b, point)
    if left is not None and right is not None:
        return Agreement.EXACT if left == right else Agreement.APART
    if _apart_in_floats(a, b, point):
        return Agreement.APART
    try:
        return _agree_numerically(a, b, point, FINE)
    except PrecisionLostError:
        return _agree_numerically(a, b, point, FINEST)


def _agree_numerically(a: Tree, b: Tree, point: Point, precision: Precision) -> Agreement:
    first, second = Evaluation(precision, point), Evaluation(precision, point)
    x, y = first.value(a), second.value(b)
    if close(x, y, precision):
        return Agreement.CLOSE
    if not point or not (first.branched or second.branched):
        return Agreement.APART
    return Agreement.BRANCHED if first.branched and second.branched else Agreement.ONE_BRANCHED


def _exactly(tree: Tree, point: Point) -> Fraction | None:
    try:
        return exact_value(tree, point)
    except TooBigError:
        return None


def _apart_in_floats(a: Tree, b: Tree, point: Point) -> bool:
    """Whether floats are enough to tell the values apart; if not, the slow way decides."""
    first, second = Evaluation(FLOAT, point), Evaluation(FLOAT, point)
    try:
        x, y = first.value(a), second.value(b)
    except (OverflowError, ValueError, ZeroDivisionError):
        return False
    if point and (first.branched or second.branched):
        return False
    largest = max(abs(x), abs(y))
    return bool(largest > FLOAT_ZERO and abs(x - y) > FLOAT.tolerance * largest)


def close(a: Number, b: Number, precision: Precision = FINE) -> bool:
    return bool(abs(a - b) <= precision.tolerance * max(abs(a), abs(b)))


def real_value(tree: Tree) -> Fraction | Number | None:
    """The value of a constant real expression, exact or to 50 digits; None for anything else."""
    if symbols(tree) or _is_infinite(tree):
        return None
    try:
        exact = _exactly(tree, {})
        if exact is not None:
            return exact
        value = Evaluation(FINE, {}).value(tree)
    except (TooBigError, UndefinedError, PrecisionLostError):
        return None
    return FINE.context.re(value) if abs(FINE.context.im(value)) <= FINE.tolerance * abs(value) else None


def rounds_to(decimal: Tree, other: Tree) -> bool:
    """Whether a bare decimal of ROUNDED_DIGITS or more is the other constant, rounded or truncated.

    A number whose decimal ends is not stood for by another one: 45.000001 is not 45.
    """
    while decimal[0] == "neg":
        decimal, other = decimal[1], ("neg", other)
    decimal = _with_exponent(decimal)
    if decimal[0] != "num" or decimal[2] < ROUNDED_DIGITS:
        return False
    value = real_value(other)
    if value is None or (isinstance(value, Fraction) and ends(value)):
        return False
    return is_rounding(decimal[1], last_place(decimal[1], decimal[2]), value)


def _with_exponent(tree: Tree) -> Tree:
    r"""`2.5 \times 10^{-3}` as the decimal 0.0025 of two digits; any other tree as it is."""
    if tree[0] != "mul" or len(tree) != 3 or tree[1][0] != "num" or tree[2][:2] != ("pow", TEN):
        return tree
    scale = real_value(tree[2])
    return ("num", tree[1][1] * scale, tree[1][2]) if isinstance(scale, Fraction) else tree


def last_place(decimal: Fraction, digits: int) -> Fraction:
    """The value of one unit in the last of `digits` significant digits: 1/100 for 3.14."""
    if decimal == 0:
        return Fraction(0)
    leading = (decimal.numerator.bit_length() - decimal.denominator.bit_length()) * 30103 // 100_000
    while abs(decimal) >= Fraction(10) ** (leading + 1):
        leading += 1
    while abs(decimal) < Fraction(10) ** leading:
        leading -= 1
    return Fraction(10) ** (leading - digits + 1)


def is_rounding(decimal: Fraction, unit: Fraction, value: Number) -> bool:
    """Whether a decimal with last place `unit` is the real `value` rounded to it, or truncated there."""
    if decimal < 0:
        decimal, value = -decimal, -value
    rest = value - decimal if isinstance(value, Fraction) else value - _fine(decimal)
    place = unit if isinstance(rest, Fraction) else _fine(unit)
    return bool(-place <= 2 * rest and rest < place)


def ends(value: Fraction) -> bool:
    """Whether the decimal of the value is finite."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def decimal_places(value: Fraction) -> int:
    """Places behind the point of a finite decimal."""
    places = 0
    while value.denominator != 1:
        value, places = value * 10, places + 1
    return places


def proportional(a: Tree, b: Tree) -> int:
    """1 when a = c·b for a constant c > 0 everywhere, -1 for any other c; else 0."""
    names = symbols(a)
    if not names or names != symbols(b) or _is_infinite(a) or _is_infinite(b):
        return 0
    ratio: Number = None
    agreed = 0
    far = far_points(a, b, names, calls(a) | calls(b), whole=False)
    for point in chain(near_points(names), far):
        try:
            x, y = _value_at(a, point), _value_at(b, point)
            if x == 0 and y == 0:
                continue
            if x == 0 or y == 0:
                return 0
            here = x / y if isinstance(x, Fraction) and isinstance(y, Fraction) else _fine(x) / _fine(y)
        except (UndefinedError, TooBigError, PrecisionLostError):
            continue
        if ratio is None:
            ratio = here
        elif not _same_ratio(here, ratio):
            return 0
        agreed += 1
    if agreed < 3:
        return 0
    return 1 if FINE.context.im(_fine(ratio)) == 0 and ratio > 0 else -1


def _same_ratio(a: Number, b: Number) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    return close(_fine(a), _fine(b))


def _value_at(tree: Tree, point: Point) -> Number:
    exact = _exactly(tree, point)
    return exact if exact is not None else Evaluation(FINE, point).value(tree)


def _fine(value: Number) -> Number:
    return FINE.context.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value
