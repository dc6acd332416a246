"""Attention of packed segments as two compiled functions, forward and backward, for CPU and float32.

A segment's keys and values are packed once per key-value head, so that all products read rows of one piece; its
queries pass in strips of a few rows, all query heads of the key-value head together, and the scores of a strip stay
in the processor's first cache. Nothing beyond the diagonal is multiplied. Per query the largest score and one over the
sum are kept, and the probabilities made again in the backward (flash attention, Dao et al. 2022).

T tokens, H query heads, K key-value heads, D head width, S segments; a row is one query of one head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from deepscaler.vectors import (
    FLOAT,
    INT32,
    INT64,
    LANES,
    array,
    compiled,
    exponential,
    exponentials,
    folded,
    largest_of,
    part,
)

_ROWS = LANES // 2  # of a tile: two vectors of sums for each, and what is multiplied, fit into the registers
_BLOCK = 64  # rows whose gradients of keys and values are summed in registers, a multiple of _ROWS
_VECTOR = ir.VectorType(FLOAT, LANES)
_UNDEFINED = ir.Constant(_VECTOR, ir.Undefined)


def _at(builder: Any, address: Any, offset: int = 0, kind: Any = _VECTOR) -> Any:
    return builder.inttoptr(builder.add(address, INT64(offset)), kind.as_pointer())


def _broadcast(builder: Any, scalar: Any) -> Any:
    lane = builder.insert_element(_UNDEFINED, scalar, INT32(0))
    return builder.shuffle_vector(lane, _UNDEFINED, ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES))


def _tile(vectors: int) -> Any:
    """f(a, a_row, a_step, count, b, b_step, c, c_row, adds), addresses and distances in bytes:

    c[i, j] (+)= sum over r < count of a[i, r] * b[r, j], for i < _ROWS and j < vectors * LANES; adds: whether c counts.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, a_row, a_step, count, b, b_step, c, c_row, adds = arguments
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fma.v{LANES}f32"
        )
        factors, results = (
            [builder.add(x, builder.mul(distance, INT64(i))) for i in range(_ROWS)]
            for x, distance in ((a, a_row), (c, c_row))
        )
        offsets = [4 * LANES * v for v in range(vectors)]
        sums = [[cgutils.alloca_once(builder, _VECTOR) for _ in offsets] for _ in range(_ROWS)]
        places = [
            (cell, address, offset)
            for cells, address in zip(sums, results, strict=True)
            for cell, offset in zip(cells, offsets, strict=True)
        ]
        with builder.if_else(builder.icmp_signed("!=", adds, INT64(0))) as (then, otherwise):
            with then:
                for cell, address, offset in places:
                    builder.store(builder.load(_at(builder, address, offset), align=4), cell)
            with otherwise:
                for cell, _, _ in places:
                    builder.store(ir.Constant(_VECTOR, [0.0] * LANES), cell)
        with cgutils.for_range(builder, count) as loop:
            row, step = (builder.add(b, builder.mul(b_step, loop.index)), builder.mul(a_step, loop.index))
            parts = [builder.load(_at(builder, row, offset), align=4) for offset in offsets]
            for address, cells in zip(factors, sums, strict=True):
                factor = builder.load(_at(builder, builder.add(address, step), kind=FLOAT), align=4)
                factor = _broadcast(builder, factor)
                for vector, cell in zip(parts, cells, strict=True):
                    builder.store(builder.call(multiply_add, [factor, vector, builder.load(cell)]), cell)
        for cell, address, offset in places:
            builder.store(builder.load(cell), _at(builder, address, offset), align=4)
        return context.get_dummy_value()

    def tile(
        typing: Any, a: Any, a_row: Any, a_step: Any, count: Any, b: Any, b_step: Any, c: Any, c_row: Any, adds: Any
    ) -> Any:
        return types.void(*[types.int64] * 9), generate

    return intrinsic(tile)


_two_vectors, _one_vector = _tile(2), _tile(1)


@part
def _strip(
    a: int, a_row: int, a_step: int, count: int, b: int, b_step: int, c: int, c_row: int, columns: int, adds: int
) -> None:
    """`_tile` for any multiple of LANES of columns."""
    column = 0
    while column + 2 * LANES <= columns:
        _two_vectors(a, a_row, a_step, count, b + 4 * column, b_step, c + 4 * column, c_row, adds)
        column += 2 * LANES
    if column < columns:
        _one_vector(a, a_row, a_step, count, b + 4 * column, b_step, c + 4 * column, c_row, adds)


