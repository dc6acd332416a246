"""The value of an expression tree at a point, in floating point of a chosen precision: a float or 50 or 150 digits."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import mpmath

from deepscaler.rewards.exact import MAX_TERMS, TooBigError, UndefinedError
from deepscaler.rewards.trees import Tree

MAX_MAGNITUDE = 4_000_000  # |log2| of a value
MAX_ARGUMENT = 1e6  # of periodic functions and the exponential
MAX_FACTORIAL = 2000
MAX_INFINITE_TERMS = 240
MAX_SLOW_CALLS = 800  # powers and functions in one evaluation


class Precision:
    """A context to calculate in. A sum under `zero` of its terms is 0, one under `lost` has lost too many digits."""

    def __init__(self, context: Any, zero: float, lost: float) -> None:
        self.context, self.zero, self.lost = context, context.mpf(zero), context.mpf(lost)
        self.step = self.zero * 1000 or 1e-9  # closer than this to a whole number is that number


def _digits(digits: int) -> Precision:
    context = mpmath.MPContext()
    context.dps = digits
    return Precision(context, float(f"1e-{digits - 5}"), 1e-15)


FLOAT = Precision(mpmath.fp, 0.0, 1e-4)
FINE = _digits(50)
FINEST = _digits(150)


class PrecisionLostError(ValueError):
    """Terms cancelled so far that the rest is not known well: to be repeated with more digits."""


class Evaluation:
    """One pass over a tree. `branched`: a root, logarithm or broken power of a negative or complex number was taken."""

    def __init__(self, precision: Precision, point: Mapping[str, Fraction]) -> None:
        self.precision = precision
        self.c = precision.context
        self.point: dict[str, Any] = {name: self.c.mpf(v.numerator) / v.denominator for name, v in point.items()}
        self.branched = False
        self.slow_calls = 0

    def value(self, tree: Tree) -> Any:
        """Raises UndefinedError, TooBigError, PrecisionLostError; a float context raises OverflowError too."""
        kind = tree[0]
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
        return self.power(self.value(tree[1]), self.value(tree[2]))

    def _symbol(self, name: str) -> Any:
        if name == "π":
            return +self.c.pi
        if name == "e":
            return +self.c.e
        if name == "i":
            return self.c.mpc(0, 1)
        if name not in self.point:
            raise UndefinedError(f"{name} has no value")
        return self.point[name]

    def _sum(self, terms: list[Any]) -> Any:
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
        if size < self.precision.lost * largest and self.precision is not FINEST:
            raise PrecisionLostError
        if smallest != 0 and smallest < self.precision.zero * largest:
            if self.precision is FINEST:
                raise TooBigError("terms too far apart")
            raise PrecisionLostError
        return total

    def _in_range(self, value: Any) -> Any:
        if not abs(value) < self.c.inf:
            raise UndefinedError("not finite")
        if value != 0 and self.precision is not FLOAT and abs(self.c.mag(value)) > MAX_MAGNITUDE:
            raise TooBigError("out of range")
        return value

    def power(self, base: Any, exponent: Any) -> Any:
        self._slow()
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

    def _is_cut(self, value: Any) -> bool:
        return bool(self.c.im(value) != 0 or self.c.re(value) < 0)

    def _slow(self) -> None:
        self.slow_calls += 1
        if self.slow_calls > MAX_SLOW_CALLS:
            raise TooBigError("too many powers and functions")

    def _call(self, tree: Tree) -> Any:
        name = tree[1]
        if name in ("sum", "prod"):
            return self._series(tree)
        self._slow()
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
        if name in ("factorial", "binom") and any(abs(a) > MAX_FACTORIAL for a in arguments):
            raise TooBigError(f"a {name} out of range")
        if name in ("max", "min", "floor", "ceil", "mod", "sgn") and any(c.im(a) != 0 for a in arguments):
            raise UndefinedError("complex numbers have no order")
        if name in ("max", "min"):
            return max(arguments) if name == "max" else min(arguments)
        if name == "mod":
            return x - arguments[1] * c.floor(x / arguments[1])
        if name in ("floor", "ceil"):
            return self._step(name, x)
        function = _FUNCTIONS.get(name)
        if function is None:
            raise UndefinedError(f"{name} is not computed")
        if name.startswith(("exp", "sin", "cos", "tan", "cot", "sec", "csc")) and abs(x) > MAX_ARGUMENT:
            raise TooBigError("an argument out of range")
        if name.startswith(("arc", "a")) and name not in ("abs", "arg", "arctan", "atan"):
            self.branched |= bool(c.im(x) != 0)
        try:
            value = getattr(c, function)(*arguments)
        except (ValueError, ZeroDivisionError) as error:
            raise UndefinedError(f"{name}: {error}") from error
        # The sine of a rounded π is not quite 0.
        return c.mpf(0) if abs(value) < self.precision.zero * abs(x) and abs(x) > 1 else value

    def _step(self, name: str, x: Any) -> Any:
        """Floor and ceiling; a value next to a whole number is that number."""
        nearest = self.c.floor(self.c.re(x) + 0.5)
        if abs(x - nearest) <= self.precision.step * max(1, abs(x)):
            if self.precision is FLOAT:
                raise PrecisionLostError
            return nearest
        return self.c.floor(x) if name == "floor" else self.c.ceil(x)

    def _root(self, x: Any, degree: Any) -> Any:
        if degree == 0:
            raise UndefinedError("a root of degree 0")
        if x == 0:
            return self.c.mpf(0)
        if self.c.im(x) == 0 and self.c.re(x) < 0 and self.c.isint(degree) and int(self.c.re(degree)) % 2 == 1:
            return -self.power(-x, 1 / degree)
        if degree == 2:
            self._slow()
            self.branched |= self._is_cut(x)
            return self.c.sqrt(x)
        return self.power(x, 1 / degree)

    def _logarithm(self, arguments: list[Any]) -> Any:
        if any(a == 0 for a in arguments) or arguments[1:] == [1]:
            raise UndefinedError("a logarithm that does not exist")
        self.branched |= any(map(self._is_cut, arguments))
        value = self.c.ln(arguments[0])
        return value / self.c.ln(arguments[1]) if len(arguments) == 2 else value

    def _series(self, tree: Tree) -> Any:
        """A finite sum or product; one with an unknown end is told from others by its body at three places."""
        _, name, index, low, high, body = tree
        first, outer = self.value(low), self.point.get(index[1])
        if high == ("sym", "∞") and self.c.isint(first):
            return self._limit(name, index[1], int(self.c.re(first)), body)
        last = None if high == ("sym", "∞") else self.value(high)
        whole = last is not None and self.c.isint(first) and self.c.isint(last) and last - first <= MAX_TERMS
        places = range(int(first), int(last) + 1) if whole else [self.c.mpf(p) / 16 for p in (23, 37, 53)]
        values = []
        for place in places:
            self.point[index[1]] = self.c.mpf(place)
            values.append(self.value(body))
        self.point.pop(index[1], None)
        if outer is not None:
            self.point[index[1]] = outer
        if not whole:
            return _unknown(name, [first, last if last is not None else self.c.mpf(77), *values])
        if name == "sum":
            return self._sum(values) if values else self.c.mpf(0)
        total = self.c.mpf(1)
        for value in values:
            total = self._in_range(total * value)
        return total

    def _limit(self, name: str, index: str, first: int, body: Tree) -> Any:
        """An infinite sum: its partial sums where they settle, else extrapolated twice to the same value."""
        if self.precision is not FINEST:
            raise PrecisionLostError
        if name != "sum":
            raise UndefinedError("an infinite product")
        sums: list[Any] = []
        for place in range(first, first + MAX_INFINITE_TERMS):
            self.point[index] = self.c.mpf(place)
            sums.append((sums[-1] if sums else 0) + self.value(body))
        del self.point[index]
        settled = abs(sums[-1] - sums[-20]) <= 1e-30 * abs(sums[-1])
        if settled:
            return sums[-1]
        value, other = self.c.richardson(sums[:120])[0], self.c.richardson(sums[:100])[0]
        if abs(value - other) > 1e-30 * abs(value):
            raise UndefinedError("an infinite sum that is not known")
        return value


def _unknown(name: str, arguments: list[Any]) -> Any:
    """A stand-in for a function nobody knows: different for different names and arguments, and no simple law."""
    seed = 3 + sum((i + 1) * ord(c) for i, c in enumerate(name)) % 89
    return sum((a * a * (seed + 2 * i) + 7 * a) / (seed + i) for i, a in enumerate(arguments)) + seed


_FUNCTIONS: dict[str, str] = {
    **{name: name for name in "sin cos tan cot sec csc sinh cosh tanh coth exp arg".split()},
    **{"arc" + n: "a" + n for n in "sin cos tan cot sec csc sinh cosh tanh".split()},
    **{"a" + n: "a" + n for n in "sin cos tan".split()},
    "abs": "absmin",
    "factorial": "factorial",
    "factorial2": "fac2",
    "binom": "binomial",
    "Re": "re",
    "Im": "im",
    "cbrt": "cbrt",
    "sgn": "sign",
}
