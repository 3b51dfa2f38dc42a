"""What would a network's gradients be without rounding? Backpropagation in a higher precision.

float32 and lower are judged by float64, float64 by extended precision. No backend is used here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bpbench.activations import Formula, find_activation
from bpbench.arithmetic import Array, Numbers
from bpbench.arithmetic.extended import EXTENDED, as_array, constant, matmul
from bpbench.backend import Backpropagation, Gradients
from bpbench.losses import ByLogits, find_loss
from bpbench.network import MLP, Parameters
from bpbench.optimizers import SGD, Adam, Optimizer, RMSProp, entry_for


def precision_above(dtype: str) -> str:
    """The dtype that judges ``dtype``: float64 for float32 and lower, extended for float64."""
    return EXTENDED if np.dtype(dtype).itemsize >= 8 else "float64"


def careful(name: str) -> Formula:
    """The formula of an activation that the truth takes; raises UsageError for an unknown one."""
    return find_activation(name).careful


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
    positive: Sequence[Array] | None = None,
) -> Backpropagation[Any]:
    """Everything that one forward and one backward pass computes, in ``dtype``.

    Args:
        network: whose gradients.
        parameters: taken as they are, already rounded to the dtype under judgement.
        x: (m, n_1), rounded likewise.
        y: (m, n_L), the expected outputs, or
        cotangent: (m, n_L), dL/da[-1].
        l2: adds 0.5 * l2 * sum of W^2 to the loss.
        dtype: what to compute in: "float32", "float64", "longdouble" or "doubledouble".
        positive: (m, n_l) each, which side of a relu's corner each unit is on, instead of z > 0.

    Returns:
        Arrays of ``dtype``, the shapes as in ``Model.backpropagate``.

    Source: equations (1) to (9) and (12) to (15).
    """
    return passes(
        network,
        [as_array(w, dtype) for w in parameters.W],
        [as_array(v, dtype) for v in parameters.b],
        as_array(x, dtype),
        None if y is None else as_array(y, dtype),
        None if cotangent is None else as_array(cotangent, dtype),
        l2,
        positive=positive,
    )


def passes(
    network: MLP,
    W: Sequence[Numbers],
    b: Sequence[Numbers],
    x: Numbers,
    y: Numbers | None,
    cotangent: Numbers | None,
    l2: float,
    *,
    formulas: Callable[[str], Formula] = careful,
    positive: Sequence[Array] | None = None,
) -> Backpropagation[Any]:
    """``backpropagate`` on arrays of any one precision, by any ``formulas`` of the activations."""
    z: list[Numbers] = []
    a: list[Numbers] = [x]
    slopes: list[Numbers] = []
    for layer, name in enumerate(network.activations):
        total = matmul(a[-1], W[layer].T)
        z.append(total + b[layer] if b else total)
        corner = find_activation(name).corner
        if corner is None:
            value, slope = formulas(name)(z[-1])
        else:
            above = z[-1] > 0 if positive is None else positive[layer]
            slope = np.where(above, np.ones_like(z[-1]), corner)
            value = slope * z[-1]
        a.append(value)
        slopes.append(slope)

    loss = None
    if y is not None:
        entries = find_loss(network.loss).entries(z[-1], a[-1], y)
        loss = (entries.sum(axis=1) / float(len(x))).sum()
        if l2:
            loss = loss + 0.5 * l2 * sum((w * w).sum() for w in W)
    delta = [_output_error(network, z[-1], a[-1], slopes[-1], y, cotangent)]
    for layer in range(network.layers - 1, 0, -1):
        delta.insert(0, matmul(delta[0], W[layer]) * slopes[layer - 1])
    dW = [matmul(d.T, below) for d, below in zip(delta, a, strict=False)]
    if l2:
        dW = [g + l2 * w for g, w in zip(dW, W, strict=True)]
    db = [d.sum(axis=0) for d in delta] if b else []
    return Backpropagation(
        loss=loss,
        z=tuple(z),
        a=tuple(a[1:]),
        delta=tuple(delta),
        gradients=Gradients(tuple(dW), tuple(db)),
        input_gradient=matmul(delta[0], W[0]),
    )


def _output_error(
    network: MLP,
    z: Numbers,
    a: Numbers,
    slope: Numbers,
    y: Numbers | None,
    cotangent: Numbers | None,
) -> Numbers:
    """delta of the last layer, (m, n_L), for y or for a cotangent; ``slope`` is f'(z) if it has."""
    error = cotangent
    if y is not None:
        derivative = find_loss(network.loss).derivative
        if isinstance(derivative, ByLogits):
            return derivative.delta(z, a, y)
        error = derivative.error(a, y)
    rows = find_activation(network.output).rows
    return error * slope if rows is None else rows.carry(a, error)


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
    """The losses before each step, (steps,), and the parameters after the last.

    Args:
        network, parameters, x, y, dtype: as in ``backpropagate``; x and y hold all rows.
        order: (steps, batch), the rows that each step sees.
        optimizer: whose formula, from its initial state.

    Returns:
        In ``dtype``; rounded to float64 where that is "doubledouble".
    """
    run = Run(network, parameters, x, y, optimizer, dtype)
    rounded = "float64" if dtype == "doubledouble" else dtype
    losses: list[Any] = [run.step(rows).loss for rows in np.asarray(order)]
    return (
        np.array([loss.astype(rounded) for loss in losses], rounded),
        Parameters(
            tuple(w.astype(rounded) for w in run.W), tuple(v.astype(rounded) for v in run.b)
        ),
    )


