"""Kernels of attention of packed segments, forward and backward, for CPU and float32.

A segment's keys and values are packed once per key-value head, so that all products read rows of one piece; its
queries pass in strips of a few rows, all query heads of the key-value head together, and the scores of a strip stay
in the processor's first cache. Nothing beyond the diagonal is multiplied. Per query the largest score and one over the
sum are kept, and the probabilities made again in the backward (flash attention, Dao et al. 2022).

T tokens, H query heads, K key-value heads, D head width, S segments; a row is one query of one head.
"""

from __future__ import annotations

import numpy as np
from numba import types

from deepscaler.cpu.kernels.masked_softmax import softmax, softmax_gradient
from deepscaler.cpu.kernels.tiles import ROWS, prefetch, strip, transpose_tile
from deepscaler.cpu.kernels.vectors import (
    LANES,
    SUM,
    Float32Array,
    Int64Array,
    array,
    device_function,
    elementwise,
    kernel,
)

_BLOCK = 64  # rows whose gradients of keys and values are summed in registers, a multiple of ROWS
_PACK, _UNPACK, _ADD = np.int64(0), np.int64(1), np.int64(2)  # of numpy, or numba compiles a version for each
_ALONE = np.int64(1)
_AHEAD = 4096  # bytes between what is moved and what is prefetched

_scale = elementwise(lambda x, scalar: x * scalar, inputs=1, outputs=1, scalars=1)
_add = elementwise(lambda x, y, scalar: y + x * scalar, inputs=2, outputs=1, scalars=1)
_strip = strip(ROWS)
_dot = elementwise(lambda x, y: x * y, inputs=2, reduce=SUM)


@device_function
def _address(x: Float32Array) -> np.int64:
    return np.int64(x.ctypes.data)  # unsigned, an address plus a distance would be a float


@device_function
def _rounded(count: int, step: int) -> int:
    return (count + step - 1) // step * step


