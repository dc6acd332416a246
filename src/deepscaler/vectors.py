"""What the functions that numba compiles for CPU are written with: vectors of float32, and a copy on disk.

Compilers do not find the innermost loops, so they are written in LLVM's vectors, as wide as the processor's. Compiled
functions are kept in a folder named after the text of this file and their own: import nothing else that is compiled
into them, or a changed part would not be noticed.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8  # float32 in a vector
FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
BYTES = ir.IntType(8).as_pointer()
# Everything but what would lose infinities and NaN: non-finite numbers must reach the logits, where they are noticed.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
}
# 2**f for -0.5 <= f <= 0.5, highest power first: Taylor, error below that of float32.
_POWERS = tuple(math.log(2) ** n / math.factorial(n) for n in range(6, -1, -1))

part = njit(**_OPTIONS)  # of a compiled function, compiled into it


def compiled(*signature: Any) -> Callable[[Any], Any]:
    """Compiled when its module is imported, or taken from disk where a folder can be written."""

    def compile_(function: Any) -> Any:
        before, config.CACHE_DIR = config.CACHE_DIR, str(_folder(Path(inspect.getfile(function))))
        try:
            return njit(types.void(*signature), cache=True, **_OPTIONS)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return njit(types.void(*signature), **_OPTIONS)(function)
        finally:
            config.CACHE_DIR = before

    return compile_


def _folder(source: Path) -> Path:
    """Beside the sources, or among the user's files where an installation is not theirs to write."""
    text = hashlib.sha256(Path(__file__).read_bytes() + source.read_bytes()).hexdigest()[:16]
    beside = source.parent / "__pycache__"
    if not os.access(beside if beside.exists() else beside.parent, os.W_OK):
        beside = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepscaler"
    return beside / f"{source.stem}-{text}"


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
        lane = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, INT32(0))
        none = ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES)
        scalars = builder.shuffle_vector(lane, ir.Constant(vector, ir.Undefined), none)
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
    """exp(value - subtracted) = 2**(whole + rest), where `whole` is written into the exponent. NaN stays NaN."""
    vector, integers = value.type, ir.VectorType(INT32, LANES)

    def constant(number: float) -> Any:
        return ir.Constant(vector, [number] * LANES)

    def call(name: str, *arguments: Any) -> Any:
        kind = ir.FunctionType(vector, [vector] * len(arguments))
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), arguments)

    power = builder.fmul(builder.fsub(value, subtracted), constant(math.log2(math.e)))
    power = builder.select(builder.fcmp_ordered("<", power, constant(-126.0)), constant(-126.0), power)
    whole = call("floor", builder.fadd(power, constant(0.5)))
    rest = builder.fsub(power, whole)
    result = constant(_POWERS[0])
    for coefficient in _POWERS[1:]:
        result = call("fma", result, rest, constant(coefficient))
    exponent = builder.add(builder.fptosi(whole, integers), ir.Constant(integers, [127] * LANES))
    exponent = builder.shl(exponent, ir.Constant(integers, [23] * LANES))
    return builder.fmul(result, builder.bitcast(exponent, vector))
