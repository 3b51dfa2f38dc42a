"""What would a network's gradients be without rounding? Backpropagation in a higher precision.

float32 and lower are judged by float64, float64 by extended precision. The formulas are written so
that nothing cancels: e^-|z| stands for what would otherwise be 1 - a. No backend is used here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bpbench.backend import Backpropagation, Gradients
from bpbench.network import LEAKY_RELU_SLOPE, MLP, Array, Parameters
from bpbench.optimizers import SGD, Adam, Optimizer, RMSProp

Activation = Callable[[Array], tuple[Array, Array]]
"""z -> f(z), f'(z), entry by entry."""


def precision_above(dtype: str) -> str:
    """The dtype that judges ``dtype``: float64 for float32 and lower, extended for float64."""
    return "longdouble" if np.dtype(dtype).itemsize >= 8 else "float64"


# ── Activations: the value and the derivative at z ─────────────────────────────────────────────


def _identity(z: Array) -> tuple[Array, Array]:
    return z, np.ones_like(z)


def _sigmoid(z: Array) -> tuple[Array, Array]:
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e), e / (1 + e) ** 2


def _tanh(z: Array) -> tuple[Array, Array]:
    e = np.exp(-2 * np.abs(z))
    return np.sign(z) * -np.expm1(-2 * np.abs(z)) / (1 + e), 4 * e / (1 + e) ** 2


def _relu(z: Array) -> tuple[Array, Array]:
    return np.maximum(z, 0), (z > 0).astype(z.dtype)


def _leaky_relu(z: Array) -> tuple[Array, Array]:
    slope = np.where(z > 0, 1, z.dtype.type(LEAKY_RELU_SLOPE))
    return slope * z, slope


def _elu(z: Array) -> tuple[Array, Array]:
    below = np.minimum(z, 0)
    return np.where(z > 0, z, np.expm1(below)), np.exp(below)


def _softplus(z: Array) -> tuple[Array, Array]:
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))), _sigmoid(z)[0]


def _gelu(z: Array) -> tuple[Array, Array]:
    cdf = gaussian_cdf(z)
    density = np.exp(-z * z / 2) / np.sqrt(8 * np.arctan(z.dtype.type(1)))
    return z * cdf, cdf + z * density


def _silu(z: Array) -> tuple[Array, Array]:
    s, slope = _sigmoid(z)
    return z * s, s + z * slope


def gaussian_cdf(z: Array) -> Array:
    """The standard normal distribution function, in the dtype of z."""
    from scipy.special import ndtr

    return np.asarray(ndtr(z.astype(np.float64))).astype(z.dtype)


ACTIVATIONS: dict[str, Activation] = {
    "identity": _identity,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "softplus": _softplus,
    "gelu": _gelu,
    "silu": _silu,
}


def softmax(z: Array) -> Array:
    """e^z over its sum, row by row."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# ── One pass forward and back ──────────────────────────────────────────────────────────────────


def backpropagate(
    network: MLP,
    parameters: Parameters,
    x: ArrayLike,
    y: ArrayLike | None = None,
    *,
    cotangent: ArrayLike | None = None,
    l2: float = 0.0,
    dtype: str,
) -> Backpropagation[Any]:
    """Everything that one forward and one backward pass computes, in ``dtype``.

    Args:
        network: whose gradients.
        parameters: taken as they are, already rounded to the dtype under judgement.
        x: (m, n_1), rounded likewise.
        y: (m, n_L), the expected outputs, or
        cotangent: (m, n_L), dL/da[-1].
        l2: adds 0.5 * l2 * sum of W^2 to the loss.
        dtype: what to compute in: "float32", "float64" or "longdouble".

    Returns:
        Arrays of ``dtype``, the shapes as in ``Model.backpropagate``.

    Source: sections 3.1 and 3.2.
    """
    W = [np.asarray(w, dtype) for w in parameters.W]
    b = [np.asarray(v, dtype) for v in parameters.b]
    inputs = np.asarray(x, dtype)
    m = inputs.dtype.type(len(inputs))
    z: list[Array] = []
    a: list[Array] = []
    slopes: list[Array | None] = []
    below = inputs
    for layer, name in enumerate(network.activations):
        z.append(below @ W[layer].T + (b[layer] if b else 0))
        value, slope = (softmax(z[-1]), None) if name == "softmax" else ACTIVATIONS[name](z[-1])
        a.append(value)
        slopes.append(slope)
        below = value

    loss = None
    if y is not None:
        target = np.asarray(y, dtype)
        loss = _losses(network, z[-1], a[-1], target).sum() / m
        if l2:
            loss = loss + inputs.dtype.type(l2) * sum((w * w).sum() for w in W) / 2
    if y is not None and network.loss != "half_squared_error":
        delta = [_cross_entropy_error(network, z[-1], a[-1], target) / m]
    else:
        error = np.asarray(cotangent, dtype) if y is None else (a[-1] - target) / m
        if slopes[-1] is None:
            error = error - (error * a[-1]).sum(axis=1, keepdims=True)
        delta = [error * (a[-1] if slopes[-1] is None else slopes[-1])]
    for layer in range(network.layers - 1, 0, -1):
        delta.insert(0, (delta[0] @ W[layer]) * slopes[layer - 1])
    dW = [d.T @ value for d, value in zip(delta, [inputs, *a], strict=False)]
    if l2:
        dW = [g + inputs.dtype.type(l2) * w for g, w in zip(dW, W, strict=True)]
    return Backpropagation(
        loss=loss,
        z=tuple(z),
        a=tuple(a),
        delta=tuple(delta),
        gradients=Gradients(tuple(dW), tuple(d.sum(axis=0) for d in delta) if b else ()),
        input_gradient=delta[0] @ W[0],
    )


def _losses(network: MLP, z: Array, a: Array, y: Array) -> Array:
    """The loss of each row, (m,)."""
    if network.loss == "half_squared_error":
        return ((a - y) ** 2).sum(axis=1) / 2
    if network.loss == "binary_cross_entropy":  # y log(1 + e^-z) + (1 - y) log(1 + e^z)
        tail = np.log1p(np.exp(-np.abs(z)))
        return (y * (np.maximum(-z, 0) + tail) + (1 - y) * (np.maximum(z, 0) + tail)).sum(axis=1)
    r = z - z.max(axis=1, keepdims=True)
    return (y * (np.log(np.exp(r).sum(axis=1, keepdims=True)) - r)).sum(axis=1)


def _cross_entropy_error(network: MLP, z: Array, a: Array, y: Array) -> Array:
    """dL/dz of each row for a cross-entropy, whose f' cancels: a - y, (m, n_L)."""
    if network.loss == "cross_entropy":
        return a * y.sum(axis=1, keepdims=True) - y
    e = np.exp(-np.abs(z))  # a - y = a (1 - y) - (1 - a) y, which does not cancel at y = 1
    return np.where(z >= 0, (1 - y) - e * y, e * (1 - y) - y) / (1 + e)


