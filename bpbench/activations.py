"""What is known of each activation? One row each: formulas, rounding, corners, and how to probe it.

The judge, the probes, the conformance suite and the commands look here, and so does ``MLP``.
Backends never do: what is judged must not be taken from the judge. The formulas of the truth are
written so that nothing cancels: e^-|z| stands for what would otherwise be 1 - a.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bpbench.arithmetic import Array, Numbers
from bpbench.arithmetic.extended import constant
from bpbench.arithmetic.rounding import ELEMENTARY, Precision, dot_variance, log_form
from bpbench.errors import unknown

LEAKY_RELU_SLOPE = 0.01

Formula = Callable[[Numbers], tuple[Numbers, Numbers]]
"""z -> f(z), f'(z), entry by entry; f' is None for an activation of whole rows."""


class Rounding(NamedTuple):
    """What an activation does to errors at z, entry by entry.

    Attributes:
        curvature: f''(z), by which an error of z becomes one of f'.
        value: the standard deviation of evaluating f(z).
        slope: the standard deviation of evaluating f'(z).
    """

    curvature: Array | float
    value: Array | float
    slope: Array | float


@dataclass(frozen=True)
class Rows:
    """What stands in the place of f' where an activation works on whole rows, as softmax does.

    Attributes:
        carry: (a, dL/da) -> dL/dz, (m, n) each, by the whole Jacobian, in any precision.
        value: (z, a, variance of z, precision) -> the variance of a.
        delta: (a, e, by how much e moves with a, variance of a, that of e given a, precision) ->
            the variance of dL/dz, for e = dL/da.
    """

    carry: Callable[[Numbers, Numbers], Numbers]
    value: Callable[[Array, Array, Array, Precision], Array]
    delta: Callable[[Array, Array, Array | float, Array, Array, Precision], Array]


@dataclass(frozen=True, kw_only=True)
class Activation:
    """One activation f.

    Attributes:
        careful: f and f' as the truth computes them, in any precision.
        plain: as frameworks compute them, cancellation and all.
        rounding: (z, f, f', precision) -> what evaluating it adds; None for one of whole rows.
        probabilities: whether f is never below 0 or above 1.
        spread: the standard deviation of z that keeps f' lively in probes.
        on_the_way: z -> the factor, at least 1, by which an error times f'(z) may grow before it
            shrinks, and overflow though what comes of it would not.
        slope_of_output: f' as a formula of a = f(z); None where it has none.
        rows: the Jacobian of one of whole rows, which only the output may have.
        corner: f' at and below 0 of an activation that is z above 0 and a line below it.
        piecewise: whether two formulas meet at 0, where probes keep away from.
    """

    careful: Formula
    plain: Formula
    rounding: Callable[[Array, Array, Array, Precision], Rounding] | None
    spread: float
    on_the_way: Callable[[Array], Array]
    slope_of_output: Callable[[Array], Array] | None
    probabilities: bool = False
    rows: Rows | None = None
    corner: float | None = None
    piecewise: bool = False

    def __post_init__(self) -> None:
        if (self.rounding is None) == (self.rows is None):
            raise TypeError("an activation has a rounding, or else rows")

    @property
    def hidden(self) -> bool:
        """Whether hidden layers may have it: not where it works on whole rows."""
        return self.rows is None


# ── As the truth computes them ─────────────────────────────────────────────────────────────────


def _identity(z: Numbers) -> tuple[Numbers, Numbers]:
    return z, np.ones_like(z)


def _cornered(slope: float) -> Formula:
    def formula(z: Numbers) -> tuple[Numbers, Numbers]:
        slopes = np.where(z > 0, np.ones_like(z), slope)
        return slopes * z, slopes

    return formula


def _sigmoid(z: Numbers) -> tuple[Numbers, Numbers]:
    e = np.exp(-abs(z))
    return np.where(z >= 0, np.ones_like(z), e) / (e + 1.0), e / (e + 1.0) / (e + 1.0)


def _tanh(z: Numbers) -> tuple[Numbers, Numbers]:
    e = np.exp(-2.0 * abs(z))
    size = -np.expm1(-2.0 * abs(z)) / (e + 1.0)
    return np.where(z >= 0, size, -size), 4.0 * e / (e + 1.0) / (e + 1.0)


def _elu(z: Numbers) -> tuple[Numbers, Numbers]:
    below = np.minimum(z, 0.0)
    return np.where(z > 0, z, np.expm1(below)), np.exp(below)


def _softplus(z: Numbers) -> tuple[Numbers, Numbers]:
    return np.maximum(z, 0.0) + np.log1p(np.exp(-abs(z))), _sigmoid(z)[0]


def _gelu(z: Numbers) -> tuple[Numbers, Numbers]:
    cdf = gaussian_cdf(z)
    return z * cdf, cdf + z * gaussian_density(z)


def _silu(z: Numbers) -> tuple[Numbers, Numbers]:
    s, slope = _sigmoid(z)
    return z * s, s + z * slope


def gaussian_density(z: Numbers) -> Numbers:
    """e^(-z^2 / 2) / sqrt(2 pi), in the precision of z."""
    return np.exp(-0.5 * z * z) * constant(z, 0.3989422804014327, -2.4923272022777166e-17)


def gaussian_cdf(z: Numbers) -> Numbers:
    """The standard normal distribution function, in the precision of z.

    Up to 3, 1/2 + density * (z + z^3 / 3 + z^5 / 15 + ...), whose terms have one sign; above, the
    tail is density / (z + 1 / (z + 2 / (z + 3 / ...))).

    Sources: Marsaglia 2004, "Evaluating the normal distribution"; Laplace 1805.
    """
    short = isinstance(z, np.ndarray) and np.finfo(z.dtype).nmant < 64
    terms, depth = (37, 60) if short else (65, 140)  # enough for 64 and 113 bits
    size = abs(z)
    density = gaussian_density(z)
    near = np.minimum(size, 3.0)
    square = near * near
    term = total = near
    for odd in range(3, 2 * terms, 2):
        term = term * square / float(odd)
        total = total + term
    far = np.maximum(size, 3.0)
    fraction = far
    for n in range(depth, 0, -1):
        fraction = far + float(n) / fraction
    tail = np.where(size < 3, 0.5 - density * total, density / fraction)
    return np.where(z > 0, 1.0 - tail, tail)


# ── As frameworks compute them ─────────────────────────────────────────────────────────────────


def _plain_sigmoid(z: Array) -> tuple[Array, Array]:
    a = 1 / (1 + np.exp(-z))
    return a, a * (1 - a)


def _plain_tanh(z: Array) -> tuple[Array, Array]:
    a = np.tanh(z)
    return a, 1 - a * a


def _plain_elu(z: Array) -> tuple[Array, Array]:
    a = np.where(z > 0, z, np.expm1(np.minimum(z, 0)))
    return a, np.where(z > 0, np.ones_like(z), a + 1)


def _plain_softplus(z: Array) -> tuple[Array, Array]:
    a = np.logaddexp(z, 0)
    return a, np.exp(z - a)


def _plain_gelu(z: Array) -> tuple[Array, Array]:
    from scipy.special import erf  # here, so that only networks with gelu need SciPy's time

    cdf = (1 + erf(z * np.sqrt(0.5).astype(z.dtype))) / 2
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi).astype(z.dtype)
    return z * cdf, cdf + z * density


def _plain_silu(z: Array) -> tuple[Array, Array]:
    s = 1 / (1 + np.exp(-z))
    return z * s, s * (1 + z * (1 - s))


# ── What evaluating them adds to errors ────────────────────────────────────────────────────────

SATURATED = 1e-3
"""Below so many units of roundoff from 1, every library's sigmoid and tanh are exactly 1."""


def _near_one(lack: Array, p: Precision) -> Array:
    """The standard deviation of evaluating 1 - lack for a lack of at least 0."""
    return np.where(lack < SATURATED * p.unit, lack, ELEMENTARY * p.unit)


def _exact(z: Array, a: Array, slope: Array, p: Precision) -> Rounding:
    return Rounding(0.0, 0.0, 0.0)


def _sigmoid_rounding(z: Array, a: Array, slope: Array, p: Precision) -> Rounding:
    # f' is computed as a (1 - a)
    value = a * _near_one(slope / np.maximum(a, p.tiny), p) + p.tiny
    return Rounding(slope * (1 - 2 * a), value, np.hypot((1 - 2 * a) * value, 3 * p.unit * slope))


def _tanh_rounding(z: Array, a: Array, slope: Array, p: Precision) -> Rounding:
    # f' is computed as 1 - a^2
    value = np.abs(a) * _near_one(slope / (1 + np.abs(a)), p) + p.tiny
    return Rounding(-2 * a * slope, value, np.hypot(2 * a * value, 3 * p.unit * slope))


def _leaky_relu_rounding(z: Array, a: Array, slope: Array, p: Precision) -> Rounding:
    below = z <= 0
    return Rounding(0.0, 1.5 * p.unit * np.abs(a) * below + p.tiny, p.unit * slope * below)


def _elu_rounding(z: Array, a: Array, slope: Array, p: Precision) -> Rounding:
    # f' is computed as e^z or a + 1
    below = z <= 0
    value = (ELEMENTARY * p.unit * np.abs(a) + p.tiny) * below
    return Rounding(slope * below, value, value + p.unit * below)


def _softplus_rounding(z: Array, a: Array, slope: Array, p: Precision) -> Rounding:
    # f' may be e^(z - a)
    spread = log_form(z, p) * slope + p.tiny
    return Rounding(slope * (1 - slope), ELEMENTARY * p.unit * a + p.tiny, spread)


def _gelu_rounding(z: Array, a: Array, slope: Array, p: Precision) -> Rounding:
    # z (1 + erf) / 2 cancels
    density = np.asarray(gaussian_density(z))
    size = np.abs(z)
    value = ELEMENTARY * p.unit * np.maximum(np.abs(a), 0.5 * size) + p.tiny * size
    spread = p.unit * (0.5 * ELEMENTARY + size * density * (ELEMENTARY + z * z)) + p.tiny * size
    return Rounding(density * (2 - z * z), value, spread)


def _silu_rounding(z: Array, a: Array, slope: Array, p: Precision) -> Rounding:
    # 1 - s cancels above 0
    s, s_slope = _sigmoid(z)
    size = 1 + np.abs(z)
    value = ELEMENTARY * p.unit * np.abs(a) + p.tiny * size
    lack = _near_one(s_slope / np.maximum(s, p.tiny), p)
    spread = s * (ELEMENTARY * p.unit + lack * np.abs(z)) + p.tiny * size
    return Rounding(s_slope * (2 + z * (1 - 2 * s)), value, spread)


# ── Softmax, which works on whole rows ─────────────────────────────────────────────────────────


def _softmax(z: Numbers) -> tuple[Numbers, None]:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True), None


