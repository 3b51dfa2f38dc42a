"""How does one compute with more than the 53 bits of float64, on every machine?

Where ``np.longdouble`` has more than 53 bits (x86 has 64), it is used as it is; elsewhere (Windows,
Apple's ARM) a ``DoubleDouble`` array takes its place behind the same NumPy functions. Products of
matrices are sums of exact float64 products of slices in either case, several times faster than
``longdouble @ longdouble``.

Source: Ozaki, Ogita, Oishi & Rump 2012, "Error-free transformations of matrix multiplication".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bpbench.arithmetic import Array
from bpbench.arithmetic.doubledouble import DoubleDouble

LONGDOUBLE_BITS = np.finfo(np.longdouble).nmant + 1
EXTENDED = "longdouble" if LONGDOUBLE_BITS > 53 else "doubledouble"
"""The extended precision of this machine."""

_SMALL_PRODUCT = 4_000_000
"""Multiplications below which NumPy's own longdouble product is the faster one."""


def as_array(values: Any, dtype: str) -> Any:
    """``values`` as an array of ``dtype``, which may be "doubledouble"."""
    if dtype != "doubledouble":
        return np.asarray(values, dtype)
    return values if isinstance(values, DoubleDouble) else DoubleDouble(np.asarray(values, float))


def constant(like: Any, high: float, low: float) -> Any:
    """high + low as an array of one entry, in the precision of the array ``like``."""
    return np.zeros_like(like[(slice(0, 1),) * like.ndim]) + high + low


def matmul(A: Any, B: Any) -> Any:
    """A @ B for two matrices of the same precision, (m, k) and (k, n)."""
    if isinstance(A, DoubleDouble):
        return _product_of_slices(A, B, DoubleDouble.bits)
    small = A.shape[0] * A.shape[1] * B.shape[1] < _SMALL_PRODUCT
    if A.dtype != np.longdouble or LONGDOUBLE_BITS == 53 or small:
        return A @ B
    return _product_of_slices(A, B, LONGDOUBLE_BITS)


def _product_of_slices(A: Any, B: Any, bits: int) -> Any:
    """The sum of the slices' products down to ``bits`` below the largest; each one is exact.

    A slice holds whole numbers of ``width`` bits, so that float64's 53 hold k products of two,
    and as many such sums as there are slices.
    """
    count = -(-bits // 19)  # a slice has 19 bits or more for k up to 8000
    width = (53 - (count * A.shape[1] - 1).bit_length()) // 2
    left, left_exponent = _slices(A, 1, width, count)
    right, right_exponent = _slices(B, 0, width, count)
    total = np.zeros_like(A[:, :1]) + np.zeros_like(B[:1, :])
    for order in range(count - 1, -1, -1):  # small terms first
        exact = left[0] @ right[order]
        for i in range(1, order + 1):
            exact += left[i] @ right[order - i]
        total = total + np.ldexp(exact, -width * (order + 2))
    return np.ldexp(np.ldexp(total, left_exponent), right_exponent)


def _slices(A: Any, axis: int, width: int, count: int) -> tuple[list[Array], Array]:
    """A as 2^exponent * sum of slice_i * 2^(-width (i + 1)), one exponent per row or column."""
    exponent = np.frexp(abs(A).max(axis=axis, keepdims=True))[1]
    rest = np.ldexp(A, -exponent)
    slices = []
    for _ in range(count):
        rest = np.ldexp(rest, width)
        whole = np.rint(rest).astype(np.float64)
        slices.append(whole)
        rest = rest - whole
    return slices, exponent