# ── Training ───────────────────────────────────────────────────────────────────────────────────


def train(
    network: MLP,
    parameters: Parameters,
    x: ArrayLike,
    y: ArrayLike,
    order: ArrayLike,
    optimizer: Optimizer,
    *,
    dtype: str,
) -> tuple[Array, Parameters]:
    """The losses before each step, (steps,), and the parameters after the last, in ``dtype``.

    Args:
        network, parameters, x, y, dtype: as in ``backpropagate``; x and y hold all rows.
        order: (steps, batch), the rows that each step sees.
        optimizer: whose formula, from its initial state.
    """
    inputs, targets = np.asarray(x, dtype), np.asarray(y, dtype)
    rows = np.asarray(order)
    losses = np.empty(len(rows), dtype)
    values = [np.array(p, dtype) for p in (*parameters.W, *parameters.b)]
    states = [Update(optimizer, value) for value in values]
    layers = network.layers
    for step, batch in enumerate(rows):
        now = Parameters(tuple(values[:layers]), tuple(values[layers:]))
        found = backpropagate(
            network, now, inputs[batch], targets[batch], l2=optimizer.l2, dtype=dtype
        )
        losses[step] = found.loss
        gradients = (*found.gradients.W, *found.gradients.b)
        values = [v - s.step(g) for v, s, g in zip(values, states, gradients, strict=True)]
    return losses, Parameters(tuple(values[:layers]), tuple(values[layers:]))


class Update:
    """The state of one array's optimizer, and its formula."""

    def __init__(self, optimizer: Optimizer, like: Array) -> None:
        self.optimizer = optimizer
        self.m = np.zeros_like(like)
        self.v = np.zeros_like(like)
        self.t = 0

    def step(self, g: Array) -> Array:
        """What is to be taken from the parameter, for its gradient g."""
        o = self.optimizer
        number = g.dtype.type
        self.t += 1
        if isinstance(o, SGD):
            self.v = number(o.momentum) * self.v + g
            step = g + number(o.momentum) * self.v if o.nesterov else self.v
            return number(o.learning_rate) * step
        if isinstance(o, RMSProp):
            self.v = number(o.decay) * self.v + (1 - number(o.decay)) * g * g
            return number(o.learning_rate) * g / (np.sqrt(self.v) + number(o.epsilon))
        if isinstance(o, Adam):
            beta1, beta2 = number(o.beta1), number(o.beta2)
            self.m = beta1 * self.m + (1 - beta1) * g
            self.v = beta2 * self.v + (1 - beta2) * g * g
            m, v = self.m / (1 - beta1**self.t), self.v / (1 - beta2**self.t)
            return number(o.learning_rate) * m / (np.sqrt(v) + number(o.epsilon))
        raise NotImplementedError(f"the truth has no formula for {o}")
