"""Building blocks of the CPU kernels that numba compiles: vectors of float32, device functions, kernels on disk.

LLVM does not vectorize the innermost loops by itself, so they are written in its vector instructions, as wide as the
processor's. Kernels are kept on disk in a folder named after the text of the modules in `disk_cache.SHARED` and of
their own: import no other device code into a kernel, or a change of it would go unnoticed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.core.base import BaseContext
from numba.core.typing.templates import Signature
from numba.extending import intrinsic
from numpy.typing import NDArray

from deepscaler.cpu.kernels import disk_cache

LANES = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8  # float32 in a vector
FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
# All but the flags that lose infinities and NaN: non-finite numbers must reach the logits, where they are noticed.
_FASTMATH = ("contract", "reassoc", "nsz", "arcp")
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(_FASTMATH)}
# exp for |x| <= log(2) / 2, highest power first: Taylor, error below that of float32.
_POWERS = tuple(1 / math.factorial(n) for n in range(6, -1, -1))
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06  # the first has few bits: its multiples are exact

Float32Array, Int64Array = NDArray[np.float32], NDArray[np.int64]
Builder: TypeAlias = Any  # ir.IRBuilder; type checkers see None in the results of its decorated methods
Typed: TypeAlias = Any  # ir.Value of a vector type, whose number of lanes llvmlite declares nowhere
Combine = Callable[..., ir.Value]  # (builder, a, b, flags) -> a and b combined
T = TypeVar("T")


def device_function(function: Callable[..., T]) -> Callable[..., T]:
    """Decorator: a function that is compiled into the kernels that call it."""
    return njit(**_OPTIONS)(function)


def kernel(*signature: types.Type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: a function that Python calls, loaded from disk on import, where a child process compiled it.

    Raises RuntimeError when it cannot be compiled or loaded.
    """

    def compile_(function: Callable[..., None]) -> Callable[..., None]:
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


def array(kind: types.Type, dimensions: int, layout: str = "C") -> types.Array:
    return types.Array(kind, dimensions, layout)


def device_intrinsic(
    generate: Callable[..., ir.Value | None], kinds: Sequence[types.Type], result: types.Type = types.void
) -> Callable[..., Any]:
    """A device function written in LLVM: generate(builder, *arguments) emits it and returns its result, if any."""

    def emit(context: BaseContext, builder: Builder, signature: object, arguments: Sequence[ir.Value]) -> ir.Value:
        value = generate(builder, *arguments)
        return context.get_dummy_value() if value is None else value

    def function(typing: object, *arguments: object) -> tuple[Signature, Callable[..., ir.Value]]:
        return result(*kinds), emit

    # numba reads the number of arguments from here; it takes no `*arguments`.
    names = ["typing", *(f"argument_{i}" for i in range(len(kinds)))]
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return intrinsic(function)


def broadcast(builder: Builder, scalar: ir.Value, vector: ir.VectorType) -> Typed:
    """A vector of that type with the scalar in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    lane = builder.insert_element(undefined, scalar, INT32(0))
    return builder.shuffle_vector(lane, undefined, ir.Constant(ir.VectorType(INT32, vector.count), [0] * vector.count))


def reduce_lanes(builder: Builder, vector: Typed, combine: Combine) -> ir.Value:
    """All lanes of a vector combined in pairs, as a scalar."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        halves = [ir.Constant(ir.VectorType(INT32, lanes), list(range(i, i + lanes))) for i in (0, lanes)]
        undefined = ir.Constant(vector.type, ir.Undefined)
        vector = combine(builder, *(builder.shuffle_vector(vector, undefined, half) for half in halves))
    return builder.extract_element(vector, INT32(0))


def add(builder: Builder, a: ir.Value, b: ir.Value, flags: Sequence[str] = ()) -> ir.Value:
    return builder.fadd(a, b, flags=flags)


def larger(builder: Builder, a: ir.Value, b: ir.Value, flags: Sequence[str] = ()) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