@device_function
def _stride(columns: int) -> int:
    """Numbers from row to row: an odd number of vectors, so that rows do not compete for places in the cache.

    Two vectors may be written beyond the last column.
    """
    return (_rounded(columns, LANES) // LANES + 2 | 1) * LANES


@device_function
def _sizes(query: Float32Array, key: Float32Array, most: int) -> tuple[int, int, int, int, int]:
    """Key-value heads, query heads of each, numbers of a packed row, of a row of scores, and packed rows."""
    kv_heads = key.shape[1]
    group, width = query.shape[1] // kv_heads, _rounded(query.shape[2], LANES)
    return kv_heads, group, width, _stride(most), _rounded(most, LANES)


@device_function
def _move(x: Float32Array, tokens: Int64Array, group: int, packed: Float32Array, scalar: float, way: int) -> None:
    """Between those tokens of x [T,H,D] and packed [K,rows,width], whose rows are a token's `group` heads of one K.

    way: _PACK: packed := scalar * x; _UNPACK: x := scalar * packed; _ADD: x += scalar * packed.
    """
    from_token, from_head, of_head, of_row = x.strides[0], x.strides[1], packed.strides[0], packed.strides[1]
    width, base, first = x.shape[2], _address(x), _address(packed)
    for token in tokens:
        place = base + token * from_token
        for head in range(x.shape[1] // group):
            for i in range(group):
                row = first + head * of_head + i * of_row
                for line in range(0, 4 * width, 64):
                    prefetch(place + line + _AHEAD)
                if way == _PACK:
                    _scale(width, place, row, scalar)
                elif way == _UNPACK:
                    _scale(width, row, place, scalar)
                else:
                    _add(width, row, place, place, scalar)
                place += from_head
        first += group * of_row


@device_function
def _transpose(packed: int, count: int, width: int, transposed: int, stride: int) -> None:
    """transposed [width, stride] := `count` packed rows, rounded up to whole vectors of whatever follows them."""
    for first in range(0, count, LANES):
        for column in range(0, width, LANES):
            source, target = packed + 4 * (first * width + column), transposed + 4 * (column * stride + first)
            transpose_tile(source, 4 * width, target, 4 * stride)


@device_function
def _count_seen(before: int, group: int, seen: Int64Array) -> None:
    """How many keys each row sees."""
    token, of_group = before + 1, 0
    for row in range(len(seen)):
        seen[row] = token
        of_group += 1
        if of_group == group:
            token, of_group = token + 1, 0


@device_function
def _attend(
    queries: int, seen: Int64Array, keys: int, values: int, scores: int, stride: int, width: int, statistics: int
) -> None:
    """The packed queries of a head, replaced by their outputs strip by strip. Addresses."""
    for first in range(0, len(seen), ROWS):
        count = min(ROWS, len(seen) - first)
        visible, row = seen[first + count - 1], 4 * width
        _strip(queries, row, 4, width, keys, 4 * stride, scores, 4 * stride, _rounded(visible, LANES), 0)
        for i in range(count):
            softmax(scores + 4 * stride * i, seen[first + i], statistics + 8 * i)
        _strip(scores, 4 * stride, 4, visible, values, row, queries, row, width, 0)
        queries += ROWS * row
        statistics += 8 * ROWS


@device_function
def _pass_back(
    queries: int, grads: int, deltas: Float32Array, seen: Int64Array, keys: int, transposed_keys: int,
    transposed_values: int, scores: int, changes: int, stride: int, width: int, statistics: int, results: int,
) -> None:  # fmt: skip
    """A block of rows of a head: scores := probabilities, changes := gradients of scores, results := of queries."""
    row, size = 4 * width, len(seen)
    for first in range(0, size, ROWS):
        count = min(ROWS, size - first)
        visible = seen[first + count - 1]
        columns = _rounded(visible, LANES)
        s, c = scores + 4 * first * stride, changes + 4 * first * stride
        _strip(queries + first * row, row, 4, width, transposed_keys, 4 * stride, s, 4 * stride, columns, 0)
        _strip(grads + first * row, row, 4, width, transposed_values, 4 * stride, c, 4 * stride, columns, 0)
        for i in range(count):
            there = 4 * i * stride
            softmax_gradient(s + there, c + there, seen[first + i], statistics + 8 * (first + i), deltas[first + i])
        _strip(c, 4 * stride, 4, visible, keys, row, results + first * row, row, width, 0)


@device_function
def _sum_over_rows(
    queries: int, grads: int, seen: Int64Array, before: int, start: int, group: int,
    scores: int, changes: int, stride: int, width: int, key_sums: int, value_sums: int,
) -> None:  # fmt: skip
    """What a block of rows adds to the gradients of the keys and values that it sees."""
    row = 4 * width
    for first in range(0, seen[-1], ROWS):
        blind = max(0, (first - before) * group - start)  # so many rows see none of these keys
        there, count = 4 * (blind * stride + first), len(seen) - blind
        _strip(changes + there, 4, 4 * stride, count, queries + blind * row, row, key_sums + first * row, row, width, 1)
        _strip(scores + there, 4, 4 * stride, count, grads + blind * row, row, value_sums + first * row, row, width, 1)


_NUMBERS = array(types.int64, 1)
_VIEW = array(types.float32, 3, "A")


@kernel(*[_VIEW] * 3, *[_NUMBERS] * 3, types.int64, types.float32, _VIEW, array(types.float32, 2))
def forward(
    query: Float32Array,  # [T,H,D], rows of one piece
    key: Float32Array,  # [T,K,D]
    value: Float32Array,
    keys: Int64Array,  # int64 [sum of L], the tokens that the segments' queries see, own ones last
    ends: Int64Array,  # int64 [S+1], offsets of the segments in `keys`
    before: Int64Array,  # int64 [S], how many of them all queries of a segment see
    most: int,  # tokens of any segment
    scaling: float,
    out: Float32Array,  # [T,H,D]
    statistics: Float32Array,  # [T*H,2], largest score, one over the sum of exponentials, in the order of computing
) -> None:
    """out := softmax of scaling * query x key, times value, causally over each segment's keys."""
    kv_heads, group, width, stride, room = _sizes(query, key, most)
    one, done = np.float32(1.0), 0
    packed_keys, packed_values = np.zeros((2, kv_heads, room, width), np.float32)
    queries = np.zeros((kv_heads, _rounded(most * group, ROWS), width), np.float32)
    transposed_keys, scores = np.empty((width, stride), np.float32), np.empty((ROWS, stride), np.float32)
    seen = np.empty(most * group, np.int64)
    for segment in range(len(before)):
        tokens = keys[ends[segment] : ends[segment + 1]]
        own = tokens[before[segment] :]
        rows = group * len(own)
        _move(key, tokens, _ALONE, packed_keys, one, _PACK)
        _move(value, tokens, _ALONE, packed_values, one, _PACK)
        _move(query, own, group, queries, scaling, _PACK)
        _count_seen(before[segment], group, seen[:rows])
        for head in range(kv_heads):
            _transpose(_address(packed_keys[head]), len(tokens), width, _address(transposed_keys), stride)
            _attend(
                _address(queries[head]), seen[:rows], _address(transposed_keys), _address(packed_values[head]),
                _address(scores), stride, width, _address(statistics) + 8 * done,
            )  # fmt: skip
            for row in range(rows):
                place = _address(queries[head]) + 4 * width * row
                _scale(width, place, place, statistics[done + row, 1])
            done += rows
        _move(out, own, group, queries, one, _UNPACK)


@kernel(*[_VIEW] * 5, array(types.float32, 2), *[_NUMBERS] * 3, types.int64, types.float32, *[_VIEW] * 3)
def backward(
    grad: Float32Array,  # [T,H,D], of the output
    query: Float32Array, key: Float32Array, value: Float32Array, out: Float32Array, statistics: Float32Array,
    keys: Int64Array, ends: Int64Array, before: Int64Array, most: int, scaling: float,  # as in `forward`
    grad_query: Float32Array, grad_key: Float32Array, grad_value: Float32Array,  # [T,H,D], [T,K,D] zeros, [T,K,D] zeros
) -> None:  # fmt: skip
    """Gradients of `forward`; those of shared keys add up in the order of segments."""
    kv_heads, group, width, stride, room = _sizes(query, key, most)
    one, done = np.float32(1.0), 0
    packed_keys, packed_values, key_sums, value_sums = np.zeros((4, kv_heads, room, width), np.float32)
    queries, grads, results = np.zeros((3, kv_heads, _rounded(most * group, _BLOCK), width), np.float32)
    transposed_keys, transposed_values = np.empty((2, width, stride), np.float32)
    scores, changes = np.empty((2, _BLOCK, stride), np.float32)
    seen, deltas = np.empty(most * group, np.int64), np.empty(most * group, np.float32)
    for segment in range(len(before)):
        tokens = keys[ends[segment] : ends[segment + 1]]
        own = tokens[before[segment] :]
        rows = group * len(own)
        _move(key, tokens, _ALONE, packed_keys, one, _PACK)
        _move(value, tokens, _ALONE, packed_values, one, _PACK)
        _move(query, own, group, queries, scaling, _PACK)
        _move(grad, own, group, grads, one, _PACK)
        _move(out, own, group, results, one, _PACK)
        _count_seen(before[segment], group, seen[:rows])
        key_sums[:, : len(tokens)] = np.float32(0.0)
        value_sums[:, : len(tokens)] = np.float32(0.0)
        for head in range(kv_heads):
            k, v, tk, tv = (
                _address(packed_keys[head]), _address(packed_values[head]), _address(transposed_keys),
                _address(transposed_values),
            )  # fmt: skip
            _transpose(k, len(tokens), width, tk, stride)
            _transpose(v, len(tokens), width, tv, stride)
            q, g, r = _address(queries[head]), _address(grads[head]), _address(results[head])
            for row in range(rows):
                deltas[row] = _dot(width, g + 4 * width * row, r + 4 * width * row)
            for start in range(0, rows, _BLOCK):
                size, there = min(_BLOCK, rows - start), 4 * width * start
                _pass_back(
                    q + there, g + there, deltas[start:], seen[start : start + size], k, tk, tv, _address(scores),
                    _address(changes), stride, width, _address(statistics) + 8 * (done + start), r + there,
                )  # fmt: skip
                _sum_over_rows(
                    q + there, g + there, seen[start : start + size], before[segment], start, group, _address(scores),
                    _address(changes), stride, width, _address(key_sums[head]), _address(value_sums[head]),
                )  # fmt: skip
            done += rows
        _move(grad_query, own, group, results, scaling, _UNPACK)
        _move(grad_key, tokens, _ALONE, key_sums, one, _ADD)
        _move(grad_value, tokens, _ALONE, value_sums, one, _ADD)
