"""What are the pieces of a compiled product? Pointers, tiles, transposition, and BLAS.

Every function here is called from compiled code, with pointers and counts, and puts its
instructions there. A mask keeps the last register from reading or writing beyond its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from bpbench.backends.numpy_compiled.vectors import (
    INT32,
    INT64,
    Builder,
    Vector,
    float_of,
    intrinsic,
    load,
    mask_of,
    registers,
    splat,
    store,
    zeros,
)

# ── Pointers ───────────────────────────────────────────────────────────────────────────────────


@intrinsic
def pointer(context: Any, address: Any, like: Any) -> Any:
    """The address of an array's first number, as a pointer to numbers of the array ``like``."""
    result = types.CPointer(like.dtype)

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.intp, like), generate


@intrinsic
def at(context: Any, start: Any, offset: Any) -> Any:
    """The pointer so many numbers further."""

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return start(start, types.intp), generate


@intrinsic
def lanes(context: Any, start: Any) -> Any:
    """Numbers in a register."""

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        return INT64(float_of(signature.args[0]).lanes)

    return types.intp(start), generate


@intrinsic
def transpose_block(
    context: Any, source: Any, s_row: Any, rows: Any, columns: Any, target: Any, t_row: Any
) -> Any:
    """target (columns, rows) of source (rows, columns), each of at most as many as lanes.

    To interleave the first half of the rows with the second, log2(lanes) times, transposes them.
    """
    whole = types.intp

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        source, s_row, rows, columns, target, t_row = arguments
        kind = float_of(signature.args[0])
        half = kind.lanes // 2

        low, high = (
            ir.Constant(
                ir.VectorType(INT32, kind.lanes),
                [lane for n in range(half) for lane in (start + n, kind.lanes + start + n)],
            )
            for start in (0, half)
        )

        def places(start: Any, step: Any, count: Any, width: Any) -> Iterator[tuple[Any, Any]]:
            for row in range(kind.lanes):
                inside = builder.icmp_signed("<", INT64(row), count)
                mask = mask_of(builder, kind, builder.select(inside, width, INT64(0)))
                yield builder.gep(start, [builder.mul(INT64(row), step)]), mask

        def write(rows: Any, columns: Any) -> None:
            taken = places(source, s_row, rows, columns)
            found = [load(builder, kind, *place).value for place in taken]
            for _ in range(kind.lanes.bit_length() - 1):
                found = [
                    builder.shuffle_vector(one, other, order)
                    for one, other in zip(found[:half], found[half:], strict=True)
                    for order in (low, high)
                ]
            for value, place in zip(found, places(target, t_row, columns, rows), strict=True):
                store(builder, Vector(builder, kind, value), *place)

        full = INT64(kind.lanes)
        whole_block = builder.and_(
            builder.icmp_signed(">=", rows, full), builder.icmp_signed(">=", columns, full)
        )
        with builder.if_else(whole_block) as (then, otherwise):
            with then:  # the masks are constants, and so are none
                write(full, full)
            with otherwise:
                write(rows, columns)
        return context.get_dummy_value()

    return types.void(source, whole, whole, whole, target, whole), generate


@intrinsic
def copy(context: Any, source: Any, target: Any, count: Any) -> Any:
    """Copy so many numbers; in a loop of Numba's, LLVM would ask each time whether both overlap."""

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        source, target, count = arguments
        with registers(builder, float_of(signature.args[0]), count) as (start, mask):
            found = load(builder, float_of(signature.args[0]), builder.gep(source, [start]), mask)
            store(builder, found, builder.gep(target, [start]), mask)
        return context.get_dummy_value()

    return types.void(source, target, types.intp), generate


# ── Products ───────────────────────────────────────────────────────────────────────────────────