@intrinsic
def _transpose_tile(typing: Any, source: Any, source_row: Any, target: Any, target_row: Any) -> Any:
    """LANES x LANES numbers, addresses and distances in bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, source_row, target, target_row = arguments
        rows = [
            builder.load(_at(builder, builder.add(source, builder.mul(source_row, INT64(i)))), align=4)
            for i in range(LANES)
        ]
        half = LANES // 2
        while half:
            # Squares of `half` x `half` beside the diagonal change places.
            low = [lane if not lane & half else LANES + lane - half for lane in range(LANES)]
            high = [lane + half if not lane & half else LANES + lane for lane in range(LANES)]
            for i in (i for i in range(LANES) if not i & half):
                pair = rows[i], rows[i + half]
                rows[i], rows[i + half] = (
                    builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(INT32, LANES), order))
                    for order in (low, high)
                )
            half //= 2
        for i, row in enumerate(rows):
            builder.store(row, _at(builder, builder.add(target, builder.mul(target_row, INT64(i)))), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def _moved(lanes: int, *, adds: bool) -> Any:
    """f(source, target, count, scalar): target (+)= scalar * source, `count` vectors of `lanes`."""
    kind = ir.VectorType(FLOAT, lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target, count, scalar = arguments
        factor = ir.Constant(kind, ir.Undefined)
        for lane in range(lanes):
            factor = builder.insert_element(factor, scalar, INT32(lane))
        with cgutils.for_range(builder, count) as loop:
            offset = builder.mul(loop.index, INT64(4 * lanes))
            value = builder.load(_at(builder, builder.add(source, offset), kind=kind), align=4)
            at = _at(builder, builder.add(target, offset), kind=kind)
            value = builder.fmul(value, factor)
            builder.store(builder.fadd(value, builder.load(at, align=4)) if adds else value, at, align=4)
        return context.get_dummy_value()

    def moved(typing: Any, source: Any, target: Any, count: Any, scalar: Any) -> Any:
        return types.void(types.int64, types.int64, types.int64, types.float32), generate

    return intrinsic(moved)


def _row_function(*, adds: bool) -> Any:
    """f(source, target, width, scalar): `_moved` for any width."""
    vectors, rest = _moved(LANES, adds=adds), _moved(1, adds=adds)

    def row_function(source: int, target: int, width: int, scalar: float) -> None:
        whole = width // LANES
        vectors(source, target, whole, scalar)
        rest(source + 4 * LANES * whole, target + 4 * LANES * whole, width - LANES * whole, scalar)

    return part(row_function)


_scale_row, _add_row = _row_function(adds=False), _row_function(adds=True)


@intrinsic
def _dot(typing: Any, a: Any, b: Any, count: Any) -> Any:
    """Sum of the products of `count` vectors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b, count = arguments
        total = cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES))
        with cgutils.for_range(builder, count) as loop:
            offset = builder.mul(loop.index, INT64(4 * LANES))
            pair = [builder.load(_at(builder, builder.add(x, offset)), align=4) for x in (a, b)]
            builder.store(builder.fadd(builder.load(total), builder.fmul(*pair)), total)
        return folded(builder, builder.load(total), builder.fadd)

    return types.float32(*[types.int64] * 3), generate


