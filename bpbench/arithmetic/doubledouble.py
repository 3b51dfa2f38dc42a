"""What stands in for extended precision where ``np.longdouble`` is float64? Sums of two float64.

Sources: Dekker 1971; Hida, Li & Bailey 2001 (the algorithms of the QD library).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bpbench.arithmetic import Array


class DoubleDouble(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of numbers of about 106 bits, high + low, that NumPy's functions take.

    Only what a truth needs is there: arithmetic, comparisons (by the high parts), abs, exp, expm1,
    log, log1p, sqrt, ldexp, rint, where, sums and maxima.
    """

    bits = 106
    __slots__ = ("high", "low")

    def __init__(self, high: Any, low: Any = 0.0) -> None:
        self.high, self.low = _two_sum(*np.broadcast_arrays(high, low))

    @property
    def shape(self) -> tuple[int, ...]:
        """As of any array."""
        return tuple(self.high.shape)

    @property
    def ndim(self) -> int:
        """As of any array."""
        return self.high.ndim

    @property
    def T(self) -> DoubleDouble:  # noqa: N802 (as NumPy calls it)
        """As of any array."""
        return DoubleDouble(self.high.T, self.low.T)

    def __len__(self) -> int:
        return len(self.high)

    def __getitem__(self, key: Any) -> DoubleDouble:
        return DoubleDouble(self.high[key], self.low[key])

    def astype(self, dtype: Any) -> Array:
        """Rounded to an ordinary dtype."""
        return np.asarray(self.high + self.low).astype(dtype)

    def sum(self, axis: int | None = None, keepdims: bool = False) -> DoubleDouble:
        """The sum along an axis, or of all entries."""
        if axis is None:
            return DoubleDouble(self.high.ravel(), self.low.ravel()).sum(axis=0)
        rest = DoubleDouble(np.moveaxis(self.high, axis, 0), np.moveaxis(self.low, axis, 0))
        while len(rest) > 1:  # fold the upper half onto the lower one; an odd entry waits
            half = len(rest) // 2
            folded = rest[:half] + rest[half : 2 * half]
            rest = DoubleDouble(
                np.concatenate([folded.high, rest.high[2 * half :]]),
                np.concatenate([folded.low, rest.low[2 * half :]]),
            )
        total = rest[0]
        if not keepdims:
            return total
        return DoubleDouble(np.expand_dims(total.high, axis), np.expand_dims(total.low, axis))

    def max(self, axis: int | None = None, keepdims: bool = False) -> Array:
        """The largest high part."""
        return np.asarray(self.high.max(axis=axis, keepdims=keepdims))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        function = _UFUNCS.get(ufunc)
        return NotImplemented if function is None or method != "__call__" else function(*inputs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        function = _FUNCTIONS.get(func)
        return NotImplemented if function is None else function(*args)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded, and what rounding took off, exactly."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """a * b rounded, and what rounding took off, exactly."""
    p = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halves(a: Array) -> tuple[Array, Array]:
    t = 134217729.0 * a  # 2^27 + 1
    high = t - (t - a)
    return high, a - high


def _lift(value: Any) -> DoubleDouble:
    return value if isinstance(value, DoubleDouble) else DoubleDouble(np.asarray(value, np.float64))


def _add(a: Any, b: Any) -> DoubleDouble:
    a, b = _lift(a), _lift(b)
    s, e = _two_sum(a.high, b.high)
    t, f = _two_sum(a.low, b.low)
    s, e = _two_sum(s, e + t)
    return DoubleDouble(s, e + f)


def _negative(a: DoubleDouble) -> DoubleDouble:
    return DoubleDouble(-a.high, -a.low)


def _multiply(a: Any, b: Any) -> DoubleDouble:
    a, b = _lift(a), _lift(b)
    p, e = _two_product(a.high, b.high)
    return DoubleDouble(p, e + (a.high * b.low + a.low * b.high))


def _divide(a: Any, b: Any) -> DoubleDouble:
    a, b = _lift(a), _lift(b)
    first = a.high / b.high
    rest = a - b * first
    second = rest.high / b.high
    rest = rest - b * second
    return _add(DoubleDouble(first, second), rest.high / b.high)


def _sqrt(a: DoubleDouble) -> DoubleDouble:
    root = np.sqrt(a.high)
    rest = _add(a, _negative(_multiply(root, root))).high
    return DoubleDouble(root, rest / np.where(root > 0, 2 * root, 1.0))


def _abs(a: DoubleDouble) -> DoubleDouble:
    sign = np.where(a.high < 0, -1.0, 1.0)
    return DoubleDouble(sign * a.high, sign * a.low)


_LN2 = DoubleDouble(np.float64(0.6931471805599453), np.float64(2.3190468138462996e-17))
_HALVINGS = 8


def _reduced_expm1(r: DoubleDouble) -> DoubleDouble:
    """e^r - 1 for |r| < 0.4: a Taylor series at r / 2^8, then (1 + s)^2 - 1 = s (2 + s)."""
    r = _ldexp(r, -_HALVINGS)
    term = total = r
    for n in range(2, 12):
        term = term * r / float(n)
        total = total + term
    for _ in range(_HALVINGS):
        total = total * (total + 2.0)
    return total


def _exp(a: DoubleDouble) -> DoubleDouble:
    a = _where(a.high > -800, a, -800.0)  # which underflows as well
    turns = np.rint(a.high / _LN2.high)
    value = _reduced_expm1(a - _LN2 * turns) + 1.0
    return _ldexp(value, turns.astype(int))


def _expm1(a: DoubleDouble) -> DoubleDouble:
    small = abs(a.high) < 0.4
    near = _reduced_expm1(_where(small, a, 0.0))
    return _where(small, near, _exp(a) - 1.0)


def _log(a: DoubleDouble) -> DoubleDouble:
    first = DoubleDouble(np.log(a.high))
    return _add(first, a * _exp(_negative(first)) - 1.0)  # Newton doubles the correct digits


def _log1p(a: DoubleDouble) -> DoubleDouble:
    first = DoubleDouble(np.log1p(a.high))
    e = _expm1(first)
    return _add(first, (a - e) / (e + 1.0))


def _ldexp(a: Any, exponent: Any) -> DoubleDouble:
    a = _lift(a)
    return DoubleDouble(np.ldexp(a.high, exponent), np.ldexp(a.low, exponent))


def _where(condition: Array, a: Any, b: Any) -> DoubleDouble:
    a, b = _lift(a), _lift(b)
    return DoubleDouble(np.where(condition, a.high, b.high), np.where(condition, a.low, b.low))


def _by_high(ufunc: np.ufunc) -> Callable[..., Any]:
    return lambda *values: ufunc(*(_lift(v).high for v in values))


_UFUNCS: dict[Any, Callable[..., Any]] = {
    np.add: _add,
    np.subtract: lambda a, b: _add(a, _negative(_lift(b))),
    np.negative: _negative,
    np.multiply: _multiply,
    np.true_divide: _divide,
    np.absolute: _abs,
    np.sqrt: _sqrt,
    np.exp: _exp,
    np.expm1: _expm1,
    np.log: _log,
    np.log1p: _log1p,
    np.ldexp: _ldexp,
    np.maximum: lambda a, b: _where(_lift(a).high >= _lift(b).high, a, b),
    np.minimum: lambda a, b: _where(_lift(a).high <= _lift(b).high, a, b),
} | {ufunc: _by_high(ufunc) for ufunc in (np.greater, np.greater_equal, np.less, np.rint)}

_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.where: _where,
    np.zeros_like: lambda a: DoubleDouble(np.zeros(a.shape)),
    np.ones_like: lambda a: DoubleDouble(np.ones(a.shape)),
}