def _softmax_carry(a: Numbers, error: Numbers) -> Numbers:
    return a * (error - (error * a).sum(axis=1, keepdims=True))


def _softmax_value(z: Array, a: Array, Vz: Array, p: Precision) -> Array:
    """da_i = a_i ((1 - a_i) dz_i - sum of a_j dz_j)."""
    u = p.unit
    r = z - z.max(axis=1, keepdims=True)
    e = Vz + (ELEMENTARY * u * (r < 0)) ** 2 + (u * r) ** 2  # of each e^r, relative; e^0 is exact
    shares = a**2 * e
    others = np.maximum(shares.sum(axis=1, keepdims=True) - shares, 0.0)
    rest = np.where(a > 0.5, _rest(a), 1.0)  # 1 - u / 4 is rounded to 1, and errs by u / 4
    V: Array = a**2 * ((1 - a) ** 2 * e + others + (2 * np.minimum(u, rest)) ** 2)
    return V + p.tiny**2


def _softmax_delta(
    a: Array, e: Array, own: Array | float, Va: Array, Ve: Array, p: Precision
) -> Array:
    """delta_i = a_i (e_i - s), s = sum_j e_j a_j."""
    s = (e * a).sum(axis=1, keepdims=True)
    Vs = ((e + own * a) ** 2 * Va + a**2 * Ve).sum(axis=1, keepdims=True)
    # Where the largest a rounds to 1, so do its products: e_i - s is 0 and no rounding error.
    square = ((e * a) ** 2).sum(axis=1, keepdims=True)
    own_rounding = dot_variance(a.shape[1] + 1, s, square, p) + p.unit**2 * (e**2 + s**2)
    Vs = Vs + own_rounding * np.minimum(1.0, _rest(a) / p.unit) ** 2
    return np.asarray((e - s + own * a) ** 2 * Va + a**2 * (Vs + Ve))


