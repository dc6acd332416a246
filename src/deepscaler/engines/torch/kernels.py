"""Attention of one new token per sequence as one compiled function, for CPU and float32.

A block is read from memory once for all query heads that share a key-value head, at the rate of memory; torch's
operators read it once per head, or at a third of that rate (docs/experiments.md). numba compiles the function when this
module is first imported (two seconds) and keeps it on disk. The innermost loop is written in LLVM's vectors, since
compilers do not find it: several rows of weights times one row of the cache, sums in registers.

N sequences, M blocks in use by them, H query heads, K key-value heads, D head width, B tokens in a block.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from deepscaler.compiled.vectors import (
    BYTES,
    FLOAT,
    INT32,
    INT64,
    LANES,
    array,
    compiled,
    exponential,
    in_all_lanes,
    larger,
    over_vectors,
    part,
)

_VECTORS = LANES // 4  # of each row at a time, so that the sums of four heads fit into the registers
_AHEAD = 4096  # bytes between what is read and what is fetched for later
_SECTION = 32  # blocks whose scores are kept before their values are read: long runs of memory, few scores


def _sums_of_rows(heads: int, lanes: int, vectors: int) -> Any:
    """f(rows, stride, count, weights, weight_stride, out, out_stride), addresses and numbers of float32:

    out[h, c] = sum over r < count of weights[h, r] * rows[r, c], for h < heads and c < lanes * vectors.
    """
    vector = ir.VectorType(FLOAT, lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, stride, count, weights, weight_stride, out, out_stride = arguments
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f32"
        )
        fetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [BYTES, INT32, INT32, INT32]), "llvm.prefetch.p0"
        )

        def moved(address: Any, floats: Any) -> Any:
            return builder.add(address, builder.shl(floats, INT64(2)))

        def pointer(address: Any, offset: int, to: Any) -> Any:
            return builder.inttoptr(builder.add(address, INT64(offset)), to)

        offsets = [4 * lanes * v for v in range(vectors)]
        head_weights = [moved(weights, builder.mul(weight_stride, INT64(h))) for h in range(heads)]
        head_outs = [moved(out, builder.mul(out_stride, INT64(h))) for h in range(heads)]
        sums = [[cgutils.alloca_once(builder, vector) for _ in offsets] for _ in range(heads)]
        for cell in (cell for row in sums for cell in row):
            builder.store(ir.Constant(vector, [0.0] * lanes), cell)
        with cgutils.for_range(builder, count) as loop:
            row = moved(rows, builder.mul(stride, loop.index))
            parts = [builder.load(pointer(row, offset, vector.as_pointer()), align=4) for offset in offsets]
            for offset in offsets[:: max(1, 16 // lanes)]:
                builder.call(fetch, [pointer(row, offset + _AHEAD, BYTES), INT32(0), INT32(3), INT32(1)])
            for address, cells in zip(head_weights, sums, strict=True):
                weight = builder.load(builder.inttoptr(moved(address, loop.index), FLOAT.as_pointer()))
                weight = in_all_lanes(builder, weight, vector)
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

    return part(tiles)


_four, _two, _one = _tiles(4), _tiles(2), _tiles(1)


@part
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


_largest = over_vectors(-math.inf, lambda builder, value, scalars: value, larger)
_exponentials = over_vectors(0.0, exponential, lambda builder, a, b: builder.fadd(a, b))


@part
def _write(keys: Any, values: Any, key: Any, value: Any, place: int) -> None:
    """A token's key and value [K,D] into a place of its block."""
    for head in range(key.shape[0]):
        for column in range(key.shape[1]):
            keys[head, column, place] = key[head, column]
            values[head, place, column] = value[head, column]


@part
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


@compiled(
    *[array(types.float32, 3, "A")] * 3, *[array(types.float32, 4)] * 2, *[array(types.int64, 1)] * 5,
    *[array(types.float32, 3)] * 2,
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