@intrinsic
def _softmax_gradient(typing: Any, scores: Any, grads: Any, count: Any, largest: Any, share: Any, delta: Any) -> Any:
    """scores := p = exp(scores - largest) * share, and grads := p * (grads - delta), `count` vectors of a row."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scores, grads, count = arguments[:3]
        largest, share, delta = (_broadcast(builder, x) for x in arguments[3:])
        with cgutils.for_range(builder, count) as loop:
            offset = builder.mul(loop.index, INT64(4 * LANES))
            score, grad = (_at(builder, builder.add(x, offset)) for x in (scores, grads))
            p = builder.fmul(exponential(builder, builder.load(score, align=4), largest), share)
            builder.store(p, score, align=4)
            change = builder.fsub(builder.load(grad, align=4), delta)
            builder.store(builder.fmul(p, change), grad, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, *[types.float32] * 3), generate


@part
def _rounded(count: int, step: int) -> int:
    return (count + step - 1) // step * step


@part
def _stride(columns: int) -> int:
    """Numbers from row to row: an odd number of vectors, so that rows do not compete for places in the cache."""
    return (_rounded(columns, LANES) // LANES | 1) * LANES


@part
def _pack(x: Any, head: int, rows: Any, packed: Any) -> None:
    """Rows of x [T,K,D] of one head, one after the other."""
    for place in range(len(rows)):
        _scale_row(x[rows[place], head].ctypes.data, packed[place].ctypes.data, x.shape[2], np.float32(1.0))


@part
def _transpose(packed: Any, count: int, transposed: Any) -> None:
    """transposed [width, stride] of the first `count` rows; up to a whole vector with what else stands in `packed`."""
    row, target_row = 4 * packed.shape[1], 4 * transposed.shape[1]
    for first in range(0, count, LANES):
        for column in range(0, packed.shape[1], LANES):
            source = packed.ctypes.data + first * row + 4 * column
            _transpose_tile(source, row, transposed.ctypes.data + column * target_row + 4 * first, target_row)


_FLOATS, _NUMBERS = array(types.float32, 3), array(types.int64, 1)
_VIEW = array(types.float32, 3, "A")


@compiled(*[_VIEW] * 3, *[_NUMBERS] * 3, types.float32, *[_FLOATS] * 2)
def forward(
    query: Any,  # [T,H,D], rows of one piece
    key: Any,  # [T,K,D]
    value: Any,
    keys: Any,  # int64 [sum of L], the tokens that the segments' queries see, own tokens last
    ends: Any,  # int64 [S+1], where the tokens of each segment begin and end there
    before: Any,  # int64 [S], how many of them all queries of the segment see
    scaling: float,
    out: Any,  # [T,H,D]
    statistics: Any,  # [T,H,2], largest score and one over the sum of all exponentials
) -> None:
    """out := softmax of scaling * query x key, times value, causally over each segment's keys."""
    width, kv_heads = query.shape[2], key.shape[1]
    group, wide, most = query.shape[1] // kv_heads, _rounded(width, LANES), 0
    for segment in range(len(before)):
        most = max(most, ends[segment + 1] - ends[segment])
    stride = _stride(most)
    packed_keys, packed_values = np.zeros((2, _rounded(most, LANES), wide), np.float32)
    turned_keys, scores = np.empty((wide, stride), np.float32), np.zeros((_ROWS, stride), np.float32)
    queries, results = np.zeros((2, _ROWS, wide), np.float32)
    for segment in range(len(before)):
        rows = keys[ends[segment] : ends[segment + 1]]
        own = rows[before[segment] :]
        for head in range(kv_heads):
            _pack(key, head, rows, packed_keys)
            _pack(value, head, rows, packed_values)
            _transpose(packed_keys, len(rows), turned_keys)
            for first in range(0, group * len(own), _ROWS):
                count = min(_ROWS, group * len(own) - first)
                visible = before[segment] + (first + count - 1) // group + 1
                columns = _rounded(visible, LANES)
                for i in range(count):
                    token, of_group = divmod(first + i, group)
                    source = query[own[token], head * group + of_group].ctypes.data
                    _scale_row(source, queries[i].ctypes.data, width, scaling)
                _strip(
                    queries.ctypes.data, 4 * wide, 4, wide, turned_keys.ctypes.data, 4 * stride,
                    scores.ctypes.data, 4 * stride, columns, 0,
                )  # fmt: skip
                for i in range(count):
                    token, of_group = divmod(first + i, group)
                    seen, at = before[segment] + token + 1, scores[i].ctypes.data
                    vectors = (seen + LANES - 1) // LANES
                    scores[i, seen : vectors * LANES] = -np.inf
                    largest = largest_of(at, vectors, np.float32(0.0))
                    share = np.float32(1.0) / exponentials(at, vectors, largest)
                    scores[i, seen:columns] = np.float32(0.0)
                    statistics[own[token], head * group + of_group, 0] = largest
                    statistics[own[token], head * group + of_group, 1] = share
                _strip(
                    scores.ctypes.data, 4 * stride, 4, visible, packed_values.ctypes.data, 4 * wide,
                    results.ctypes.data, 4 * wide, wide, 0,
                )  # fmt: skip
                for i in range(count):
                    token, of_group = divmod(first + i, group)
                    place = out[own[token], head * group + of_group]
                    share = statistics[own[token], head * group + of_group, 1]
                    _scale_row(results[i].ctypes.data, place.ctypes.data, width, share)