def _rest(a: Array) -> Array:
    """What the largest entry of each row of a softmax lacks to 1, (m, 1); 1 where none is large."""
    total: Array = np.where(a > 0.5, 0.0, a).sum(axis=1, keepdims=True)
    return total


# ── The rows ───────────────────────────────────────────────────────────────────────────────────


SOFTPLUS_IS_LINEAR = 50.0
"""From here on the frameworks compute no e^z any more."""

ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(
        careful=_identity, plain=_identity, rounding=_exact, spread=1.0, on_the_way=np.ones_like,
        slope_of_output=np.ones_like,
    ),
    "sigmoid": Activation(
        careful=_sigmoid, plain=_plain_sigmoid, rounding=_sigmoid_rounding, probabilities=True,
        spread=2.0, on_the_way=np.ones_like, slope_of_output=lambda a: a * (1 - a),
    ),
    "tanh": Activation(
        careful=_tanh, plain=_plain_tanh, rounding=_tanh_rounding, spread=1.2,
        on_the_way=np.ones_like, slope_of_output=lambda a: 1 - a * a,
    ),
    "relu": Activation(
        careful=_cornered(0.0), plain=_cornered(0.0), rounding=_exact, spread=1.5, corner=0.0,
        piecewise=True, on_the_way=np.ones_like, slope_of_output=lambda a: (a > 0).astype(a.dtype),
    ),
    "leaky_relu": Activation(
        careful=_cornered(LEAKY_RELU_SLOPE), plain=_cornered(LEAKY_RELU_SLOPE), spread=1.5,
        rounding=_leaky_relu_rounding, corner=LEAKY_RELU_SLOPE, piecewise=True,
        on_the_way=np.ones_like,
        slope_of_output=lambda a: np.where(a > 0, 1, LEAKY_RELU_SLOPE),
    ),
    "elu": Activation(
        careful=_elu, plain=_plain_elu, rounding=_elu_rounding, spread=1.5, piecewise=True,
        on_the_way=np.ones_like, slope_of_output=lambda a: np.where(a > 0, 1, a + 1),
    ),
    "softplus": Activation(  # frameworks multiply by e^z before they divide by 1 + e^z
        careful=_softplus, plain=_plain_softplus, rounding=_softplus_rounding, spread=1.5,
        on_the_way=lambda z: np.asarray(np.exp(np.minimum(np.abs(z), SOFTPLUS_IS_LINEAR))),
        slope_of_output=lambda a: -np.expm1(-a),
    ),
    "gelu": Activation(
        careful=_gelu, plain=_plain_gelu, rounding=_gelu_rounding, spread=1.5,
        on_the_way=lambda z: np.maximum(1, np.abs(z)), slope_of_output=None,
    ),
    "silu": Activation(
        careful=_silu, plain=_plain_silu, rounding=_silu_rounding, spread=1.5,
        on_the_way=lambda z: np.maximum(1, np.abs(z)), slope_of_output=None,
    ),
    "softmax": Activation(
        careful=_softmax, plain=_softmax, rounding=None, probabilities=True, spread=1.5,
        on_the_way=np.ones_like, slope_of_output=None,
        rows=Rows(_softmax_carry, _softmax_value, _softmax_delta),
    ),
}  # fmt: skip


def find_activation(name: str) -> Activation:
    """The row of an activation; raises UsageError where there is none."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def hidden_activations() -> tuple[str, ...]:
    """The names of those that hidden layers may have."""
    return tuple(name for name, row in ACTIVATIONS.items() if row.hidden)
