"""Products of small matrices that lie in the processor's caches, for compiled functions: float32, by address.

A tile of sums stays in registers while the rows of one factor pass by, each multiplied with numbers of the other; at
the sizes of a segment's attention this reaches the processor's peak (docs/experiments.md). Distances are in bytes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from deepscaler.compiled.vectors import BYTES, FLOAT, INT32, INT64, LANES, in_all_lanes, part

ROWS = LANES // 2  # of a tile: two vectors of sums for each, and what is multiplied, fit into the registers
VECTOR = ir.VectorType(FLOAT, LANES)


def pointer(builder: Any, address: Any, offset: int = 0, kind: Any = VECTOR) -> Any:
    return builder.inttoptr(builder.add(address, INT64(offset)), kind.as_pointer())


def _tile(vectors: int) -> Any:
    """f(a, a_row, a_step, count, b, b_step, c, c_row, adds), addresses and distances in bytes:

    c[i, j] (+)= sum over r < count of a[i, r] * b[r, j], for i < ROWS and j < vectors * LANES; adds: whether c counts.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, a_row, a_step, count, b, b_step, c, c_row, adds = arguments
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), f"llvm.fma.v{LANES}f32"
        )
        factors, results = (
            [builder.add(x, builder.mul(distance, INT64(i))) for i in range(ROWS)]
            for x, distance in ((a, a_row), (c, c_row))
        )
        offsets = [4 * LANES * v for v in range(vectors)]
        sums = [[cgutils.alloca_once(builder, VECTOR) for _ in offsets] for _ in range(ROWS)]
        places = [
            (cell, address, offset)
            for cells, address in zip(sums, results, strict=True)
            for cell, offset in zip(cells, offsets, strict=True)
        ]
        with builder.if_else(builder.icmp_signed("!=", adds, INT64(0))) as (then, otherwise):
            with then:
                for cell, address, offset in places:
                    builder.store(builder.load(pointer(builder, address, offset), align=4), cell)
            with otherwise:
                for cell, _, _ in places:
                    builder.store(ir.Constant(VECTOR, [0.0] * LANES), cell)
        with cgutils.for_range(builder, count) as loop:
            row, step = (builder.add(b, builder.mul(b_step, loop.index)), builder.mul(a_step, loop.index))
            parts = [builder.load(pointer(builder, row, offset), align=4) for offset in offsets]
            for address, cells in zip(factors, sums, strict=True):
                factor = builder.load(pointer(builder, builder.add(address, step), kind=FLOAT), align=4)
                factor = in_all_lanes(builder, factor, VECTOR)
                for vector, cell in zip(parts, cells, strict=True):
                    builder.store(builder.call(multiply_add, [factor, vector, builder.load(cell)]), cell)
        for cell, address, offset in places:
            builder.store(builder.load(cell), pointer(builder, address, offset), align=4)
        return context.get_dummy_value()

    def tile(
        typing: Any, a: Any, a_row: Any, a_step: Any, count: Any, b: Any, b_step: Any, c: Any, c_row: Any, adds: Any
    ) -> Any:
        return types.void(*[types.int64] * 9), generate

    return intrinsic(tile)


_two_vectors, _one_vector = _tile(2), _tile(1)


@part
def strip(
    a: int, a_row: int, a_step: int, count: int, b: int, b_step: int, c: int, c_row: int, columns: int, adds: int
) -> None:
    """`_tile` for any multiple of LANES of columns."""
    column = 0
    while column + 2 * LANES <= columns:
        _two_vectors(a, a_row, a_step, count, b + 4 * column, b_step, c + 4 * column, c_row, adds)
        column += 2 * LANES
    if column < columns:
        _one_vector(a, a_row, a_step, count, b + 4 * column, b_step, c + 4 * column, c_row, adds)


def _transposing() -> Any:
    """f(source, source_row, target, target_row): LANES x LANES numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, source_row, target, target_row = arguments
        rows = [
            builder.load(pointer(builder, builder.add(source, builder.mul(source_row, INT64(i)))), align=4)
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
            builder.store(row, pointer(builder, builder.add(target, builder.mul(target_row, INT64(i)))), align=4)
        return context.get_dummy_value()

    def transpose_tile(typing: Any, source: Any, source_row: Any, target: Any, target_row: Any) -> Any:
        return types.void(*[types.int64] * 4), generate

    return intrinsic(transpose_tile)


transpose_tile = _transposing()


def _fetching() -> Any:
    """f(address): ask for what stands there, 64 bytes; nothing happens where it does not exist."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [BYTES, INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [builder.inttoptr(arguments[0], BYTES), INT32(0), INT32(3), INT32(1)])
        return context.get_dummy_value()

    def fetch(typing: Any, address: Any) -> Any:
        return types.void(types.int64), generate

    return intrinsic(fetch)


fetch = _fetching()


def over_row(builder: Any, seen: Any, step: Any) -> Any:
    """step(offset in bytes, select) for every vector of a row of which `seen` numbers count; the last offset.

    select(value, other) puts `other` where nothing counts. The last vector may hold nothing that does: so no jump
    depends on the number.
    """
    whole = builder.udiv(seen, INT64(LANES))
    with cgutils.for_range(builder, whole) as loop:
        step(builder.mul(loop.index, INT64(4 * LANES)), lambda value, other: value)
    kind = ir.VectorType(INT32, LANES)
    rest = in_all_lanes(builder, builder.trunc(builder.urem(seen, INT64(LANES)), INT32), kind)
    counts = builder.icmp_signed("<", ir.Constant(kind, list(range(LANES))), rest)
    last = builder.mul(whole, INT64(4 * LANES))
    step(last, lambda value, other: builder.select(counts, value, ir.Constant(VECTOR, [other] * LANES)))
    return last
