"""How do rounding errors grow from layer to layer? Their variance, carried beside the values.

Every dot product, activation and loss of the forward and the backward pass adds its own rounding
and passes on what it was given. Worst cases would overshoot by up to 1e100 at depth 10; variances
come within a small factor, unless errors are correlated (``tolerance`` sees to that).

Sources: Higham & Mary 2019, "A new approach to probabilistic rounding error analysis"; Ipsen & Zhou
2020, "Probabilistic error analysis for inner products".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bpbench.backend import Backpropagation, Gradients
from bpbench.network import MLP, Array
from bpbench.verify import truth
from bpbench.verify.truth import CORNERS

ELEMENTARY = 4.0
"""Units of roundoff by which implementations of exp, tanh, erf and their kin differ."""
CORNER_SIGMAS = 8.0
"""A unit nearer than this to its corner, in standard deviations of z, may fall on either side."""


@dataclass(frozen=True)
class Precision:
    """What a dtype rounds to.

    Attributes:
        name: as messages call it.
        unit: the unit roundoff u, half the distance from 1 to the next number.
        tiny: what underflow may take off each result; never below 1e-150, whose square must not
            underflow here.
        operand: the unit roundoff to which the operands of products are rounded first.
        largest: the largest number that it holds.
    """

    name: str
    unit: float
    tiny: float
    operand: float = 0.0
    largest: float = float(np.finfo(np.float32).max)


def precision(dtype: str) -> Precision:
    """The precision of a NumPy dtype."""
    info = np.finfo(dtype)
    tiny, largest = max(float(info.tiny), 1e-150), float(info.max)
    return Precision(dtype, float(info.eps) / 2, tiny, largest=largest)


REDUCED = (
    Precision("products in TF32 or float16", 2.0**-24, 2.0**-126, 2.0**-11),
    Precision("products in bfloat16", 2.0**-24, 2.0**-126, 2.0**-8),
    Precision("float16 throughout", 2.0**-11, 2.0**-24, 2.0**-11),
    Precision("bfloat16 throughout", 2.0**-8, 2.0**-126, 2.0**-8),
)
"""What accelerators compute in where float32 is asked for."""


# ── Activations: how errors pass, and what evaluation adds ─────────────────────────────────────


class Bend(NamedTuple):
    """What an activation does to errors at z, entry by entry.

    Attributes:
        curvature: f''(z), by which an error of z becomes one of f'.
        value: the standard deviation of evaluating f(z).
        slope: the standard deviation of evaluating f'(z).
    """

    curvature: Array | float
    value: Array | float
    slope: Array | float


SATURATED = 1e-3
"""Below so many units of roundoff from 1, every library's sigmoid and tanh are exactly 1."""


def _near_one(lack: Array, p: Precision) -> Array:
    """The standard deviation of evaluating 1 - lack for a lack of at least 0."""
    return np.where(lack < SATURATED * p.unit, lack, ELEMENTARY * p.unit)


def _sigmoid(z: Array, a: Array, slope: Array, p: Precision) -> Bend:  # f' is computed as a (1 - a)
    value = a * _near_one(slope / np.maximum(a, p.tiny), p) + p.tiny
    return Bend(slope * (1 - 2 * a), value, np.hypot((1 - 2 * a) * value, 3 * p.unit * slope))


def _tanh(z: Array, a: Array, slope: Array, p: Precision) -> Bend:  # f' is computed as 1 - a^2
    value = np.abs(a) * _near_one(slope / (1 + np.abs(a)), p) + p.tiny
    return Bend(-2 * a * slope, value, np.hypot(2 * a * value, 3 * p.unit * slope))


def _leaky_relu(z: Array, a: Array, slope: Array, p: Precision) -> Bend:
    below = z <= 0
    return Bend(0.0, 1.5 * p.unit * np.abs(a) * below + p.tiny, p.unit * slope * below)


