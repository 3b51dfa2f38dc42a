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
    BIT,
    INT32,
    INT64,
    Builder,
    Program,
    Slice,
    Vector,
    float_of,
    intrinsic,
    piece,
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


@piece
def transpose_block(
    program: Program, source: Any, s_row: Any, rows: Any, columns: Any, target: Any, t_row: Any
) -> None:
    """target (columns, rows) of source (rows, columns), each of at most as many as lanes.

    To interleave the first half of the rows with the second, log2(lanes) times, transposes them.
    """
    builder, kind = program.builder, program.kind
    half = kind.lanes // 2
    low, high = (
        ir.Constant(
            ir.VectorType(INT32, kind.lanes),
            [lane for n in range(half) for lane in (start + n, kind.lanes + start + n)],
        )
        for start in (0, half)
    )

    def places(step: Any, count: Any, width: Any) -> Iterator[Slice]:
        for row in range(kind.lanes):
            inside = builder.icmp_signed("<", INT64(row), count)
            start = builder.mul(INT64(row), step)
            yield program.slice(start, builder.select(inside, width, INT64(0)))

    def write(rows: Any, columns: Any) -> None:
        found = [here.load(source).value for here in places(s_row, rows, columns)]
        for _ in range(kind.lanes.bit_length() - 1):
            found = [
                builder.shuffle_vector(one, other, order)
                for one, other in zip(found[:half], found[half:], strict=True)
                for order in (low, high)
            ]
        for value, here in zip(found, places(t_row, columns, rows), strict=True):
            here.store(Vector(builder, kind, value), target)

    full = INT64(kind.lanes)
    whole_block = builder.and_(
        builder.icmp_signed(">=", rows, full), builder.icmp_signed(">=", columns, full)
    )
    with builder.if_else(whole_block) as (then, otherwise):
        with then:  # the masks are constants, and so are none
            write(full, full)
        with otherwise:
            write(rows, columns)


@piece
def copy(program: Program, source: Any, target: Any, count: Any) -> None:
    """Copy so many numbers; in a loop of Numba's, LLVM would ask each time whether both overlap."""
    for here in program.registers(count):
        here.store(here.load(source), target)


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
        program = Program(builder, float_of(signature.args[2]))
        starts = [INT64(number * program.kind.lanes) for number in range(width)]
        across = [program.slice(start, builder.sub(columns, start)) for start in starts]
        sums = [[program.filled() for _ in range(width)] for _ in range(height)]
        in_row = [builder.gep(A, [builder.mul(INT64(row), a_row)]) for row in range(height)]

        with cgutils.for_range(builder, steps, intp=INT64) as loop:
            below = builder.gep(B, [builder.mul(loop.index, b_step)])
            right = [here.load(below) for here in across]
            place = builder.mul(loop.index, a_step)
            for row in range(height):
                left = program.splat(builder.load(builder.gep(in_row[row], [place])))
                for number in range(width):
                    total = program.vector(sums[row][number])
                    builder.store(left.times_plus(right[number], total).value, sums[row][number])

        loss = program.splat(builder.fneg(decay))
        for row in range(height):
            below = builder.gep(base, [builder.mul(INT64(row), base_row)])
            target = builder.gep(C, [builder.mul(INT64(row), c_row)])
            for here, place in zip(across, sums[row], strict=True):
                initial = here.load(below)
                here.store(initial + loss.times_plus(initial, program.vector(place)), target)
        return context.get_dummy_value()

    return signature, generate


@piece
def gemm(
    program: Program, routine: Any, transpose_a: Any, transpose_b: Any, m: Any, n: Any, k: Any,
    A: Any, a_column: Any, B: Any, b_column: Any, C: Any, c_column: Any,
) -> None:  # fmt: skip
    """BLAS's C = op(A) op(B), columns contiguous; op transposes where its argument is true.

    Args:
        routine: the address of sgemm or dgemm.
        transpose_a, transpose_b, m, n, k, A, a_column, B, b_column, C, c_column: as BLAS has them.
    """
    builder, kind = program.builder, program.kind.type

    def placed(value: Any) -> Any:
        place = cgutils.alloca_once(builder, value.type)
        builder.store(value, place)
        return place

    def number(value: Any) -> Any:
        return placed(builder.trunc(value, INT32))

    def letter(transposed: Any) -> Any:
        letters = (ir.IntType(8)(ord(letter)) for letter in "TN")
        return placed(builder.select(builder.trunc(transposed, BIT), *letters))

    given = [
        letter(transpose_a), letter(transpose_b), number(m), number(n), number(k),
        placed(ir.Constant(kind, 1.0)), A, number(a_column), B, number(b_column),
        placed(ir.Constant(kind, 0.0)), C, number(c_column),
    ]  # fmt: skip
    function = ir.FunctionType(ir.VoidType(), [value.type for value in given])
    builder.call(builder.inttoptr(routine, function.as_pointer()), given)
