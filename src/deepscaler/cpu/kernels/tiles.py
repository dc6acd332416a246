"""Products of small matrices that lie in the processor's caches, for kernels: float32, by address.

A tile of sums stays in registers while the rows of one factor pass by, each multiplied with numbers of the other; at
the sizes of a segment's attention this reaches the processor's peak (docs/experiments.md). Strides are in bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.core import cgutils

from deepscaler.cpu.kernels.vectors import (
    FLOAT,
    INT32,
    INT64,
    LANES,
    Builder,
    broadcast,
    device_function,
    device_intrinsic,
)

ROWS = LANES // 2  # of a tile: two vectors of sums for each, and what is multiplied, fit into the registers
VECTOR = ir.VectorType(FLOAT, LANES)
_BYTES = ir.IntType(8).as_pointer()


def pointer(builder: Builder, address: ir.Value, offset: int = 0, kind: ir.Type = VECTOR) -> ir.Value:
    return builder.inttoptr(builder.add(address, INT64(offset)), kind.as_pointer())


def _prefetch(builder: Builder, address: ir.Value) -> None:
    kind = ir.FunctionType(ir.VoidType(), [_BYTES, INT32, INT32, INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.inttoptr(address, _BYTES), INT32(0), INT32(3), INT32(1)])


prefetch = device_intrinsic(_prefetch, [types.int64])  # of the 64 bytes at an address, which need not exist


def _tile(rows: int, vectors: int, lanes: int, ahead: int) -> Callable[..., None]:
    """f(a, a_row, a_step, count, b, b_step, c, c_row, adds), addresses and strides in bytes:

    c[i, j] (+)= sum over r < count of a[i, r] * b[r, j], for i < rows and j < vectors * lanes; adds: whether to add to
    what c holds. ahead: bytes between what is read of b and what is prefetched, 0 for none.
    """
    vector = ir.VectorType(FLOAT, lanes)
    offsets = [4 * lanes * v for v in range(vectors)]

    def generate(
        builder: Builder,
        a: ir.Value,
        a_row: ir.Value,
        a_step: ir.Value,
        count: ir.Value,
        b: ir.Value,
        b_step: ir.Value,
        c: ir.Value,
        c_row: ir.Value,
        adds: ir.Value,
    ) -> None:
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f32"
        )
        factors, results = (
            [builder.add(x, builder.mul(stride, INT64(i))) for i in range(rows)]
            for x, stride in ((a, a_row), (c, c_row))
        )
        sums = [[cgutils.alloca_once(builder, vector) for _ in offsets] for _ in range(rows)]
        cells = [
            (cell, pointer(builder, address, offset, vector))
            for row, address in zip(sums, results, strict=True)
            for cell, offset in zip(row, offsets, strict=True)
        ]
        with builder.if_else(builder.icmp_signed("!=", adds, INT64(0))) as (then, otherwise):
            with then:
                for cell, place in cells:
                    builder.store(builder.load(place, align=4), cell)
            with otherwise:
                for cell, _ in cells:
                    builder.store(ir.Constant(vector, [0.0] * lanes), cell)
        with cgutils.for_range(builder, count) as loop:
            row, step = builder.add(b, builder.mul(b_step, loop.index)), builder.mul(a_step, loop.index)
            loaded = [builder.load(pointer(builder, row, offset, vector), align=4) for offset in offsets]
            for offset in offsets[:: max(1, 16 // lanes)] if ahead else ():
                _prefetch(builder, builder.add(row, INT64(offset + ahead)))
            for address, row_of_sums in zip(factors, sums, strict=True):
                factor = builder.load(pointer(builder, builder.add(address, step), kind=FLOAT), align=4)
                factor = broadcast(builder, factor, vector)
                for value, cell in zip(loaded, row_of_sums, strict=True):
                    builder.store(builder.call(multiply_add, [factor, value, builder.load(cell)]), cell)
        for cell, place in cells:
            builder.store(builder.load(cell), place, align=4)

    return device_intrinsic(generate, [types.int64] * 9)


def strip(rows: int) -> Callable[..., None]:
    """`_tile` of two vectors for any multiple of LANES of columns."""
    two, one = _tile(rows, 2, LANES, 0), _tile(rows, 1, LANES, 0)

    def strip(
        a: int, a_row: int, a_step: int, count: int, b: int, b_step: int, c: int, c_row: int, columns: int, adds: int
    ) -> None:
        column = 0
        while column + 2 * LANES <= columns:
            two(a, a_row, a_step, count, b + 4 * column, b_step, c + 4 * column, c_row, adds)
            column += 2 * LANES
        if column < columns:
            one(a, a_row, a_step, count, b + 4 * column, b_step, c + 4 * column, c_row, adds)

    return device_function(strip)


def prefetching_strip(rows: int, vectors: int, ahead: int) -> Callable[..., None]:
    """`_tile` for any number of columns: sets c, whose numbers of a row of a follow one another."""
    many, one, single = (_tile(rows, *each, ahead) for each in ((vectors, LANES), (1, LANES), (1, 1)))
    wide = LANES * vectors

    def prefetching_strip(
        a: int, a_row: int, count: int, b: int, b_step: int, c: int, c_row: int, columns: int
    ) -> None:
        column = 0
        while column + wide <= columns:
            many(a, a_row, 4, count, b + 4 * column, b_step, c + 4 * column, c_row, 0)
            column += wide
        while column + LANES <= columns:
            one(a, a_row, 4, count, b + 4 * column, b_step, c + 4 * column, c_row, 0)
            column += LANES
        while column < columns:
            single(a, a_row, 4, count, b + 4 * column, b_step, c + 4 * column, c_row, 0)
            column += 1

    return device_function(prefetching_strip)


def _transpose(
    builder: Builder, source: ir.Value, source_row: ir.Value, target: ir.Value, target_row: ir.Value
) -> None:
    rows = [
        builder.load(pointer(builder, builder.add(source, builder.mul(source_row, INT64(i)))), align=4)
        for i in range(LANES)
    ]
    half = LANES // 2
    while half:
        # Squares of `half` x `half` beside the diagonal are swapped.
        low = [lane if not lane & half else LANES + lane - half for lane in range(LANES)]
        high = [lane + half if not lane & half else LANES + lane for lane in range(LANES)]
        for i in (i for i in range(LANES) if not i & half):
            pair = rows[i], rows[i + half]
            rows[i], rows[i + half] = (
                builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(INT32, LANES), order)) for order in (low, high)
            )
        half //= 2
    for i, row in enumerate(rows):
        builder.store(row, pointer(builder, builder.add(target, builder.mul(target_row, INT64(i)))), align=4)


transpose_tile = device_intrinsic(_transpose, [types.int64] * 4)  # LANES x LANES numbers, from rows to columns