def _elu(z: Array, a: Array, slope: Array, p: Precision) -> Bend:  # f' is computed as e^z or a + 1
    below = z <= 0
    value = (ELEMENTARY * p.unit * np.abs(a) + p.tiny) * below
    return Bend(slope * below, value, value + p.unit * below)


def _softplus(z: Array, a: Array, slope: Array, p: Precision) -> Bend:  # f' may be e^(z - a)
    spread = _log_form(z, p) * slope + p.tiny
    return Bend(slope * (1 - slope), ELEMENTARY * p.unit * a + p.tiny, spread)


def _log_form(z: Array, p: Precision) -> Array:
    """The relative error of sigmoid(z) when it is computed as e^(z - log(1 + e^z)).

    The difference errs by u |z|, but where z dwarfs log(1 + e^-z) it is just 0 and errs by that.
    """
    lost = np.where(z < 0, -z, np.minimum(z, np.exp(-np.maximum(z, 0)) / p.unit))
    return np.asarray((ELEMENTARY + lost) * p.unit)


def _gelu(z: Array, a: Array, slope: Array, p: Precision) -> Bend:  # z (1 + erf) / 2 cancels
    density = np.asarray(truth.gaussian_density(z))
    size = np.abs(z)
    value = ELEMENTARY * p.unit * np.maximum(np.abs(a), 0.5 * size) + p.tiny * size
    spread = p.unit * (0.5 * ELEMENTARY + size * density * (ELEMENTARY + z * z)) + p.tiny * size
    return Bend(density * (2 - z * z), value, spread)


def _silu(z: Array, a: Array, slope: Array, p: Precision) -> Bend:  # 1 - s cancels above 0
    s, bend = truth.FORMULAS["sigmoid"](z)
    size = 1 + np.abs(z)
    value = ELEMENTARY * p.unit * np.abs(a) + p.tiny * size
    lack = _near_one(bend / np.maximum(s, p.tiny), p)
    spread = s * (ELEMENTARY * p.unit + lack * np.abs(z)) + p.tiny * size
    return Bend(bend * (2 + z * (1 - 2 * s)), value, spread)


BENDS: dict[str, Callable[[Array, Array, Array, Precision], Bend]] = {
    "identity": lambda z, a, slope, p: Bend(0.0, 0.0, 0.0),
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "relu": lambda z, a, slope, p: Bend(0.0, 0.0, 0.0),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "softplus": _softplus,
    "gelu": _gelu,
    "silu": _silu,
}


# ── Variances through both passes ──────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Problem:
    """A backpropagation whose rounding is in question; all arrays float64.

    Attributes:
        W, b, x, y, cotangent, l2: as in ``truth.backpropagate``.
        true: its result.
        positive: (m, n_l) each, the side of its corner that each unit of a relu is on.
        W_variance, b_variance: of errors that the parameters already carry, or None.
    """

    network: MLP
    W: Sequence[Array]
    b: Sequence[Array]
    x: Array
    y: Array | None
    cotangent: Array | None
    l2: float
    true: Backpropagation[Array]
    positive: Sequence[Array]
    W_variance: Sequence[Array] | None = None
    b_variance: Sequence[Array] | None = None


def dot_variance(terms: int, value: Array, squares: Array, p: Precision) -> Array:
    """The variance that computing a dot product adds.

    Args:
        terms: how many products are added.
        value: the dot product.
        squares: the sum of the squared products.
        p: what it is computed in.
    """
    own = p.unit**2 * terms / 9 * value**2 + (terms * p.tiny) ** 2
    return own + _share(terms, p) * squares


def _share(terms: int, p: Precision) -> float:
    """The part of ``dot_variance`` that multiplies the sum of squared products."""
    return p.unit**2 / 3 * (terms / 2 + 1) + 2 / 3 * p.operand**2