@compiled(*[_VIEW] * 4, *[_FLOATS] * 2, *[_NUMBERS] * 3, types.float32, *[_FLOATS] * 3)
def backward(
    grad: Any,  # [T,H,D] of the output
    query: Any,  # as in `forward`
    key: Any,
    value: Any,
    out: Any,
    statistics: Any,
    keys: Any,
    ends: Any,
    before: Any,
    scaling: float,
    grad_query: Any,  # [T,H,D]
    grad_key: Any,  # [T,K,D] zeros
    grad_value: Any,
) -> None:
    """Gradients of `forward`; those of shared keys add up in the order of segments."""
    width, kv_heads = query.shape[2], key.shape[1]
    group, wide, most = query.shape[1] // kv_heads, _rounded(width, LANES), 0
    for segment in range(len(before)):
        most = max(most, ends[segment + 1] - ends[segment])
    stride = _stride(most)
    packed_keys, packed_values, key_sums, value_sums = np.zeros((4, _rounded(most, LANES), wide), np.float32)
    turned_keys, turned_values = np.empty((2, wide, stride), np.float32)
    scores, changes = np.zeros((2, _BLOCK, stride), np.float32)
    queries, grads = np.zeros((2, _BLOCK, wide), np.float32)
    results, deltas = np.zeros((_ROWS, wide), np.float32), np.empty(_BLOCK, np.float32)
    for segment in range(len(before)):
        rows = keys[ends[segment] : ends[segment + 1]]
        own = rows[before[segment] :]
        for head in range(kv_heads):
            _pack(key, head, rows, packed_keys)
            _pack(value, head, rows, packed_values)
            _transpose(packed_keys, len(rows), turned_keys)
            _transpose(packed_values, len(rows), turned_values)
            key_sums[: len(rows)] = np.float32(0.0)
            value_sums[: len(rows)] = np.float32(0.0)
            for start in range(0, group * len(own), _BLOCK):
                size = min(_BLOCK, group * len(own) - start)
                for i in range(size):
                    token, of_group = divmod(start + i, group)
                    row, column = own[token], head * group + of_group
                    _scale_row(query[row, column].ctypes.data, queries[i].ctypes.data, width, scaling)
                    _scale_row(grad[row, column].ctypes.data, grads[i].ctypes.data, width, np.float32(1.0))
                    _scale_row(out[row, column].ctypes.data, results.ctypes.data, width, np.float32(1.0))
                    deltas[i] = _dot(grads[i].ctypes.data, results.ctypes.data, wide // LANES)
                for first in range(0, size, _ROWS):
                    count = min(_ROWS, size - first)
                    visible = before[segment] + (start + first + count - 1) // group + 1
                    columns = _rounded(visible, LANES)
                    _strip(
                        queries[first].ctypes.data, 4 * wide, 4, wide, turned_keys.ctypes.data, 4 * stride,
                        scores[first].ctypes.data, 4 * stride, columns, 0,
                    )  # fmt: skip
                    _strip(
                        grads[first].ctypes.data, 4 * wide, 4, wide, turned_values.ctypes.data, 4 * stride,
                        changes[first].ctypes.data, 4 * stride, columns, 0,
                    )  # fmt: skip
                    for i in range(first, first + count):
                        token, of_group = divmod(start + i, group)
                        row, column = own[token], head * group + of_group
                        seen = before[segment] + token + 1
                        _softmax_gradient(
                            scores[i].ctypes.data, changes[i].ctypes.data, (seen + LANES - 1) // LANES,
                            statistics[row, column, 0], statistics[row, column, 1], deltas[i],
                        )  # fmt: skip
                        scores[i, seen:columns] = np.float32(0.0)
                        changes[i, seen:columns] = np.float32(0.0)
                    _strip(
                        changes[first].ctypes.data, 4 * stride, 4, visible, packed_keys.ctypes.data, 4 * wide,
                        results.ctypes.data, 4 * wide, wide, 0,
                    )  # fmt: skip
                    for i in range(count):
                        token, of_group = divmod(start + first + i, group)
                        place = grad_query[own[token], head * group + of_group].ctypes.data
                        _scale_row(results[i].ctypes.data, place, width, scaling)
                visible = before[segment] + (start + size - 1) // group + 1
                for first in range(0, visible, _ROWS):
                    unseeing = max(0, (first - before[segment]) * group - start)
                    for x, y, sums in ((changes, queries, key_sums), (scores, grads, value_sums)):
                        _strip(
                            x[unseeing:, first:].ctypes.data, 4, 4 * stride, size - unseeing,
                            y[unseeing].ctypes.data, 4 * wide, sums[first].ctypes.data, 4 * wide, wide, 1,
                        )  # fmt: skip
            for i in range(len(rows)):
                _add_row(key_sums[i].ctypes.data, grad_key[rows[i], head].ctypes.data, width, np.float32(1.0))
                _add_row(value_sums[i].ctypes.data, grad_value[rows[i], head].ctypes.data, width, np.float32(1.0))
