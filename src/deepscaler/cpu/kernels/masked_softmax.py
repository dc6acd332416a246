"""Softmax of a row of attention scores of which the first `seen` count, and its gradient, for kernels: float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from deepscaler.cpu.kernels.tiles import VECTOR, pointer
from deepscaler.cpu.kernels.vectors import (
    FLOAT,
    INT32,
    INT64,
    LANES,
    Builder,
    Typed,
    Vector,
    add,
    broadcast,
    device_intrinsic,
    larger,
    reduce_lanes,
)

Select = Callable[[ir.Value, float], ir.Value]


def _softmax(builder: Builder, scores: ir.Value, seen: ir.Value, statistics: ir.Value) -> None:
    most = cgutils.alloca_once_value(builder, ir.Constant(VECTOR, [-np.inf] * LANES))
    total = cgutils.alloca_once_value(builder, ir.Constant(VECTOR, [0.0] * LANES))

    def compare(offset: ir.Value, select: Select) -> None:
        value = builder.load(pointer(builder, builder.add(scores, offset)), align=4)
        builder.store(larger(builder, builder.load(most), select(value, -np.inf)), most)

    _for_each_vector(builder, seen, compare)
    largest = reduce_lanes(builder, builder.load(most), larger)
    subtracted = broadcast(builder, largest, VECTOR)

    def change(offset: ir.Value, select: Select) -> None:
        at = pointer(builder, builder.add(scores, offset))
        value = select(_exp(builder, builder.load(at, align=4), subtracted), 0.0)
        builder.store(value, at, align=4)
        builder.store(builder.fadd(builder.load(total), value), total)

    _zero_after(builder, scores, _for_each_vector(builder, seen, change))
    inverse = builder.fdiv(FLOAT(1.0), reduce_lanes(builder, builder.load(total), add))
    builder.store(largest, pointer(builder, statistics, kind=FLOAT), align=4)
    builder.store(inverse, pointer(builder, statistics, 4, FLOAT), align=4)


def _softmax_gradient(
    builder: Builder, scores: ir.Value, grads: ir.Value, seen: ir.Value, statistics: ir.Value, delta: ir.Value
) -> None:
    largest, inverse = (builder.load(pointer(builder, statistics, offset, FLOAT), align=4) for offset in (0, 4))
    largest, inverse, delta = (broadcast(builder, x, VECTOR) for x in (largest, inverse, delta))

    def change(offset: ir.Value, select: Select) -> None:
        score, grad = (pointer(builder, builder.add(x, offset)) for x in (scores, grads))
        p = builder.fmul(_exp(builder, builder.load(score, align=4), largest), inverse)
        builder.store(select(p, 0.0), score, align=4)
        difference = builder.fsub(builder.load(grad, align=4), delta)
        builder.store(select(builder.fmul(p, difference), 0.0), grad, align=4)

    last = _for_each_vector(builder, seen, change)
    for row in (scores, grads):
        _zero_after(builder, row, last)


def _for_each_vector(builder: Builder, seen: ir.Value, step: Callable[[ir.Value, Select], None]) -> ir.Value:
    """step(offset in bytes, select) for every vector of the first `seen` numbers of a row; the last offset.

    select(value, other) puts `other` beyond them. The last vector may lie beyond them altogether: so no jump depends
    on the number.
    """
    whole = builder.udiv(seen, INT64(LANES))
    with cgutils.for_range(builder, whole) as loop:
        step(builder.mul(loop.index, INT64(4 * LANES)), lambda value, other: value)
    kind = ir.VectorType(INT32, LANES)
    rest = broadcast(builder, builder.trunc(builder.urem(seen, INT64(LANES)), INT32), kind)
    counts = builder.icmp_signed("<", ir.Constant(kind, list(range(LANES))), rest)
    last = builder.mul(whole, INT64(4 * LANES))
    step(last, lambda value, other: builder.select(counts, value, ir.Constant(VECTOR, [other] * LANES)))
    return last


def _zero_after(builder: Builder, row: ir.Value, last: ir.Value) -> None:
    """The vector after the last one, which a strip reads too."""
    builder.store(ir.Constant(VECTOR, [0.0] * LANES), pointer(builder, builder.add(row, last), 4 * LANES), align=4)


def _exp(builder: Builder, value: Typed, subtracted: Typed) -> ir.Value:
    return (Vector(builder, value) - Vector(builder, subtracted)).exp().value


# f(scores, seen, statistics), addresses: scores := exp(scores - largest), 0 beyond `seen`; statistics := largest and
# one over the sum.
softmax = device_intrinsic(_softmax, [types.int64] * 3)
# f(scores, grads, seen, statistics, delta): scores := p = exp(scores - largest) / sum, and grads := p * (grads -
# delta), 0 beyond `seen`.
softmax_gradient = device_intrinsic(_softmax_gradient, [*[types.int64] * 4, types.float32])