def variances(
    problem: Problem, p: Precision, corners: Sequence[Array | None] | None = None
) -> Backpropagation[Array]:
    """The variance of every entry of loss, z, a, delta, dW, db and the input's gradient.

    Args:
        problem: what is computed.
        p: the precision it is computed in.
        corners: (m, n_l) each or None: units that may be on either side of their corner.
    """
    network, true, u = problem.network, problem.true, p.unit
    inputs = [problem.x, *true.a]
    Vz: list[Array] = []
    Va: list[Array] = [np.zeros_like(problem.x)]
    Vslope: list[Array] = []
    slopes: list[Array] = []
    for layer, name in enumerate(network.activations):
        Vz.append(_forward(problem, layer, inputs[layer], Va[layer], p))
        z, a = true.z[layer], true.a[layer]
        corner = corners[layer] if corners is not None else None
        if name == "softmax":
            Va.append(_softmax(z, a, Vz[-1], p))
            continue
        if name in CORNERS:
            slope = np.where(problem.positive[layer], 1.0, CORNERS[name])
        else:
            slope = truth.FORMULAS[name](z)[1]
        bend = BENDS[name](z, a, slope, p)
        second_order = 0.5 * np.square(bend.curvature * Vz[-1])  # where f' is 0
        Va.append(slope**2 * Vz[-1] + second_order + np.square(bend.value) + p.tiny**2)
        Vslope.append(bend.curvature**2 * Vz[-1] + np.square(bend.slope))
        slopes.append(slope)
        if corner is not None:
            Va[-1] = np.where(corner, Vz[-1], Va[-1])
            Vslope[-1] = np.where(corner, 4 / CORNER_SIGMAS**2, Vslope[-1])

    loss = None if problem.y is None else _loss(problem, Vz[-1], Va[-1], p)
    Vdelta = [_output(problem, Vz[-1], Va[-1], slopes, Vslope, p)]
    Vinput = np.zeros_like(problem.x)
    for layer in range(network.layers - 1, -1, -1):
        c, Vc = _backward(problem, layer, Vdelta[0], p)
        if not layer:
            Vinput = Vc
            break
        f, Vf = slopes[layer - 1], Vslope[layer - 1]
        V = Vc * f**2 + c**2 * Vf + Vc * Vf
        name, z = network.activations[layer - 1], true.z[layer - 1]
        V = np.where(_beyond_range(name, z, c, p), np.inf, V)
        Vdelta.insert(0, V + (2 * u * true.delta[layer - 1]) ** 2 + p.tiny**2)

    VdW, Vdb = [], []
    for layer in range(network.layers):
        VdW.append(_weight_gradient(problem, layer, inputs[layer], Va[layer], Vdelta[layer], p))
        if network.bias:
            squares = (true.delta[layer] ** 2).sum(axis=0)
            V = dot_variance(len(problem.x), true.gradients.b[layer], squares, p)
            Vdb.append(Vdelta[layer].sum(axis=0) + V)
    return Backpropagation(
        loss, tuple(Vz), tuple(Va[1:]), tuple(Vdelta), Gradients(tuple(VdW), tuple(Vdb)), Vinput
    )


def _beyond_range(name: str, z: Array, error: Array, p: Precision) -> Array:
    """Where the error times f'(z), (m, n), may overflow on the way, though what comes of it would
    not: gelu and silu multiply by z, and softplus by e^z before it divides by 1 + e^z.
    """
    on_the_way = np.ones_like(z)
    if name in ("gelu", "silu"):
        on_the_way = np.maximum(1, np.abs(z))
    elif name == "softplus":
        on_the_way = np.exp(np.minimum(np.abs(z), SOFTPLUS_IS_LINEAR))
    return np.asarray(~(np.abs(error) * on_the_way <= p.largest / 4))


SOFTPLUS_IS_LINEAR = 50.0
"""From here on the frameworks compute no e^z any more."""


