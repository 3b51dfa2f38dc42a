"""How is a matrix product taken without BLAS? By tiles whose sums never leave the registers.

There is nothing to pack, to allocate or to look up, so a product of 4 x 3 x 2 takes 10 ns, and one
of 128 x 128 x 128 comes nearer to the processor's limit than a BLAS that was built for another one.
"""

from __future__ import annotations

from typing import Any

import numba

from backends.numpy_compiled_tiles import at, lanes, tile, transpose_block

compiled: Any = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
inlined: Any = numba.njit(error_model="numpy", inline="always")

WIDTH = 4
"""Registers that a tile is wide, at most."""

STEPS_AT_ONCE = 128
"""Of a product's inner dimension: so much of four registers' columns stays in the L1 cache."""

PACKED_ROWS = 256
PACKED_FROM_STEP = 512
PACKED_FROM_ROWS = 64


def _rows_of_tiles(tall, short, registers):
    """A function that goes down ``registers`` columns of C by tiles of so many rows."""

    @compiled
    def rows(A, a_row, a_step, B, b_step, C, c_row, base, base_row, decay, m, columns, steps):
        i = 0
        while i + tall <= m:
            tile(tall, registers, at(A, i * a_row), a_row, a_step, B, b_step, at(C, i * c_row),
                 c_row, at(base, i * base_row), base_row, decay, columns, steps)  # fmt: skip
            i += tall
        if i + short <= m:
            tile(short, registers, at(A, i * a_row), a_row, a_step, B, b_step, at(C, i * c_row),
                 c_row, at(base, i * base_row), base_row, decay, columns, steps)  # fmt: skip
            i += short
        while i < m:
            tile(1, registers, at(A, i * a_row), a_row, a_step, B, b_step, at(C, i * c_row),
                 c_row, at(base, i * base_row), base_row, decay, columns, steps)  # fmt: skip
            i += 1

    return rows


narrow, medium, wide = (
    _rows_of_tiles(8, 4, 1),
    _rows_of_tiles(6, 4, 2),
    _rows_of_tiles(4, 2, 4),
)


@inlined
def copy(source, target, count):
    for i in range(count):
        target[i] = source[i]


@compiled
def transpose(source, s_row, rows, columns, target, t_row):
    """target (columns, rows) of source (rows, columns), whose rows start so many numbers apart."""
    n = lanes(source)
    for i in range(0, rows, n):
        for j in range(0, columns, n):
            transpose_block(at(source, i * s_row + j), s_row, rows - i, columns - j,
                            at(target, j * t_row + i), t_row)  # fmt: skip


@compiled
def panels(A, a_row, a_step, B, b_step, C, c_row, base, base_row, decay, m, n, steps, packed):
    """``product`` with a short inner dimension, a few columns after the other.

    Where ``packed`` is not nothing, those of B are put there first, one row behind the other.
    """
    j = 0
    while j < n:
        columns, right, r_step = n - j, at(B, j), b_step
        if columns > WIDTH * lanes(A):
            columns = WIDTH * lanes(A)
        if m >= PACKED_FROM_ROWS and b_step >= PACKED_FROM_STEP:
            for row in range(steps):
                copy(at(right, row * b_step), at(packed, row * WIDTH * lanes(A)), columns)
            right, r_step = packed, WIDTH * lanes(A)
        if columns > 2 * lanes(A):
            wide(A, a_row, a_step, right, r_step, at(C, j), c_row, at(base, j), base_row,
                 decay, m, columns, steps)  # fmt: skip
        elif columns > lanes(A):
            medium(A, a_row, a_step, right, r_step, at(C, j), c_row, at(base, j), base_row,
                   decay, m, columns, steps)  # fmt: skip
        else:
            narrow(A, a_row, a_step, right, r_step, at(C, j), c_row, at(base, j), base_row,
                   decay, m, columns, steps)  # fmt: skip
        j += columns


@compiled
def product(A, a_row, a_step, B, b_step, C, c_row, base, base_row, decay, m, n, k, packed):
    """C = base + A B - decay * base; A is (m, k) with any strides, B (k, n) and C (m, n) by rows.

    ``base`` may be C itself, or one row for all where ``base_row`` is 0. ``packed`` is room for
    PACKED_ROWS + WIDTH * lanes times STEPS_AT_ONCE numbers.
    """
    for top in range(0, m, PACKED_ROWS):
        rows = min(m - top, PACKED_ROWS)
        for start in range(0, max(k, 1), STEPS_AT_ONCE):
            steps = min(k - start, STEPS_AT_ONCE)
            left, l_row, l_step = at(A, top * a_row + start * a_step), a_row, a_step
            if a_row == 1 and a_step >= PACKED_FROM_STEP and n >= PACKED_FROM_ROWS:
                transpose(left, a_step, steps, rows, packed, steps)
                left, l_row, l_step = packed, steps, 1
            target, right = at(C, top * c_row), at(B, start * b_step)
            # what the steps before have added up is the base of those after them
            under, under_row = (
                (at(base, top * base_row), base_row) if start == 0 else (target, c_row)
            )
            panels(left, l_row, l_step, right, b_step, target, c_row, under, under_row,
                   decay if start == 0 else decay * 0, rows, n, steps,
                   at(packed, PACKED_ROWS * STEPS_AT_ONCE))  # fmt: skip