class Run:
    """One training run in a given precision, step by step: ``W`` and ``b`` are where it stands."""

    def __init__(
        self,
        network: MLP,
        parameters: Parameters,
        x: ArrayLike,
        y: ArrayLike,
        optimizer: Optimizer,
        dtype: str,
        formulas: Callable[[str], Formula] = careful,
    ) -> None:
        self.network, self.optimizer, self.formulas = network, optimizer, formulas
        self.x, self.y = as_array(x, dtype), as_array(y, dtype)
        self.W = [as_array(w, dtype) for w in parameters.W]
        self.b = [as_array(v, dtype) for v in parameters.b]
        self.updates = [OptimizerState(optimizer, value) for value in (*self.W, *self.b)]

    def step(self, rows: Array, positive: Sequence[Array] | None = None) -> Backpropagation[Any]:
        """Train one step on some rows; returns what backpropagation found before it."""
        found = passes(
            self.network, self.W, self.b, self.x[rows], self.y[rows], None, self.optimizer.l2,
            formulas=self.formulas, positive=positive,
        )  # fmt: skip
        gradients = (*found.gradients.W, *found.gradients.b)
        moved = [
            value - update.step(g)
            for value, update, g in zip((*self.W, *self.b), self.updates, gradients, strict=True)
        ]
        self.W, self.b = moved[: self.network.layers], moved[self.network.layers :]
        return found


class OptimizerState:
    """The state of one array's optimizer, and the formula of its step."""

    def __init__(self, optimizer: Optimizer, like: Numbers) -> None:
        self.optimizer = optimizer
        self.m = self.v = np.zeros_like(like)
        self.beta1_power = self.beta2_power = constant(like, 1.0, 0.0)
        self._formula = entry_for(optimizer, _FORMULAS, "the truth")

    def step(self, g: Numbers) -> Numbers:
        """What is to be taken from the parameter, for its gradient g."""
        return self._formula(self, self.optimizer, g)

    def _sgd(self, o: SGD, g: Numbers) -> Numbers:
        self.v = o.momentum * self.v + g
        return o.learning_rate * (g + o.momentum * self.v if o.nesterov else self.v)

    def _rmsprop(self, o: RMSProp, g: Numbers) -> Numbers:
        self.v = o.decay * self.v + (1 - o.decay) * g * g
        return o.learning_rate * g / (np.sqrt(self.v) + o.epsilon)

    def _adam(self, o: Adam, g: Numbers) -> Numbers:
        self.beta1_power = self.beta1_power * o.beta1
        self.beta2_power = self.beta2_power * o.beta2
        self.m = o.beta1 * self.m + (1 - o.beta1) * g
        self.v = o.beta2 * self.v + (1 - o.beta2) * g * g
        m, v = self.m / (1.0 - self.beta1_power), self.v / (1.0 - self.beta2_power)
        return o.learning_rate * m / (np.sqrt(v) + o.epsilon)


_FORMULAS: dict[type[Optimizer], Callable[[OptimizerState, Any, Numbers], Numbers]] = {
    SGD: OptimizerState._sgd,
    RMSProp: OptimizerState._rmsprop,
    Adam: OptimizerState._adam,
}
