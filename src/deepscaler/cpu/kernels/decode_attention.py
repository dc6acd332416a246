"""Kernel of attention of one new token per sequence over the cache's blocks, for CPU and float32.

A block is read from memory once for all query heads that share a key-value head, at the rate of memory; torch's
operators read it once per head, or at a third of that rate (docs/experiments.md).

N sequences, M blocks in use by them, H query heads, K key-value heads, D head width, B tokens in a block.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from deepscaler.cpu.kernels.tiles import prefetching_strip
from deepscaler.cpu.kernels.vectors import (
    LANES,
    MAX,
    SUM,
    Float32Array,
    Int64Array,
    array,
    device_function,
    elementwise,
    kernel,
)

_VECTORS = LANES // 4  # of each row at a time, so that the sums of four heads fit into the registers
_AHEAD = 4096  # bytes between what is read and what is prefetched
_SECTION = 32  # blocks whose scores are kept before their values are read: long runs of memory, few scores

_four, _two, _one = (prefetching_strip(heads, _VECTORS, _AHEAD) for heads in (4, 2, 1))


@device_function
def _weighted_rows(
    rows: int, stride: int, count: int, width: int, weights: int, weight_stride: int, heads: int, out: int, outs: int
) -> None:
    """out[h, c] := sum over r < count of weights[h, r] * rows[r, c], for c < width; strides in numbers."""
    stride, weight_stride, outs = 4 * stride, 4 * weight_stride, 4 * outs
    head = 0
    while head + 4 <= heads:
        _four(weights + head * weight_stride, weight_stride, count, rows, stride, out + head * outs, outs, width)
        head += 4
    if head + 2 <= heads:
        _two(weights + head * weight_stride, weight_stride, count, rows, stride, out + head * outs, outs, width)
        head += 2
    if head < heads:
        _one(weights + head * weight_stride, weight_stride, count, rows, stride, out + head * outs, outs, width)


_largest = elementwise(lambda x: x, inputs=1, reduce=MAX)
_exponentials = elementwise(lambda x, most: ((x - most).exp(),) * 2, inputs=1, outputs=1, scalars=1, reduce=SUM)


@device_function
def _write(keys: Float32Array, values: Float32Array, key: Float32Array, value: Float32Array, place: int) -> None:
    """A token's key and value [K,D] into a place of its block."""
    for head in range(key.shape[0]):
        for column in range(key.shape[1]):
            keys[head, column, place] = key[head, column]
            values[head, place, column] = value[head, column]


@device_function
def _combine(
    places: Int64Array, largest: Float32Array, totals: Float32Array, parts: Float32Array, out: Float32Array
) -> None:
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


@kernel(
    *[array(types.float32, 3, "A")] * 3, *[array(types.float32, 4)] * 2, *[array(types.int64, 1)] * 5,
    *[array(types.float32, 3)] * 2,
)  # fmt: skip
def attend(
    query: Float32Array,  # float32 [N or more,H,D], scaled
    key: Float32Array,  # [N or more,K,D] of the new token, as its value
    value: Float32Array,
    keys: Float32Array,  # [blocks,K,D,B] the cache of this layer
    values: Float32Array,  # [blocks,K,B,D]
    blocks: Int64Array,  # int64 [M] in the order of memory
    owner: Int64Array,  # int64 [M] the sequence of each
    visible: Int64Array,  # int64 [M] how many of its tokens count, the new one included
    in_order: Int64Array,  # int64 [M] places in `blocks`, by sequence and position
    starts: Int64Array,  # int64 [N+1] where each sequence begins there
    parts: Float32Array,  # float32 [M,H,D], scratch
    out: Float32Array,  # float32 [N or more,H,D]
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
                largest[place, head] = _largest(vectors * LANES, row.ctypes.data)
                totals[place, head] = _exponentials(
                    vectors * LANES, row.ctypes.data, row.ctypes.data, largest[place, head]
                )
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