class Vector:
    """Vector values of a device function that is being written: arithmetic with other vectors and with constants."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: Builder, value: Typed) -> None:
        self.builder, self.value = builder, value

    def _with(self, operation: str, left: Vector | float, right: Vector | float) -> Vector:
        sides = [side if isinstance(side, Vector) else self._constant(side) for side in (left, right)]
        return Vector(self.builder, getattr(self.builder, operation)(*(s.value for s in sides), flags=_FASTMATH))

    def _constant(self, number: float) -> Vector:
        return Vector(self.builder, ir.Constant(self.value.type, [number] * self.value.type.count))

    def _call(self, name: str, *others: Vector) -> Vector:
        kind = ir.FunctionType(self.value.type, [self.value.type] * (1 + len(others)))
        function = f"llvm.{name}.v{self.value.type.count}f32"
        declared = cgutils.get_or_insert_function(self.builder.module, kind, function)
        return Vector(self.builder, self.builder.call(declared, [self.value, *(other.value for other in others)]))

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

    def clamp(self, lowest: float, highest: float) -> Vector:
        """NaN stays NaN."""
        value, builder = self.value, self.builder
        for sign, limit in (("<", lowest), (">", highest)):
            bound = self._constant(limit).value
            value = builder.select(builder.fcmp_ordered(sign, value, bound), bound, value)
        return Vector(builder, value)

    def exp(self) -> Vector:
        """2**whole * exp(rest), where `whole` is written into the exponent; 0 below 2**-126, never above e**88."""
        builder, lanes = self.builder, self.value.type.count
        lowest = -126 * math.log(2)
        power = self.clamp(lowest, 88.0)
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


Reduction = tuple[float, Combine]
SUM, MAX = (0.0, add), (-math.inf, larger)  # reductions: initial value, and how two values are combined


def elementwise(
    step: Callable[..., Vector | tuple[Vector, ...]],
    *,
    inputs: int,
    outputs: int = 0,
    scalars: int = 0,
    reduce: Reduction | None = None,
) -> Callable[..., Any]:
    """f(count, *input addresses, *output addresses, *scalars): `step` for each of `count` float32 of every input.

    step(*inputs, *scalars), all `Vector`, returns one `Vector` for every output, and one more with `reduce`: f returns
    its sum (SUM) or maximum (MAX) over all elements. An output may be an input.
    """

    def generate(builder: Builder, count: ir.Value, *arguments: ir.Value) -> ir.Value | None:
        addresses, numbers = arguments[: inputs + outputs], arguments[inputs + outputs :]
        whole, totals = builder.and_(count, INT64(-LANES)), []
        for lanes, start, stop in ((LANES, INT64(0), whole), (1, whole, count)):
            vector = ir.VectorType(FLOAT, lanes)
            constants = [Vector(builder, broadcast(builder, x, vector)) for x in numbers]
            total = cgutils.alloca_once_value(builder, ir.Constant(vector, [reduce[0] if reduce else 0.0] * lanes))
            with cgutils.for_range_slice(builder, start, stop, INT64(lanes)) as (index, _):
                offset = builder.shl(index, INT64(2))
                places = [builder.inttoptr(builder.add(a, offset), vector.as_pointer()) for a in addresses]
                values = [Vector(builder, builder.load(place, align=4)) for place in places[:inputs]]
                results = step(*values, *constants)
                results = list(results) if isinstance(results, tuple) else [results]
                if reduce:
                    builder.store(reduce[1](builder, builder.load(total), results.pop().value, _FASTMATH), total)
                for value, place in zip(results, places[inputs:], strict=True):
                    builder.store(value.value, place, align=4)
            totals.append(total)
        if reduce:
            return reduce[1](builder, *(reduce_lanes(builder, builder.load(x), reduce[1]) for x in totals))
        return None

    kinds = [types.int64] * (1 + inputs + outputs) + [types.float32] * scalars
    return device_intrinsic(generate, kinds, types.float32 if reduce else types.void)
