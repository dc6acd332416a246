"""The value of an expression tree at a point, in floating point of a chosen precision: a float or 50 or 150 digits."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import accumulate
from typing import Any, TypeAlias

import mpmath

from deepscaler.answers.trees import Tree
from deepscaler.answers.values.budget import TooBigError, UndefinedError, charge
from deepscaler.answers.values.exact import MAX_TERMS, exact_value

# mpmath has no types: fp and MPContext have the same functions, of floats and complex numbers, or of mpf and mpc.
Context: TypeAlias = Any
Number: TypeAlias = Any
MAX_MAGNITUDE = 4_000_000  # |log2| of a value
MAX_ARGUMENT = 1e6  # of periodic functions and the exponential
MAX_FACTORIAL = 2000
MAX_INFINITE_TERMS = 300
_PERIODIC = ("exp", "cis", "sin", "cos", "tan", "cot", "sec", "csc")
_VERY_SLOW = frozenset(["factorial", "factorial2", "binom"])


class Precision:
    """A context to calculate in, and what its digits are good for.

    A sum under `zero` of its terms is 0; one under `lost`, or with a term under `range` of another, is not known to
    `tolerance`, within which values count as equal.
    """

    def __init__(self, context: Context, cost: int, *, zero: str, lost: str, range_: str, tolerance: str) -> None:
        self.context, self.cost = context, cost
        self.zero, self.lost = context.mpf(zero), context.mpf(lost)
        self.range, self.tolerance = context.mpf(range_), context.mpf(tolerance)
        self.step = self.zero * 1000 or 1e-9  # closer than this to a whole number is that number


def _digits(digits: int) -> Context:
    context = mpmath.MPContext()
    context.dps = digits
    return context


FLOAT = Precision(mpmath.fp, 1, zero="0", lost="1e-4", range_="0", tolerance="1e-7")
FINE = Precision(_digits(50), 4, zero="1e-45", lost="1e-12", range_="1e-20", tolerance="1e-25")
FINEST = Precision(_digits(150), 8, zero="1e-145", lost="1e-60", range_="1e-75", tolerance="1e-80")


class PrecisionLostError(ValueError):
    """Terms cancelled so far that the rest is not known well: to be repeated with more digits."""


class Evaluation:
    """One pass over a tree. `branched`: a root, logarithm or broken power of a negative or complex number was taken."""

    def __init__(self, precision: Precision, point: Mapping[str, Fraction]) -> None:
        self.precision = precision
        self.c = precision.context
        self.point: dict[str, Number] = {name: self.c.mpf(v.numerator) / v.denominator for name, v in point.items()}
        self.branched = False

    def value(self, tree: Tree) -> Number:
        """Raises UndefinedError, TooBigError, PrecisionLostError; a float context raises OverflowError too."""
        kind = tree[0]
        charge(self.precision.cost)
        if kind == "num":
            return self.c.mpf(tree[1].numerator) / tree[1].denominator
        if kind == "sym":
            return self._symbol(tree[1])
        if kind == "call":
            return self._in_range(self._call(tree))
        if kind == "neg":
            return -self.value(tree[1])
        if kind == "add":
            return self._sum([self.value(part) for part in tree[1:]])
        if kind == "mul":
            total = self.value(tree[1])
            for part in tree[2:]:
                total = self._in_range(total * self.value(part))
            return total
        if kind == "div":
            top, bottom = self.value(tree[1]), self.value(tree[2])
            if bottom == 0:
                raise UndefinedError("division by zero")
            return self._in_range(top / bottom)
        if tree[1] == ("sym", "e"):
            return self._call(("call", "exp", tree[2]))
        return self._raised(tree)

    def _symbol(self, name: str) -> Number:
        if name in self.point:  # a bound i is no imaginary unit
            return self.point[name]
        if name == "π":
            return +self.c.pi
        if name == "e":
            return +self.c.e
        if name == "i":
            return self.c.mpc(0, 1)
        raise UndefinedError(f"{name} has no value")

    def _sum(self, terms: list[Number]) -> Number:
        total = terms[0]
        largest = smallest = abs(total)
        for term in terms[1:]:
            total += term
            size = abs(term)
            largest = max(largest, size)
            if size != 0 and (size < smallest or smallest == 0):
                smallest = size
        size = abs(total)
        if size <= self.precision.zero * largest:
            return self.c.mpf(0)
        if size < self.precision.lost * largest or smallest < self.precision.range * largest:
            raise PrecisionLostError
        return total

    def _in_range(self, value: Number) -> Number:
        if not abs(value) < self.c.inf:
            raise UndefinedError("not finite")
        if value != 0 and self.precision is not FLOAT and abs(self.c.mag(value)) > MAX_MAGNITUDE:
            raise TooBigError("out of range")
        return value

    def _raised(self, tree: Tree) -> Number:
        """A power; the real one where a negative number has an odd root: (-5)^(1/3)."""
        base, exponent = self.value(tree[1]), self.value(tree[2])
        if self.c.im(base) == 0 and self.c.re(base) < 0:
            broken = exact_value(tree[2])
            if broken is not None and broken.denominator > 1 and broken.denominator % 2 == 1:
                size = self.power(-base, exponent)
                return -size if broken.numerator % 2 else size
        return self.power(base, exponent)

    def power(self, base: Number, exponent: Number) -> Number:
        charge(10 * self.precision.cost)
        c = self.c
        if base == 0:
            if c.re(exponent) <= 0:
                raise UndefinedError("zero to a power that is not positive")
            return c.mpf(0)
        if abs(exponent) * (abs(c.mag(base)) + 1) > MAX_MAGNITUDE:
            raise TooBigError("a power out of range")
        if self._is_cut(base) and not c.isint(exponent):
            self.branched = True
        return self._in_range(c.power(base, exponent))

    def _is_cut(self, value: Number) -> bool:
        return bool(self.c.im(value) != 0 or self.c.re(value) < 0)

    def _call(self, tree: Tree) -> Number:
        name = tree[1]
        if name in ("sum", "prod"):
            return self._series(tree)
        charge((150 if name in _VERY_SLOW else 10) * self.precision.cost)
        arguments = [self.value(a) for a in tree[2:]]
        x, c = arguments[0], self.c
        if name.startswith("unknown "):
            return _unknown(name[8:], arguments)
        if name == "root":
            return self._root(x, arguments[1])
        if name in ("log", "ln"):
            return self._logarithm(arguments)
        if name in ("percent", "degree"):
            return x / 100 if name == "percent" else x * c.pi / 180
        self._refuse(name, arguments)
        if name in ("max", "min"):
            return max(arguments) if name == "max" else min(arguments)
        if name == "mod":
            if arguments[1] == 0:
                raise UndefinedError("a rest of a division by zero")
            return x - arguments[1] * c.floor(x / arguments[1])
        if name in ("floor", "ceil"):
            return self._step(name, x)
        if name == "cis":
            return c.exp(c.mpc(0, 1) * x)
        function = _FUNCTIONS.get(name)
        if function is None:
            raise UndefinedError(f"{name} is not computed")
        try:
            value = getattr(c, function)(*arguments)
        except AttributeError as error:  # floats know fewer functions
            raise PrecisionLostError from error
        except (ValueError, ZeroDivisionError) as error:
            raise UndefinedError(f"{name}: {error}") from error
        if function.startswith("a") and name not in ("abs", "arg", "arctan", "atan"):
            self.branched |= bool(c.im(x) != 0 or c.im(value) != 0)
        # The sine of a rounded π is not quite 0.
        return c.mpf(0) if name in _CIRCULAR and abs(value) < self.precision.zero * abs(x) and abs(x) > 1 else value

    def _refuse(self, name: str, arguments: list[Number]) -> None:
        """Raises for arguments that are out of range, or that have no order where one is needed."""
        if name in ("factorial", "binom") and any(abs(a) > MAX_FACTORIAL for a in arguments):
            raise TooBigError(f"a {name} out of range")
        if name in ("max", "min", "floor", "ceil", "mod", "sgn") and any(self.c.im(a) != 0 for a in arguments):
            raise UndefinedError("complex numbers have no order")
        if name.startswith(_PERIODIC) and abs(arguments[0]) > MAX_ARGUMENT:
            raise TooBigError("an argument out of range")

    def _step(self, name: str, x: Number) -> Number:
        """Floor and ceiling; a value next to a whole number is that number."""
        nearest = self.c.floor(self.c.re(x) + 0.5)
        if abs(x - nearest) <= self.precision.step * max(1, abs(x)):
            if self.precision is FLOAT:
                raise PrecisionLostError
            return nearest
        return self.c.floor(x) if name == "floor" else self.c.ceil(x)

    def _root(self, x: Number, degree: Number) -> Number:
        if degree == 0:
            raise UndefinedError("a root of degree 0")
        if x == 0:
            return self.c.mpf(0)
        if self.c.im(x) == 0 and self.c.re(x) < 0 and self.c.isint(degree) and int(self.c.re(degree)) % 2 == 1:
            return -self.power(-x, 1 / degree)
        if degree == 2:
            self.branched |= self._is_cut(x)
            return self.c.sqrt(x)
        return self.power(x, 1 / degree)

    def _logarithm(self, arguments: list[Number]) -> Number:
        if any(a == 0 for a in arguments) or arguments[1:] == [1]:
            raise UndefinedError("a logarithm that does not exist")
        self.branched |= any(map(self._is_cut, arguments))
        value = self.c.ln(arguments[0])
        return value / self.c.ln(arguments[1]) if len(arguments) == 2 else value

    def _series(self, tree: Tree) -> Number:
        """A finite sum or product; one with an unknown end is told from others by its body at three places."""
        _, name, index, low, high, body = tree
        first = self.value(low)
        if high == ("sym", "∞"):
            if not self.c.isint(first):
                raise UndefinedError("an infinite sum from nowhere")
            return self._limit(name, index[1], int(self.c.re(first)), body)
        last = self.value(high)
        if not (self.c.isint(first) and self.c.isint(last) and last - first <= MAX_TERMS):
            places = [self.c.mpf(place) / 16 for place in (23, 37, 53)]
            return _unknown(name, [first, last, *self._values(index[1], places, body)])
        values = self._values(index[1], range(int(self.c.re(first)), int(self.c.re(last)) + 1), body)
        if name == "sum":
            return self._sum(values) if values else self.c.mpf(0)
        total = self.c.mpf(1)
        for value in values:
            total = self._in_range(total * value)
        return total

    def _values(self, index: str, places: Iterable[Number], body: Tree) -> list[Number]:
        """The body at each place of the bound variable, which hides one of the same name outside."""
        outer = self.point.get(index)
        values: list[Number] = []
        for place in places:
            self.point[index] = self.c.mpf(place)
            values.append(self.value(body))
        del self.point[index]
        if outer is not None:
            self.point[index] = outer
        return values

    def _limit(self, name: str, index: str, first: int, body: Tree) -> Number:
        """An infinite sum: its partial sums where they settle, else extrapolated twice to the same value."""
        if self.precision is not FINEST:
            raise PrecisionLostError
        if name != "sum":
            raise UndefinedError("an infinite product")
        sums = list(accumulate(self._values(index, range(first, first + MAX_INFINITE_TERMS), body)))
        if abs(sums[-1] - sums[-20]) <= self.precision.tolerance * abs(sums[-1]):
            return sums[-1]
        value, other = self.c.richardson(sums[:120])[0], self.c.richardson(sums[:100])[0]
        if abs(value - other) > 1e-30 * abs(value):
            raise UndefinedError("an infinite sum that is not known")
        return value


def _unknown(name: str, arguments: list[Number]) -> Number:
    """A stand-in for a function nobody knows: different for different names and arguments, and no simple law."""
    seed = 3 + zlib.crc32(name.encode()) % 9973
    return sum((a * a * (seed + 2 * i) + 7 * a) / (seed + i) for i, a in enumerate(arguments)) + seed


_CIRCULAR = ("sin", "cos", "tan", "cot", "sec", "csc")
_HYPERBOLIC = ("sinh", "cosh", "tanh", "coth", "sech", "csch")
_FUNCTIONS: dict[str, str] = {
    **{name: name for name in (*_CIRCULAR, *_HYPERBOLIC, "exp", "arg")},
    **{prefix + name: "a" + name for prefix in ("arc", "a") for name in (*_CIRCULAR, *_HYPERBOLIC)},
    **{prefix + name: "a" + name for prefix in ("ar", "arg") for name in _HYPERBOLIC},
    "abs": "absmin",
    "factorial": "factorial",
    "factorial2": "fac2",
    "binom": "binomial",
    "Re": "re",
    "Im": "im",
    "cbrt": "cbrt",
    "sgn": "sign",
    "conj": "conj",
}