def _forward(problem: Problem, layer: int, a: Array, Va: Array, p: Precision) -> Array:
    """The variance of z = a W^T + b, (m, n_l)."""
    W = problem.W[layer]
    terms = W.shape[1] + 1
    share = _share(terms, p)
    V: Array = (Va + share * a**2) @ (W**2).T
    if problem.b:
        V = V + share * problem.b[layer] ** 2
    V = V + dot_variance(terms, problem.true.z[layer], np.zeros(1), p)
    if problem.W_variance is not None:
        V = V + (a**2 + Va) @ problem.W_variance[layer].T
    if problem.b_variance:
        V = V + problem.b_variance[layer]
    return V


def _backward(problem: Problem, layer: int, Vdelta: Array, p: Precision) -> tuple[Array, Array]:
    """c = delta W and its variance, (m, n_{l-1})."""
    W, delta = problem.W[layer], problem.true.delta[layer]
    terms = len(W)
    c = delta @ W if layer else problem.true.input_gradient
    V = (Vdelta + _share(terms, p) * delta**2) @ W**2 + dot_variance(terms, c, np.zeros(1), p)
    if problem.W_variance is not None:
        V = V + (delta**2 + Vdelta) @ problem.W_variance[layer]
    return c, V


def _weight_gradient(
    problem: Problem, layer: int, a: Array, Va: Array, Vdelta: Array, p: Precision
) -> Array:
    """The variance of dW = delta^T a, (n_l, n_{l-1}), the l2 term included."""
    delta, g = problem.true.delta[layer], problem.true.gradients.W[layer]
    decay = problem.l2 * problem.W[layer]
    terms = len(a)
    V: Array = Vdelta.T @ (a**2 + Va) + (delta**2).T @ (Va + _share(terms, p) * a**2)
    V = V + dot_variance(terms, g - decay, np.zeros(1), p)
    if problem.l2:
        V = V + p.unit**2 * (2 * decay**2 + g**2)
        if problem.W_variance is not None:
            V = V + problem.l2**2 * problem.W_variance[layer]
    return V


# ── Softmax, output error and loss ─────────────────────────────────────────────────────────────


def _softmax(z: Array, a: Array, Vz: Array, p: Precision) -> Array:
    """The variance of a = softmax(z), (m, n_L): da_i = a_i ((1 - a_i) dz_i - sum of a_j dz_j)."""
    u = p.unit
    r = z - z.max(axis=1, keepdims=True)
    e = Vz + (ELEMENTARY * u * (r < 0)) ** 2 + (u * r) ** 2  # of each e^r, relative; e^0 is exact
    shares = a**2 * e
    others = np.maximum(shares.sum(axis=1, keepdims=True) - shares, 0.0)
    rest = np.where(a > 0.5, _rest(a), 1.0)  # 1 - u / 4 is rounded to 1, and errs by u / 4
    V: Array = a**2 * ((1 - a) ** 2 * e + others + (2 * np.minimum(u, rest)) ** 2)
    return V + p.tiny**2


def _rest(a: Array) -> Array:
    """What the largest entry of each row of a softmax lacks to 1, (m, 1); 1 where none is large."""
    total: Array = np.where(a > 0.5, 0.0, a).sum(axis=1, keepdims=True)
    return total


