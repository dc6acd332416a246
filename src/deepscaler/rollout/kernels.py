"""Attention of one new token per sequence as one compiled function, for CPU and float32.

A block is read from memory once for all query heads that share a key-value head, at the rate of memory; torch's
operators read it once per head, or at a third of that rate (docs/experiments.md). numba compiles the function at its
first call (a second) and keeps it on disk. The innermost loop is written in LLVM's vectors, since compilers do not
find it: several rows of weights times one row of the cache, sums in registers. All in one file, since the copy on disk
is renewed when the file of the compiled function changes.

N sequences, M blocks in use by them, H query heads, K key-value heads, D head width, B tokens in a block.
"""

from __future__ import annotations

import math
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))
LANES = 16 if _WIDE else 8  # float32 in a vector
_VECTORS = 4 if _WIDE else 2  # of each row at a time, so that the sums of four heads fit into the registers
_AHEAD = 4096  # bytes between what is read and what is fetched for later
_SECTION = 32  # blocks whose scores are kept before their values are read: long runs of memory, few scores
_FLOAT, _INT32, _INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
# Everything but what would lose infinities and NaN: non-finite numbers must reach the logits, where they are noticed.
_MATHS = {"contract", "reassoc", "nsz", "arcp"}
_part = njit(nogil=True, error_model="numpy", fastmath=_MATHS)
# 2**f for -0.5 <= f <= 0.5, highest power first: Taylor, error below that of float32.
_POWERS = tuple(math.log(2) ** n / math.factorial(n) for n in range(6, -1, -1))


