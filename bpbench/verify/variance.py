"""How do rounding errors grow from layer to layer? Their variance, carried beside the values.

Every dot product, activation and loss of the forward and the backward pass adds its own rounding
and passes on what it was given. Worst cases would overshoot by up to 1e100 at depth 10; variances
come within a small factor, unless errors are correlated (``tolerance`` sees to that).

Sources: Higham & Mary 2019, "A new approach to probabilistic rounding error analysis"; Ipsen & Zhou
2020, "Probabilistic error analysis for inner products".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bpbench.activations import Activation, find_activation
from bpbench.arithmetic import Array
from bpbench.arithmetic.rounding import Precision, dot_variance, share
from bpbench.backend import Backpropagation, Gradients
from bpbench.losses import ByLogits, find_loss
from bpbench.network import MLP

CORNER_SIGMAS = 8.0
"""A unit nearer than this to its corner, in standard deviations of z, may fall on either side."""


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
        row = find_activation(name)
        if row.rows is not None:
            Va.append(row.rows.value(z, a, Vz[-1], p))
            continue
        assert row.rounding is not None
        if row.corner is None:
            slope = row.careful(z)[1]
        else:
            slope = np.where(problem.positive[layer], 1.0, row.corner)
        errs = row.rounding(z, a, slope, p)
        second_order = 0.5 * np.square(errs.curvature * Vz[-1])  # where f' is 0
        Va.append(slope**2 * Vz[-1] + second_order + np.square(errs.value) + p.tiny**2)
        Vslope.append(errs.curvature**2 * Vz[-1] + np.square(errs.slope))
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
        row = find_activation(network.activations[layer - 1])
        V = _through(row, true.z[layer - 1], c, Vc, slopes[layer - 1], Vslope[layer - 1], p)
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


def _through(
    row: Activation, z: Array, e: Array, Ve: Array, f: Array, Vf: Array, p: Precision
) -> Array:
    """The variance of e f'(z), (m, n); infinite where it may overflow on the way."""
    V = Ve * f**2 + e**2 * Vf + Ve * Vf
    return np.where(np.abs(e) * row.on_the_way(z) <= p.largest / 4, V, np.inf)


def _forward(problem: Problem, layer: int, a: Array, Va: Array, p: Precision) -> Array:
    """The variance of z = a W^T + b, (m, n_l)."""
    W = problem.W[layer]
    terms = W.shape[1] + 1
    part = share(terms, p)
    V: Array = (Va + part * a**2) @ (W**2).T
    if problem.b:
        V = V + part * problem.b[layer] ** 2
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
    V = (Vdelta + share(terms, p) * delta**2) @ W**2 + dot_variance(terms, c, np.zeros(1), p)
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
    V: Array = Vdelta.T @ (a**2 + Va) + (delta**2).T @ (Va + share(terms, p) * a**2)
    V = V + dot_variance(terms, g - decay, np.zeros(1), p)
    if problem.l2:
        V = V + p.unit**2 * (2 * decay**2 + g**2)
        if problem.W_variance is not None:
            V = V + problem.l2**2 * problem.W_variance[layer]
    return V


# ── Output error and loss ──────────────────────────────────────────────────────────────────────


def _output(
    problem: Problem,
    Vz: Array,
    Va: Array,
    slopes: Sequence[Array],
    Vslope: Sequence[Array],
    p: Precision,
) -> Array:
    """The variance of the last layer's delta, (m, n_L)."""
    y = problem.y
    own: Array | float = 0.0
    a, z, delta = problem.true.a[-1], problem.true.z[-1], problem.true.delta[-1]
    e, Ve = problem.cotangent, np.zeros_like(a)
    if y is not None:
        derivative = find_loss(problem.network.loss).derivative
        if isinstance(derivative, ByLogits):
            return derivative.variance(z, a, y, Va, p) + p.tiny**2
        e, own = derivative.error(a, y), derivative.curvature(a, y)
        Ve = derivative.variance(a, y, Va, p)
    assert e is not None
    row = find_activation(problem.network.output)
    if row.rows is None:
        V = _through(row, z, e, Ve, slopes[-1], Vslope[-1], p)
    else:
        V = row.rows.delta(a, e, own, Va, Ve - own**2 * Va, p)
    return np.asarray(V + (2 * p.unit * delta) ** 2 + p.tiny**2)


def _loss(problem: Problem, Vz: Array, Va: Array, p: Precision) -> Array:
    """The variance of the mean loss, the l2 term included; infinite where the sum over the samples,
    which the mean is taken from, is too large for the dtype.
    """
    y, a, z, m = problem.y, problem.true.a[-1], problem.true.z[-1], len(problem.x)
    assert y is not None
    row = find_loss(problem.network.loss)
    each = row.entries(z, a, y)
    V = row.variance(z, a, y, each, Vz, Va, p)
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
    return np.asarray(total + (2 * p.unit * np.asarray(loss)) ** 2)
