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
    BYTES,
    FLOAT,
    INT32,
    INT64,
    LANES,
    array,
    compiled,
    exponential,
    folded,
    larger,
    part,
)

_ROWS = LANES // 2  # of a tile: two vectors of sums for each, and what is multiplied, fit into the registers
_BLOCK = 64  # rows whose gradients of keys and values are summed in registers, a multiple of _ROWS
_AHEAD = 4096  # bytes between what is moved and what is fetched for later
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
        fetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [BYTES, INT32, INT32, INT32]), "llvm.prefetch.p0"
        )
        factor = ir.Constant(kind, ir.Undefined)
        for lane in range(lanes):
            factor = builder.insert_element(factor, scalar, INT32(lane))
        with cgutils.for_range(builder, count) as loop:
            offset = builder.mul(loop.index, INT64(4 * lanes))
            value = builder.load(_at(builder, builder.add(source, offset), kind=kind), align=4)
            if lanes > 1:
                ahead = builder.inttoptr(builder.add(builder.add(source, offset), INT64(_AHEAD)), BYTES)
                builder.call(fetch, [ahead, INT32(0), INT32(3), INT32(1)])
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


def _over_row(builder: Any, seen: Any, step: Any) -> Any:
    """step(offset in bytes, select) for every vector of a row of which `seen` numbers count; the last offset.

    select(value, other) puts `other` where nothing counts. The last vector may hold nothing that does: so no jump
    depends on the number.
    """
    whole = builder.udiv(seen, INT64(LANES))
    with cgutils.for_range(builder, whole) as loop:
        step(builder.mul(loop.index, INT64(4 * LANES)), lambda value, other: value)
    kind = ir.VectorType(INT32, LANES)
    rest = builder.insert_element(
        ir.Constant(kind, ir.Undefined), builder.trunc(builder.urem(seen, INT64(LANES)), INT32), INT32(0)
    )
    rest = builder.shuffle_vector(rest, ir.Constant(kind, ir.Undefined), ir.Constant(kind, [0] * LANES))
    counts = builder.icmp_signed("<", ir.Constant(kind, list(range(LANES))), rest)
    last = builder.mul(whole, INT64(4 * LANES))
    step(last, lambda value, other: builder.select(counts, value, ir.Constant(_VECTOR, [other] * LANES)))
    return last


def _zeros_after(builder: Any, row: Any, last: Any) -> None:
    """What a strip reads beyond what the row sees."""
    builder.store(ir.Constant(_VECTOR, [0.0] * LANES), _at(builder, builder.add(row, last), 4 * LANES), align=4)


@intrinsic
def _softmax(typing: Any, scores: Any, seen: Any, statistics: Any) -> Any:
    """scores := exp(scores - largest), 0 beyond `seen`; statistics := largest and one over the sum. Addresses."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scores, seen, statistics = arguments
        most = cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [-np.inf] * LANES))
        total = cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES))

        def compare(offset: Any, select: Any) -> None:
            value = builder.load(_at(builder, builder.add(scores, offset)), align=4)
            builder.store(larger(builder, builder.load(most), select(value, -np.inf)), most)

        _over_row(builder, seen, compare)
        largest = folded(builder, builder.load(most), lambda a, b: larger(builder, a, b))
        subtracted = _broadcast(builder, largest)

        def change(offset: Any, select: Any) -> None:
            at = _at(builder, builder.add(scores, offset))
            value = select(exponential(builder, builder.load(at, align=4), subtracted), 0.0)
            builder.store(value, at, align=4)
            builder.store(builder.fadd(builder.load(total), value), total)

        _zeros_after(builder, scores, _over_row(builder, seen, change))
        share = builder.fdiv(FLOAT(1.0), folded(builder, builder.load(total), builder.fadd))
        builder.store(largest, _at(builder, statistics, kind=FLOAT), align=4)
        builder.store(share, _at(builder, statistics, 4, FLOAT), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def _softmax_gradient(typing: Any, scores: Any, grads: Any, seen: Any, statistics: Any, delta: Any) -> Any:
    """scores := p = exp(scores - largest) * share, and grads := p * (grads - delta), 0 beyond `seen`. Addresses."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scores, grads, seen, statistics, delta = arguments
        largest, share = (builder.load(_at(builder, statistics, offset, FLOAT), align=4) for offset in (0, 4))
        largest, share, delta = (_broadcast(builder, x) for x in (largest, share, delta))

        def change(offset: Any, select: Any) -> None:
            score, grad = (_at(builder, builder.add(x, offset)) for x in (scores, grads))
            p = builder.fmul(exponential(builder, builder.load(score, align=4), largest), share)
            builder.store(select(p, 0.0), score, align=4)
            difference = builder.fsub(builder.load(grad, align=4), delta)
            builder.store(select(builder.fmul(p, difference), 0.0), grad, align=4)

        last = _over_row(builder, seen, change)
        for row in (scores, grads):
            _zeros_after(builder, row, last)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32), generate


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