def _output(
    problem: Problem,
    Vz: Array,
    Va: Array,
    slopes: Sequence[Array],
    Vslope: Sequence[Array],
    p: Precision,
) -> Array:
    """The variance of the last layer's delta, (m, n_L)."""
    network, y, u = problem.network, problem.y, p.unit
    a, z, delta = problem.true.a[-1], problem.true.z[-1], problem.true.delta[-1]
    m = len(a)
    V: Array
    if y is not None and network.loss != "half_squared_error":
        # Labels of 0 and 1 are exact factors; others are rounded, even where a - y is small.
        soft = np.where((y == 0) | (y == 1), 0.0, y + a)
        V = Va + (2 * u * (a - y)) ** 2 + (2 * u * soft) ** 2
        if network.loss == "cross_entropy":
            V = V + (2 * u * a * (soft.max(axis=1, keepdims=True) > 0)) ** 2
        if network.loss == "binary_cross_entropy":  # from logits, by whichever formula
            V = V + (_log_form(z, p) * (1 - y) * a) ** 2 + (_log_form(-z, p) * y * (1 - a)) ** 2
        return V / m**2 + p.tiny**2
    # Half squared error, or a cotangent: e = dL/da, times f' or the softmax's Jacobian.
    e = problem.cotangent if y is None else (a - y) / m
    assert e is not None
    Ve = np.zeros_like(a) if y is None else Va / m**2 + (2 * u * e) ** 2
    if network.output != "softmax":
        f, Vf = slopes[-1], Vslope[-1]
        V = Ve * f**2 + e**2 * Vf + Ve * Vf
        V = np.where(_beyond_range(network.output, z, e, p), np.inf, V)
        return V + (2 * u * delta) ** 2 + p.tiny**2
    # delta_i = a_i (e_i - s), s = sum_j e_j a_j; with y, e moves with a by 1/m.
    own = 0.0 if y is None else 1 / m
    s = (e * a).sum(axis=1, keepdims=True)
    rounding = Ve - own**2 * Va
    Vs = ((e + own * a) ** 2 * Va + a**2 * rounding).sum(axis=1, keepdims=True)
    # Where the largest a rounds to 1, so do its products: e_i - s is 0 and no rounding error.
    square = ((e * a) ** 2).sum(axis=1, keepdims=True)
    own_rounding = dot_variance(a.shape[1] + 1, s, square, p) + u**2 * (e**2 + s**2)
    Vs = Vs + own_rounding * np.minimum(1.0, _rest(a) / u) ** 2
    V = (e - s + own * a) ** 2 * Va + a**2 * (Vs + rounding)
    return V + (2 * u * delta) ** 2 + p.tiny**2


def _loss(problem: Problem, Vz: Array, Va: Array, p: Precision) -> Array:
    """The variance of the mean loss, the l2 term included; infinite where the sum over the samples,
    which the mean is taken from, is too large for the dtype.
    """
    network, y, u = problem.network, problem.y, p.unit
    a, z, m = problem.true.a[-1], problem.true.z[-1], len(problem.x)
    assert y is not None
    if network.loss == "half_squared_error":
        each = 0.5 * (a - y) ** 2
        V = (a - y) ** 2 * (Va + (u * (a - y)) ** 2)
    elif network.loss == "binary_cross_entropy":
        each = y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)
        V = (a - y) ** 2 * Vz + u**2 * ((ELEMENTARY * each) ** 2 + z**2)
    else:
        top = z.max(axis=1, keepdims=True)
        r = z - top
        log_sum = np.log(np.exp(r).sum(axis=1, keepdims=True))
        each = y * (log_sum - r)
        V = (a - y) ** 2 * Vz + (y * u) ** 2 * (r**2 + 2 * (ELEMENTARY * log_sum) ** 2 + top**2)
    total = V.sum() / m**2 + dot_variance(each.size, each.sum() / m, (each**2).sum() / m**2, p)
    if problem.l2:
        squares = [w**2 for w in problem.W]
        terms = sum(w.size for w in squares)
        weight = 0.5 * problem.l2
        total = total + dot_variance(
            terms,
            np.asarray(weight * sum(s.sum() for s in squares)),
            np.asarray(weight**2 * sum((s**2).sum() for s in squares)),
            p,
        )
        if problem.W_variance is not None:
            moved = zip(squares, problem.W_variance, strict=True)
            total = total + problem.l2**2 * sum((s * V).sum() for s, V in moved)
    loss = problem.true.loss
    assert loss is not None
    if not abs(float(loss)) * len(problem.x) <= p.largest / 4:
        return np.asarray(np.inf)
    return np.asarray(total + (2 * u * np.asarray(loss)) ** 2)
