"""What the functions that numba compiles for CPU are written with: vectors of float32, and a copy on disk.

Compilers do not find the innermost loops, so they are written in LLVM's vectors, as wide as the processor's. Compiled
functions are kept on disk in a folder named after the text of this file, of `tiles` and their own (`disk_cache`):
import nothing else that is compiled into them, or a changed part would not be noticed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic

from deepscaler.compiled import disk_cache

LANES = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8  # float32 in a vector
FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
BYTES = ir.IntType(8).as_pointer()
# Everything but what would lose infinities and NaN: non-finite numbers must reach the logits, where they are noticed.
_FASTMATH = ("contract", "reassoc", "nsz", "arcp")
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(_FASTMATH)}
# exp for |x| <= log(2) / 2, highest power first: Taylor, error below that of float32.
_POWERS = tuple(1 / math.factorial(n) for n in range(6, -1, -1))
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06  # the first has few bits: its multiples are exact

part = njit(**_OPTIONS)  # of a compiled function, compiled into it


def compiled(*signature: Any) -> Callable[[Any], Any]:
    """Loaded from disk when its module is imported, where a child process has put it if nobody had before.

    Raises RuntimeError when it cannot be compiled or loaded.
    """

    def compile_(function: Any) -> Any:
        source = Path(inspect.getfile(function))
        disk_cache.ensure([source])
        settings: Any = config  # filled at run time
        before, settings.CACHE_DIR = settings.CACHE_DIR, str(disk_cache.place(source))
        try:
            dispatcher = njit(types.void(*signature), cache=True, **_OPTIONS)(function)
        finally:
            settings.CACHE_DIR = before
        disk_cache.check_loaded(source, sum(dispatcher.stats.cache_hits.values()))
        return dispatcher

    return compile_


def array(kind: Any, dimensions: int, layout: str = "C") -> Any:
    return types.Array(kind, dimensions, layout)


def folded(builder: Any, vector: Any, combine: Any) -> Any:
    """All lanes of a vector combined in pairs, as a scalar."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        halves = [ir.Constant(ir.VectorType(INT32, lanes), list(range(i, i + lanes))) for i in (0, lanes)]
        undefined = ir.Constant(vector.type, ir.Undefined)
        vector = combine(*(builder.shuffle_vector(vector, undefined, half) for half in halves))
    return builder.extract_element(vector, INT32(0))


def over_vectors(first: float, step: Any, combine: Any) -> Any:
    """f(address, count, scalar): all `count` vectors of float32 from there on combined, each changed by `step`."""
    vector = ir.VectorType(FLOAT, LANES)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, count, scalar = arguments
        found = cgutils.alloca_once_value(builder, ir.Constant(vector, [first] * LANES))
        scalars = in_all_lanes(builder, scalar, vector)
        with cgutils.for_range(builder, count) as loop:
            offset = builder.mul(loop.index, INT64(4 * LANES))
            at = builder.inttoptr(builder.add(address, offset), vector.as_pointer())
            value = builder.load(at, align=4)
            changed = step(builder, value, scalars)
            if changed is not value:
                builder.store(changed, at, align=4)
            builder.store(combine(builder, builder.load(found), changed), found)
        return folded(builder, builder.load(found), lambda a, b: combine(builder, a, b))

    def over_vectors(typing: Any, address: Any, count: Any, scalar: Any) -> Any:
        return types.float32(types.int64, types.int64, types.float32), generate

    return intrinsic(over_vectors)


def larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


def exponential(builder: Any, value: Any, subtracted: Any) -> Any:
    """exp(value - subtracted) as `Vector.exp`."""
    return (Vector(builder, value) - Vector(builder, subtracted)).exp().value