@intrinsic(prefer_literal=True)
def tile(
    context: Any, rows: Any, registers: Any, A: Any, a_row: Any, a_step: Any, B: Any, b_step: Any,
    C: Any, c_row: Any, base: Any, base_row: Any, decay: Any, columns: Any, steps: Any,
) -> Any:  # fmt: skip
    """A few rows of C = base + A B - decay * base, whose sums never leave the registers.

    Args:
        rows, registers: of C, literal numbers.
        A, a_row, a_step: (rows, steps), with any strides.
        B, b_step: (steps, columns), rows contiguous.
        C, c_row: (rows, columns), the same.
        base, base_row: (rows, columns), the same; may be C, or one row for all, base_row 0.
        decay: a number.
        columns, steps: at most ``registers`` times the lanes; any number.
    """
    whole = types.intp
    signature = types.void(
        rows, registers, A, whole, whole, B, whole, C, whole, base, whole, A.dtype, whole, whole
    )
    height, width = rows.literal_value, registers.literal_value

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        A, a_row, a_step, B, b_step, C, c_row, base, base_row, decay, columns, steps = arguments[2:]
        kind = float_of(signature.args[2])
        shape = ir.VectorType(kind.type, kind.lanes)
        starts = [INT64(number * kind.lanes) for number in range(width)]
        masks = [mask_of(builder, kind, builder.sub(columns, start)) for start in starts]
        sums = [[zeros(builder, kind) for _ in range(width)] for _ in range(height)]
        in_row = [builder.gep(A, [builder.mul(INT64(row), a_row)]) for row in range(height)]

        with cgutils.for_range(builder, steps, intp=INT64) as loop:
            below = builder.gep(B, [builder.mul(loop.index, b_step)])
            right = [
                load(builder, kind, builder.gep(below, [start]), mask)
                for start, mask in zip(starts, masks, strict=True)
            ]
            place = builder.mul(loop.index, a_step)
            for row in range(height):
                left = splat(builder, kind, builder.load(builder.gep(in_row[row], [place])))
                for number in range(width):
                    total = Vector(builder, kind, builder.load(sums[row][number]))
                    builder.store(left.times_plus(right[number], total).value, sums[row][number])

        loss = splat(builder, kind, builder.fneg(decay))
        for row in range(height):
            for number, (start, mask) in enumerate(zip(starts, masks, strict=True)):
                offset = builder.add(builder.mul(INT64(row), base_row), start)
                initial = load(builder, kind, builder.gep(base, [offset]), mask)
                total = Vector(builder, kind, builder.load(sums[row][number]))
                offset = builder.add(builder.mul(INT64(row), c_row), start)
                found = initial + loss.times_plus(initial, total)
                assert found.type == shape
                store(builder, found, builder.gep(C, [offset]), mask)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def gemm(
    context: Any, routine: Any, transpose_a: Any, transpose_b: Any, m: Any, n: Any, k: Any,
    A: Any, a_column: Any, B: Any, b_column: Any, C: Any, c_column: Any,
) -> Any:  # fmt: skip
    """BLAS's C = op(A) op(B), columns contiguous; op transposes where its argument is true.

    Args:
        routine: the address of sgemm or dgemm.
        transpose_a, transpose_b, m, n, k, A, a_column, B, b_column, C, c_column: as BLAS has them.
    """
    whole, flag = types.intp, types.boolean
    signature = types.void(whole, flag, flag, whole, whole, whole, A, whole, B, whole, C, whole)

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        address, trans_a, trans_b, m, n, k, A, lda, B, ldb, C, ldc = arguments
        kind = float_of(signature.args[6]).type

        def placed(value: Any) -> Any:
            place = cgutils.alloca_once(builder, value.type)
            builder.store(value, place)
            return place

        def number(value: Any) -> Any:
            return placed(builder.trunc(value, INT32))

        def letter(transposed: Any) -> Any:
            byte = ir.IntType(8)
            return placed(builder.select(builder.trunc(transposed, ir.IntType(1)),
                                         byte(ord("T")), byte(ord("N"))))  # fmt: skip

        given = [
            letter(trans_a), letter(trans_b), number(m), number(n), number(k),
            placed(ir.Constant(kind, 1.0)), A, number(lda), B, number(ldb),
            placed(ir.Constant(kind, 0.0)), C, number(ldc),
        ]  # fmt: skip
        function = ir.FunctionType(ir.VoidType(), [value.type for value in given])
        builder.call(builder.inttoptr(address, function.as_pointer()), given)
        return context.get_dummy_value()

    return signature, generate