def _sums_of_rows(heads: int, lanes: int, vectors: int) -> Any:
    """f(rows, stride, count, weights, weight_stride, out, out_stride), addresses and numbers of float32:

    out[h, c] = sum over r < count of weights[h, r] * rows[r, c], for h < heads and c < lanes * vectors.
    """
    vector = ir.VectorType(_FLOAT, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first_lane = ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, stride, count, weights, weight_stride, out, out_stride = arguments
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f32"
        )
        fetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [_BYTES, _INT32, _INT32, _INT32]), "llvm.prefetch.p0"
        )

        def moved(address: Any, floats: Any) -> Any:
            return builder.add(address, builder.shl(floats, _INT64(2)))

        def pointer(address: Any, offset: int, to: Any) -> Any:
            return builder.inttoptr(builder.add(address, _INT64(offset)), to)

        offsets = [4 * lanes * v for v in range(vectors)]
        head_weights = [moved(weights, builder.mul(weight_stride, _INT64(h))) for h in range(heads)]
        head_outs = [moved(out, builder.mul(out_stride, _INT64(h))) for h in range(heads)]
        sums = [[cgutils.alloca_once(builder, vector) for _ in offsets] for _ in range(heads)]
        for cell in (cell for row in sums for cell in row):
            builder.store(ir.Constant(vector, [0.0] * lanes), cell)
        with cgutils.for_range(builder, count) as loop:
            row = moved(rows, builder.mul(stride, loop.index))
            parts = [builder.load(pointer(row, offset, vector.as_pointer()), align=4) for offset in offsets]
            for offset in offsets[:: max(1, 16 // lanes)]:
                builder.call(fetch, [pointer(row, offset + _AHEAD, _BYTES), _INT32(0), _INT32(3), _INT32(1)])
            for address, cells in zip(head_weights, sums, strict=True):
                weight = builder.load(builder.inttoptr(moved(address, loop.index), _FLOAT.as_pointer()))
                lane = builder.insert_element(undefined, weight, _INT32(0))
                weight = builder.shuffle_vector(lane, undefined, first_lane)
                for part, cell in zip(parts, cells, strict=True):
                    builder.store(builder.call(multiply_add, [weight, part, builder.load(cell)]), cell)
        for address, cells in zip(head_outs, sums, strict=True):
            for offset, cell in zip(offsets, cells, strict=True):
                builder.store(builder.load(cell), pointer(address, offset, vector.as_pointer()), align=4)
        return context.get_dummy_value()

    def sums_of_rows(
        typing: Any, rows: Any, stride: Any, count: Any, weights: Any, weight_stride: Any, out: Any, out_stride: Any
    ) -> Any:
        return types.void(*[types.int64] * 7), generate

    return intrinsic(sums_of_rows)


def _tiles(heads: int) -> Any:
    """`_sums_of_rows` for rows of any `width`."""
    many, one, rest = _sums_of_rows(heads, LANES, _VECTORS), _sums_of_rows(heads, LANES, 1), _sums_of_rows(heads, 1, 1)
    wide = LANES * _VECTORS

    def tiles(
        rows: int, stride: int, count: int, width: int, weights: int, weight_stride: int, out: int, out_stride: int
    ) -> None:
        column = 0
        while column + wide <= width:
            many(rows + 4 * column, stride, count, weights, weight_stride, out + 4 * column, out_stride)
            column += wide
        while column + LANES <= width:
            one(rows + 4 * column, stride, count, weights, weight_stride, out + 4 * column, out_stride)
            column += LANES
        while column < width:
            rest(rows + 4 * column, stride, count, weights, weight_stride, out + 4 * column, out_stride)
            column += 1

    return _part(tiles)


_four, _two, _one = _tiles(4), _tiles(2), _tiles(1)


@_part
def _weighted_rows(
    rows: int, stride: int, count: int, width: int, weights: int, weight_stride: int, heads: int, out: int, outs: int
) -> None:
    """`_tiles` for any number of heads."""
    head = 0
    while head + 4 <= heads:
        at, to = weights + 4 * head * weight_stride, out + 4 * head * outs
        _four(rows, stride, count, width, at, weight_stride, to, outs)
        head += 4
    if head + 2 <= heads:
        at, to = weights + 4 * head * weight_stride, out + 4 * head * outs
        _two(rows, stride, count, width, at, weight_stride, to, outs)
        head += 2
    if head < heads:
        at, to = weights + 4 * head * weight_stride, out + 4 * head * outs
        _one(rows, stride, count, width, at, weight_stride, to, outs)


def _folded(builder: Any, vector: Any, combine: Any) -> Any:
    """All lanes of a vector combined in pairs, as a scalar."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        halves = [ir.Constant(ir.VectorType(_INT32, lanes), list(range(i, i + lanes))) for i in (0, lanes)]
        undefined = ir.Constant(vector.type, ir.Undefined)
        vector = combine(*(builder.shuffle_vector(vector, undefined, half) for half in halves))
    return builder.extract_element(vector, _INT32(0))


def _over_vectors(first: float, step: Any, combine: Any) -> Any:
    """f(address, count, scalar): all `count` vectors of float32 from there on combined, each changed by `step`."""
    vector = ir.VectorType(_FLOAT, LANES)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, count, scalar = arguments
        found = cgutils.alloca_once_value(builder, ir.Constant(vector, [first] * LANES))
        lane = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, _INT32(0))
        none = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
        scalars = builder.shuffle_vector(lane, ir.Constant(vector, ir.Undefined), none)
        with cgutils.for_range(builder, count) as loop:
            offset = builder.mul(loop.index, _INT64(4 * LANES))
            at = builder.inttoptr(builder.add(address, offset), vector.as_pointer())
            value = builder.load(at, align=4)
            changed = step(builder, value, scalars)
            if changed is not value:
                builder.store(changed, at, align=4)
            builder.store(combine(builder, builder.load(found), changed), found)
        return _folded(builder, builder.load(found), lambda a, b: combine(builder, a, b))

    def over_vectors(typing: Any, address: Any, count: Any, scalar: Any) -> Any:
        return types.float32(types.int64, types.int64, types.float32), generate

    return intrinsic(over_vectors)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


def _exponential(builder: Any, value: Any, subtracted: Any) -> Any:
    """exp(value - subtracted) = 2**(whole + rest), where `whole` is written into the exponent. NaN stays NaN."""
    vector, integers = value.type, ir.VectorType(_INT32, LANES)

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


_largest = _over_vectors(-math.inf, lambda builder, value, scalars: value, _larger)
_exponentials = _over_vectors(0.0, _exponential, lambda builder, a, b: builder.fadd(a, b))


@_part
def _write(keys: Any, values: Any, key: Any, value: Any, place: int) -> None:
    """A token's key and value [K,D] into a place of its block."""
    for head in range(key.shape[0]):
        for column in range(key.shape[1]):
            keys[head, column, place] = key[head, column]
            values[head, place, column] = value[head, column]


@_part
def _combine(places: Any, largest: Any, totals: Any, parts: Any, out: Any) -> None:
    """The output [H,D] of a sequence from its blocks, in the order of positions: where they lie changes no bit."""
    for head in range(out.shape[0]):
        most, total = largest[places[0], head], np.float32(0.0)
        for place in places:
            most = max(most, largest[place, head])
        out[head] = np.float32(0.0)
        for place in places:
            share = np.float32(math.exp(largest[place, head] - most))
            total += share * totals[place, head]
            for column in range(out.shape[1]):
                out[head, column] += share * parts[place, head, column]
        for column in range(out.shape[1]):
            out[head, column] /= total


def _compiled(*signature: Any) -> Any:
    """Compiled when this module is imported, or taken from disk where a folder can be written."""

    def compile_(function: Any) -> Any:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": _MATHS}
        try:
            return njit(types.void(*signature), cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return njit(types.void(*signature), **options)(function)

    return compile_


def _array(kind: Any, dimensions: int, layout: str = "C") -> Any:
    return types.Array(kind, dimensions, layout)


@_compiled(
    *[_array(types.float32, 3, "A")] * 3, *[_array(types.float32, 4)] * 2, *[_array(types.int64, 1)] * 5,
    *[_array(types.float32, 3)] * 2,
)  # fmt: skip
def attend(
    query: Any,  # float32 [N or more,H,D], scaled
    key: Any,  # [N or more,K,D] of the new token, as its value
    value: Any,
    keys: Any,  # [blocks,K,D,B] the cache of this layer
    values: Any,  # [blocks,K,B,D]
    blocks: Any,  # int64 [M] in the order of memory
    owner: Any,  # int64 [M] the sequence of each
    visible: Any,  # int64 [M] how many of its tokens count, the new one included
    in_order: Any,  # int64 [M] places in `blocks`, by sequence and position
    starts: Any,  # int64 [N+1] where each sequence begins there
    parts: Any,  # float32 [M,H,D], room
    out: Any,  # float32 [N or more,H,D]
) -> None:
    """Write the new key and value, then out := softmax of query x keys, times values, over each sequence.

    Each block has its own softmax; a sequence's are combined by their log-sum-exp (flash decoding, Dao et al. 2023).
    """
    heads, width = query.shape[1], query.shape[2]
    kv_heads, size = values.shape[1], values.shape[2]
    group, chunk, room = heads // kv_heads, 4 * width * size, (size + LANES - 1) // LANES * LANES
    scores = np.empty((min(_SECTION, len(blocks)), heads, room), np.float32)
    largest, totals = np.empty((2, len(blocks), heads), np.float32)
    for row in range(len(starts) - 1):
        last = in_order[starts[row + 1] - 1]
        _write(keys[blocks[last]], values[blocks[last]], key[row], value[row], visible[last] - 1)
    for start in range(0, len(blocks), _SECTION):
        stop = min(start + _SECTION, len(blocks))
        for place in range(start, stop):
            vectors = (visible[place] + LANES - 1) // LANES
            for head in range(kv_heads):
                _weighted_rows(
                    keys.ctypes.data + (blocks[place] * kv_heads + head) * chunk,
                    size,
                    width,
                    min(size, vectors * LANES),
                    query[owner[place], head * group].ctypes.data,
                    width,
                    group,
                    scores[place - start, head * group].ctypes.data,
                    room,
                )
        for place in range(start, stop):
            vectors = (visible[place] + LANES - 1) // LANES
            for head in range(heads):
                row = scores[place - start, head]
                row[visible[place] : vectors * LANES] = -np.inf
                largest[place, head] = _largest(row.ctypes.data, vectors, np.float32(0.0))
                totals[place, head] = _exponentials(row.ctypes.data, vectors, largest[place, head])
            for head in range(kv_heads):
                _weighted_rows(
                    values.ctypes.data + (blocks[place] * kv_heads + head) * chunk,
                    width,
                    visible[place],
                    width,
                    scores[place - start, head * group].ctypes.data,
                    room,
                    group,
                    parts[place, head * group].ctypes.data,
                    width,
                )
    for row in range(len(starts) - 1):
        _combine(in_order[starts[row] : starts[row + 1]], largest, totals, parts, out[row])