class Vector:
    """Numbers of a function that is being written, one in each lane: arithmetic with others and with constants."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _with(self, operation: str, left: Vector | float, right: Vector | float) -> Vector:
        sides = [side if isinstance(side, Vector) else self._constant(side) for side in (left, right)]
        return Vector(self.builder, getattr(self.builder, operation)(*(s.value for s in sides), flags=_FASTMATH))

    def _constant(self, number: float) -> Vector:
        return Vector(self.builder, ir.Constant(self.value.type, [number] * self.value.type.count))

    def _call(self, name: str, *others: Vector) -> Vector:
        kind = ir.FunctionType(self.value.type, [self.value.type] * (1 + len(others)))
        function = f"llvm.{name}.v{self.value.type.count}f32"
        values = [self.value, *(other.value for other in others)]
        return Vector(
            self.builder,
            self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, function), values),
        )

    def __add__(self, other: Vector | float) -> Vector:
        return self._with("fadd", self, other)

    def __sub__(self, other: Vector | float) -> Vector:
        return self._with("fsub", self, other)

    def __mul__(self, other: Vector | float) -> Vector:
        return self._with("fmul", self, other)

    def __rsub__(self, other: float) -> Vector:
        return self._with("fsub", other, self)

    def __rtruediv__(self, other: float) -> Vector:
        return self._with("fdiv", other, self)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Vector:
        return self * -1.0

    def within(self, lowest: float, highest: float) -> Vector:
        """Clamped; NaN stays NaN."""
        value, builder = self.value, self.builder
        for sign, limit in (("<", lowest), (">", highest)):
            bound = self._constant(limit).value
            value = builder.select(builder.fcmp_ordered(sign, value, bound), bound, value)
        return Vector(builder, value)

    def exp(self) -> Vector:
        """2**whole * exp(rest), where `whole` is written into the exponent; 0 below 2**-126, never above e**88."""
        builder, lanes = self.builder, self.value.type.count
        lowest = -126 * math.log(2)
        power = self.within(lowest, 88.0)
        whole = (power * math.log2(math.e) + 0.5)._call("floor")
        rest = power - whole * _LN2_HIGH - whole * _LN2_LOW
        result = self._constant(_POWERS[0])
        for coefficient in _POWERS[1:]:
            result = result._call("fma", rest, self._constant(coefficient))
        integers = ir.VectorType(INT32, lanes)
        exponent = builder.add(builder.fptosi(whole.value, integers), ir.Constant(integers, [127] * lanes))
        exponent = builder.shl(exponent, ir.Constant(integers, [23] * lanes))
        result = result * Vector(builder, builder.bitcast(exponent, self.value.type))
        vanishes = builder.fcmp_ordered("<", self.value, self._constant(lowest).value)
        return Vector(builder, builder.select(vanishes, self._constant(0.0).value, result.value))


def rowwise(step: Callable[..., Any], *, inputs: int, outputs: int = 0, scalars: int = 0, total: bool = False) -> Any:
    """f(count, *input addresses, *output addresses, *scalars): `step` for each of `count` float32 of every input.

    step(*inputs, *scalars), all `Vector`, returns one `Vector` for every output, and with `total` one more, the sum
    of which over all elements f returns. An output may be an input.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        count, addresses = arguments[0], arguments[1 : 1 + inputs + outputs]
        whole = builder.and_(count, INT64(-LANES))
        sums = []
        for lanes, start, stop in ((LANES, INT64(0), whole), (1, whole, count)):
            vector = ir.VectorType(FLOAT, lanes)
            numbers = [Vector(builder, in_all_lanes(builder, x, vector)) for x in arguments[1 + inputs + outputs :]]
            found = cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * lanes))
            with cgutils.for_range_slice(builder, start, stop, INT64(lanes)) as (index, _):
                offset = builder.shl(index, INT64(2))
                places = [builder.inttoptr(builder.add(a, offset), vector.as_pointer()) for a in addresses]
                values = [Vector(builder, builder.load(place, align=4)) for place in places[:inputs]]
                results = step(*values, *numbers)
                results = list(results) if isinstance(results, tuple) else [results]
                if total:
                    builder.store((Vector(builder, builder.load(found)) + results.pop()).value, found)
                for result, place in zip(results, places[inputs:], strict=True):
                    builder.store(result.value, place, align=4)
            sums.append((lanes, found))
        if not total:
            return context.get_dummy_value()
        parts = [folded(builder, builder.load(x), builder.fadd) if n > 1 else builder.load(x) for n, x in sums]
        return builder.fadd(parts[0], builder.extract_element(parts[1], INT32(0)))

    kinds = [types.int64] * (1 + inputs + outputs) + [types.float32] * scalars
    result = types.float32 if total else types.void

    def rowwise(typing: Any, *arguments: Any) -> Any:
        return result(*kinds), generate

    # numba reads the number of arguments from here; it takes no `*arguments`.
    names = ["typing", *(f"argument_{i}" for i in range(len(kinds)))]
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    rowwise.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return intrinsic(rowwise)


def in_all_lanes(builder: Any, scalar: Any, vector: Any) -> Any:
    """A scalar as a vector of that type."""
    undefined = ir.Constant(vector, ir.Undefined)
    lane = builder.insert_element(undefined, scalar, INT32(0))
    return builder.shuffle_vector(lane, undefined, ir.Constant(ir.VectorType(INT32, vector.count), [0] * vector.count))