@part
def _address(x: Any) -> int:
    return np.int64(x.ctypes.data)  # unsigned, an address plus a distance would be a float


@part
def _rounded(count: int, step: int) -> int:
    return (count + step - 1) // step * step


@part
def _stride(columns: int) -> int:
    """Numbers from row to row: an odd number of vectors, so that rows do not compete for places in the cache.

    Two vectors may be written beyond the last column.
    """
    return (_rounded(columns, LANES) // LANES + 2 | 1) * LANES


@part
def _pack(x: Any, tokens: Any, group: int, packed: Any, scalar: float) -> None:
    """packed [K,rows,width] := scalar * x [T,H,D] of those tokens; a token's `group` heads are rows of one K."""
    from_token, from_head = x.strides[0], x.strides[1]
    of_head, of_row = packed.strides[0], packed.strides[1]
    base, target = _address(x), _address(packed)
    for token in tokens:
        source = base + token * from_token
        for head in range(x.shape[1] // group):
            for i in range(group):
                _scale_row(source, target + head * of_head + i * of_row, x.shape[2], scalar)
                source += from_head
        target += group * of_row


@part
def _unpack(packed: Any, tokens: Any, group: int, x: Any, scalar: float, adds: int) -> None:
    """The reverse, x (+)= scalar * packed."""
    to_token, to_head = x.strides[0], x.strides[1]
    of_head, of_row = packed.strides[0], packed.strides[1]
    base, source = _address(x), _address(packed)
    for token in tokens:
        target = base + token * to_token
        for head in range(x.shape[1] // group):
            for i in range(group):
                if adds:
                    _add_row(source + head * of_head + i * of_row, target, x.shape[2], scalar)
                else:
                    _scale_row(source + head * of_head + i * of_row, target, x.shape[2], scalar)
                target += to_head
        source += group * of_row


@part
def _transpose(packed: int, count: int, width: int, turned: int, stride: int) -> None:
    """turned [width, stride] of `count` packed rows; up to a whole vector with what else stands there."""
    for first in range(0, count, LANES):
        for column in range(0, width, LANES):
            source, target = packed + 4 * (first * width + column), turned + 4 * (column * stride + first)
            _transpose_tile(source, 4 * width, target, 4 * stride)


@part
def _count_seen(before: int, group: int, seen: Any) -> None:
    """How many keys each row sees."""
    token, of_group = before + 1, 0
    for row in range(len(seen)):
        seen[row] = token
        of_group += 1
        if of_group == group:
            token, of_group = token + 1, 0


@part
def _attend(
    queries: int, seen: Any, keys: int, values: int, scores: int, stride: int, width: int, statistics: int
) -> None:
    """The packed queries of a head, replaced by their outputs strip by strip. Addresses."""
    for first in range(0, len(seen), _ROWS):
        count = min(_ROWS, len(seen) - first)
        visible, row = seen[first + count - 1], 4 * width
        _strip(queries, row, 4, width, keys, 4 * stride, scores, 4 * stride, _rounded(visible, LANES), 0)
        for i in range(count):
            _softmax(scores + 4 * stride * i, seen[first + i], statistics + 8 * i)
        _strip(scores, 4 * stride, 4, visible, values, row, queries, row, width, 0)
        queries += _ROWS * row
        statistics += 8 * _ROWS


@part
def _pass_back(
    queries: int, grads: int, deltas: Any, seen: Any, keys: int, turned_keys: int, turned_values: int,
    scores: int, changes: int, stride: int, width: int, statistics: int, results: int,
) -> None:  # fmt: skip
    """A block of rows of a head: scores := probabilities, changes := gradients of scores, results := of queries."""
    row, size = 4 * width, len(seen)
    for first in range(0, size, _ROWS):
        count = min(_ROWS, size - first)
        visible = seen[first + count - 1]
        columns = _rounded(visible, LANES)
        s, c = scores + 4 * first * stride, changes + 4 * first * stride
        _strip(queries + first * row, row, 4, width, turned_keys, 4 * stride, s, 4 * stride, columns, 0)
        _strip(grads + first * row, row, 4, width, turned_values, 4 * stride, c, 4 * stride, columns, 0)
        for i in range(count):
            at = 4 * i * stride
            _softmax_gradient(s + at, c + at, seen[first + i], statistics + 8 * (first + i), deltas[first + i])
        _strip(c, 4 * stride, 4, visible, keys, row, results + first * row, row, width, 0)


@part
def _sum_over_rows(
    queries: int, grads: int, seen: Any, before: int, start: int, group: int,
    scores: int, changes: int, stride: int, width: int, key_sums: int, value_sums: int,
) -> None:  # fmt: skip
    """What a block of rows adds to the gradients of the keys and values that it sees."""
    row = 4 * width
    for first in range(0, seen[-1], _ROWS):
        blind = max(0, (first - before) * group - start)  # so many rows see none of these keys
        at, count = 4 * (blind * stride + first), len(seen) - blind
        _strip(changes + at, 4, 4 * stride, count, queries + blind * row, row, key_sums + first * row, row, width, 1)
        _strip(scores + at, 4, 4 * stride, count, grads + blind * row, row, value_sums + first * row, row, width, 1)


_FLOATS, _NUMBERS = array(types.float32, 3), array(types.int64, 1)
_VIEW = array(types.float32, 3, "A")


@compiled(*[_VIEW] * 3, *[_NUMBERS] * 3, types.int64, types.float32, _FLOATS, array(types.float32, 2))
def forward(
    query: Any,  # [T,H,D], rows of one piece
    key: Any,  # [T,K,D]
    value: Any,
    keys: Any,  # int64 [sum of L], the tokens that the segments' queries see, own tokens last
    ends: Any,  # int64 [S+1], where the tokens of each segment begin and end there
    before: Any,  # int64 [S], how many of them all queries of the segment see
    most: int,  # tokens of any segment
    scaling: float,
    out: Any,  # [T,H,D]
    statistics: Any,  # [T*H,2], largest score and one over the sum of all exponentials, in the order of computing
) -> None:
    """out := softmax of scaling * query x key, times value, causally over each segment's keys."""
    kv_heads, width, one, done = key.shape[1], _rounded(query.shape[2], LANES), np.float32(1.0), 0
    group, stride, room = query.shape[1] // kv_heads, _stride(most), _rounded(most, LANES)
    packed_keys, packed_values = np.zeros((2, kv_heads, room, width), np.float32)
    queries = np.zeros((kv_heads, _rounded(most * group, _ROWS), width), np.float32)
    turned_keys, scores = np.empty((width, stride), np.float32), np.empty((_ROWS, stride), np.float32)
    seen = np.empty(most * group, np.int64)
    for segment in range(len(before)):
        tokens = keys[ends[segment] : ends[segment + 1]]
        own = tokens[before[segment] :]
        rows = group * len(own)
        _pack(key, tokens, 1, packed_keys, one)
        _pack(value, tokens, 1, packed_values, one)
        _pack(query, own, group, queries, scaling)
        _count_seen(before[segment], group, seen[:rows])
        for head in range(kv_heads):
            _transpose(_address(packed_keys[head]), len(tokens), width, _address(turned_keys), stride)
            _attend(
                _address(queries[head]), seen[:rows], _address(turned_keys), _address(packed_values[head]),
                _address(scores), stride, width, _address(statistics) + 8 * done,
            )  # fmt: skip
            for row in range(rows):
                at = _address(queries[head]) + 4 * width * row
                _scale_row(at, at, width, statistics[done + row, 1])
            done += rows
        _unpack(queries, own, group, out, one, 0)


@compiled(*[_VIEW] * 4, _FLOATS, array(types.float32, 2), *[_NUMBERS] * 3, types.int64, types.float32, *[_FLOATS] * 3)
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
    most: int,
    scaling: float,
    grad_query: Any,  # [T,H,D]
    grad_key: Any,  # [T,K,D] zeros
    grad_value: Any,
) -> None:
    """Gradients of `forward`; those of shared keys add up in the order of segments."""
    kv_heads, width, one, done = key.shape[1], _rounded(query.shape[2], LANES), np.float32(1.0), 0
    group, stride, room = query.shape[1] // kv_heads, _stride(most), _rounded(most, LANES)
    packed_keys, packed_values, key_sums, value_sums = np.zeros((4, kv_heads, room, width), np.float32)
    queries, grads, results = np.zeros((3, kv_heads, _rounded(most * group, _BLOCK), width), np.float32)
    turned_keys, turned_values = np.empty((2, width, stride), np.float32)
    scores, changes = np.empty((2, _BLOCK, stride), np.float32)
    seen, deltas = np.empty(most * group, np.int64), np.empty(most * group, np.float32)
    for segment in range(len(before)):
        tokens = keys[ends[segment] : ends[segment + 1]]
        own = tokens[before[segment] :]
        rows = group * len(own)
        _pack(key, tokens, 1, packed_keys, one)
        _pack(value, tokens, 1, packed_values, one)
        _pack(query, own, group, queries, scaling)
        _pack(grad, own, group, grads, one)
        _pack(out, own, group, results, one)
        _count_seen(before[segment], group, seen[:rows])
        key_sums[:, : len(tokens)] = np.float32(0.0)
        value_sums[:, : len(tokens)] = np.float32(0.0)
        for head in range(kv_heads):
            k, v, tk, tv = (
                _address(packed_keys[head]), _address(packed_values[head]), _address(turned_keys),
                _address(turned_values),
            )  # fmt: skip
            _transpose(k, len(tokens), width, tk, stride)
            _transpose(v, len(tokens), width, tv, stride)
            q, g, r = _address(queries[head]), _address(grads[head]), _address(results[head])
            for row in range(rows):
                deltas[row] = _dot(g + 4 * width * row, r + 4 * width * row, width // LANES)
            for start in range(0, rows, _BLOCK):
                size, at = min(_BLOCK, rows - start), 4 * width * start
                _pass_back(
                    q + at, g + at, deltas[start:], seen[start : start + size], k, tk, tv, _address(scores),
                    _address(changes), stride, width, _address(statistics) + 8 * (done + start), r + at,
                )  # fmt: skip
                _sum_over_rows(
                    q + at, g + at, seen[start : start + size], before[segment], start, group, _address(scores),
                    _address(changes), stride, width, _address(key_sums[head]), _address(value_sums[head]),
                )  # fmt: skip
            done += rows
        _unpack(results, own, group, grad_query, scaling, 0)
        _unpack(key_sums, tokens, 1, grad_key, one, 1)
        _unpack(value_sums, tokens, 1, grad_value, one, 1)
