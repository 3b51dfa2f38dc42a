"""How is a matrix product taken without BLAS? By tiles whose sums never leave the registers.

There is nothing to pack, to allocate or to look up, so a product of 4 x 3 x 2 takes 10 ns, and one
of 128 x 128 x 128 comes nearer to the processor's limit than a BLAS that was built for another one.
"""

from __future__ import annotations

from typing import Any

import numba

from bpbench.backends.numpy_compiled.tiles import at, copy, lanes, tile, transpose_block
from bpbench.backends.numpy_compiled.vectors import REGISTERS

njit: Any = numba.njit
compiled = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""For functions that only compiled code calls, and"""

inlined = njit(error_model="numpy", inline="always")
"""for those that are called in one place: one compilation less."""

WIDTH = 4 if REGISTERS == 32 else 2
"""Registers that a tile is wide, at most: with 6 rows, three quarters of all there are."""

STEPS_AT_ONCE = 128
"""Of a product's inner dimension: so much of WIDTH registers' columns stays in the L1 cache."""

PACKED_ROWS = 192
"""Rows of A that go through all columns of B before the next, so that they stay in the L2 cache."""

PACKED_FROM_STEP, PACKED_FROM_ROWS = 512, 64
"""Where steps lie so far apart that they push each other out of the cache, they are copied first,
if so many rows, or columns, make use of it."""


def _rows_of_tiles(tall, short, registers):
    """A function that goes down ``registers`` columns of C by tiles of so many rows."""

    @compiled
    def rows(A, a_row, a_step, B, b_step, C, c_row, base, base_row, decay, m, columns, steps):
        i = 0
        while i + tall <= m:
            tile(tall, registers, at(A, i * a_row), a_row, a_step, B, b_step, at(C, i * c_row),
                 c_row, at(base, i * base_row), base_row, decay, columns, steps)  # fmt: skip
            i += tall
        while i + short <= m:
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
    _rows_of_tiles(6, 2, WIDTH),
)


@compiled
def transpose(source, s_row, rows, columns, target, t_row):
    """target (columns, rows) of source (rows, columns), whose rows start so many numbers apart."""
    n = lanes(source)
    if rows * columns <= n:
        for i in range(rows):
            for j in range(columns):
                target[j * t_row + i] = source[i * s_row + j]
        return
    for i in range(0, rows, n):
        for j in range(0, columns, n):
            transpose_block(at(source, i * s_row + j), s_row, rows - i, columns - j,
                            at(target, j * t_row + i), t_row)  # fmt: skip


@compiled
def panels(A, a_row, a_step, B, b_step, b_column, C, c_row, base, base_row, decay, m, n, steps,
           packed):  # fmt: skip
    """``product`` with a short inner dimension, a few columns after the other.

    Those of B are first put one row behind the other, where they lie elsewhere or far apart.
    """
    widest = WIDTH * lanes(A)
    far = m >= PACKED_FROM_ROWS and b_step >= PACKED_FROM_STEP
    j = 0
    while j < n:
        columns, right, r_step = min(n - j, widest), at(B, j * b_column), b_step
        if b_column != 1:
            transpose(right, b_column, columns, steps, packed, widest)
        elif far:
            for row in range(steps):
                copy(at(right, row * b_step), at(packed, row * widest), columns)
        if far or b_column != 1:
            right, r_step = packed, widest
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
def product(A, a_row, a_step, B, b_step, b_column, C, c_row, base, base_row, decay, m, n, k,
            packed):  # fmt: skip
    """C = base + A B - decay * base: A is (m, k), B (k, n), C (m, n).

    Rows, steps of the sum and columns lie apart by the numbers after each array; columns of C and
    ``base`` by 1, and of B either those or its steps. ``base`` may be C itself, or one row for all
    where ``base_row`` is 0. ``packed`` is room for as many numbers as ``room`` says.
    """
    for top in range(0, m, PACKED_ROWS):
        rows = min(m - top, PACKED_ROWS)
        for start in range(0, k, STEPS_AT_ONCE):
            steps = min(k - start, STEPS_AT_ONCE)
            left, l_row, l_step = at(A, top * a_row + start * a_step), a_row, a_step
            if a_row == 1 and a_step >= PACKED_FROM_STEP and n >= PACKED_FROM_ROWS:
                transpose(left, a_step, steps, rows, packed, steps)
                left, l_row, l_step = packed, steps, 1
            target, right = at(C, top * c_row), at(B, start * b_step)
            # what the steps before have added up is the base of those after them
            under, apart = (at(base, top * base_row), base_row) if start == 0 else (target, c_row)
            panels(left, l_row, l_step, right, b_step, b_column, target, c_row, under, apart,
                   decay if start == 0 else 0.0, rows, n, steps,
                   at(packed, PACKED_ROWS * STEPS_AT_ONCE))  # fmt: skip


def room(lanes: int) -> int:
    """Numbers that ``packed`` must have room for."""
    return STEPS_AT_ONCE * (PACKED_ROWS + WIDTH * lanes)
