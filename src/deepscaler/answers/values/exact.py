"""The exact value of an expression tree as a fraction, at a rational point, with bounded work."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import comb, factorial, gcd, isqrt, lcm

from deepscaler.answers.trees import Tree
from deepscaler.answers.values.budget import TooBigError, UndefinedError, charge

MAX_BITS = 60_000  # of a numerator or denominator
MAX_FACTORIAL = 4000
MAX_TERMS = 2000
Point = Mapping[str, Fraction]
_NOWHERE: Point = {}


def exact_value(tree: Tree, point: Point = _NOWHERE) -> Fraction | None:
    """The value, or None where it is not seen to be rational. Raises UndefinedError, TooBigError."""
    return _Exact(point).value(tree)


class _Exact:
    def __init__(self, point: Point) -> None:
        self.point = dict(point)

    def value(self, tree: Tree) -> Fraction | None:
        kind = tree[0]
        charge(1)
        if kind == "num":
            return tree[1]
        if kind == "sym":
            return self.point.get(tree[1])
        if kind == "call":
            return self._call(tree)
        if kind == "neg":
            inner = self.value(tree[1])
            return None if inner is None else -inner
        total: Fraction | None = None
        for part in tree[1:]:
            value = self.value(part)
            if value is None:
                return None
            total = value if total is None else self._checked(self._combined(kind, total, value))
            if total is None:
                return None
        return total

    def _combined(self, kind: str, a: Fraction, b: Fraction) -> Fraction | None:
        if kind == "add":
            return a + b
        if kind == "mul":
            return a * b
        if kind == "div":
            if b == 0:
                raise UndefinedError("division by zero")
            return a / b
        return self._power(a, b)

    def _checked(self, value: Fraction | None) -> Fraction | None:
        if value is not None:
            bits = max(value.numerator.bit_length(), value.denominator.bit_length())
            charge(2 + value.numerator.bit_length() * value.denominator.bit_length() // 500_000)
            if bits > MAX_BITS:
                raise TooBigError("too many digits")
        return value

    def _power(self, base: Fraction, exponent: Fraction) -> Fraction | None:
        if base == 0:
            if exponent <= 0:
                raise UndefinedError("zero to a power that is not positive")
            return base
        if base == 1:
            return base
        if exponent.denominator != 1:
            root = exact_root(base, exponent.denominator)
            return None if root is None else self._power(root, Fraction(exponent.numerator))
        if base == -1:
            return Fraction(1 if exponent.numerator % 2 == 0 else -1)
        if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > MAX_BITS:
            raise TooBigError("a power with too many digits")
        return base**exponent.numerator

    def _call(self, tree: Tree) -> Fraction | None:
        name = tree[1]
        if name in ("sum", "prod"):
            return self._series(tree)
        values = [self.value(a) for a in tree[2:]]
        numbers = [v for v in values if v is not None]
        if len(numbers) < len(values):
            return None
        return self._checked(self._function(name, numbers))

    def _function(self, name: str, numbers: list[Fraction]) -> Fraction | None:
        first = numbers[0]
        whole = all(v.denominator == 1 for v in numbers)
        if name == "abs":
            return abs(first)
        if name == "percent":
            return first / 100
        if name == "floor":
            return Fraction(first.numerator // first.denominator)
        if name == "ceil":
            return Fraction(-(-first.numerator // first.denominator))
        if name in ("max", "min"):
            return max(numbers) if name == "max" else min(numbers)
        if name == "root" and numbers[1].denominator == 1:
            return exact_root(first, numbers[1].numerator)
        if name == "mod" and numbers[1] != 0:
            return first % numbers[1]
        if not whole:
            return None
        if name in ("gcd", "lcm"):
            return Fraction((gcd if name == "gcd" else lcm)(*(v.numerator for v in numbers)))
        return _combinatorial(name, [v.numerator for v in numbers])

    def _series(self, tree: Tree) -> Fraction | None:
        _, name, index, low, high, body = tree
        first, last = self.value(low), self.value(high)
        if first is None or last is None or first.denominator != 1 or last.denominator != 1:
            return None
        if last - first > MAX_TERMS:
            raise TooBigError("too many terms")
        outer = self.point.get(index[1])
        total = Fraction(0 if name == "sum" else 1)
        for k in range(first.numerator, last.numerator + 1):
            self.point[index[1]] = Fraction(k)
            value = self.value(body)
            if value is None:
                return None
            total = total + value if name == "sum" else total * value
            self._checked(total)
        if outer is None:
            self.point.pop(index[1], None)
        else:
            self.point[index[1]] = outer
        return total


def _combinatorial(name: str, numbers: list[int]) -> Fraction | None:
    first = numbers[0]
    if name not in ("factorial", "factorial2", "binom"):
        return None
    if first > MAX_FACTORIAL:
        raise TooBigError(f"a {name} with too many digits")
    charge(first * first // 10_000)
    if name == "factorial" and first >= 0:
        return Fraction(factorial(first))
    if name == "factorial2" and first >= 0:
        result = 1
        for k in range(first, 1, -2):
            result *= k
        return Fraction(result)
    if name == "binom" and first >= 0:
        return Fraction(comb(first, numbers[1])) if numbers[1] >= 0 else Fraction(0)
    return None


def exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The rational real `degree`-th root of a fraction, if it has one."""
    if not 0 < degree <= 64 or (value < 0 and degree % 2 == 0):
        return None
    if value < 0:
        root = exact_root(-value, degree)
        return None if root is None else -root
    top, bottom = _whole_root(value.numerator, degree), _whole_root(value.denominator, degree)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _whole_root(value: int, degree: int) -> int | None:
    if value < 2:
        return value
    if value.bit_length() > 4096:
        return None
    if degree == 2:
        root = isqrt(value)
        return root if root * root == value else None
    low, high = 1, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    return low if low**degree == value else None
