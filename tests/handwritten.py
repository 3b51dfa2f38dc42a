"""Backpropagation as a tutorial writes it, into any step of which a mistake can be planted.

It shares no code with bpbench: the judge must not be tested by its own formulas. ``Handwritten`` is
right as long as nothing is planted; tests/mistakes.py holds what can be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import erf

from bpbench import MLP

# ── The functions of the network ───────────────────────────────────────────────────────────────


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


F = {
    "identity": lambda z: z,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "elu": lambda z: np.where(z > 0, z, np.exp(np.minimum(z, 0)) - 1),
    "softplus": lambda z: np.log1p(np.exp(z)),
    "gelu": lambda z: z * (1 + erf(z / np.sqrt(2))) / 2,
    "silu": lambda z: z * sigmoid(z),
}
F_PRIME = {
    "identity": np.ones_like,
    "sigmoid": lambda z: sigmoid(z) * (1 - sigmoid(z)),
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "relu": lambda z: (z > 0) * 1.0,
    "leaky_relu": lambda z: np.where(z > 0, 1.0, 0.01),
    "elu": lambda z: np.where(z > 0, 1.0, np.exp(np.minimum(z, 0))),
    "softplus": sigmoid,
    "gelu": lambda z: (1 + erf(z / np.sqrt(2))) / 2 + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi),
    "silu": lambda z: sigmoid(z) + z * sigmoid(z) * (1 - sigmoid(z)),
}
OF_OUTPUT = {
    "sigmoid": lambda a: a * (1 - a),
    "tanh": lambda a: 1 - a**2,
    "elu": lambda a: np.where(a > 0, 1.0, a + 1),
    "softplus": lambda a: 1 - np.exp(-a),
}
"""f' as a formula of a, where there is one that goes wrong when it is given z."""


def softmax(z, axis=1):
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


# ── The steps ──────────────────────────────────────────────────────────────────────────────────


class State:
    """What one call has computed so far, by the names of the equations."""

    def __init__(self, network, W, b, x, y):
        self.network, self.W, self.b, self.x, self.y = network, W, b, x, y
        self.m, self.last = len(x), network.layers - 1
        self.z, self.a = {}, {-1: x}
        self.c, self.delta, self.dW, self.db = {}, {}, {}, {}
        self.l2 = 0.0

    def f_prime(self, layer):
        return F_PRIME[self.network.activations[layer]](self.z[layer])


def step_z(s, j):
    z = s.a[j - 1] @ s.W[j].T
    return z + s.b[j] if s.b else z


def step_a(s, j):
    name = s.network.activations[j]
    return softmax(s.z[j]) if name == "softmax" else F[name](s.z[j])


def step_error(s, j):
    """dL/da of the mean loss, (m, n_L)."""
    o, y = s.a[j], s.y
    if s.network.loss == "binary_cross_entropy":
        return (o - y) / (o * (1 - o)) / s.m
    if s.network.loss == "cross_entropy":
        return -y / o / s.m
    return (o - y) / s.m


def step_output(s, j):
    """delta of the output layer."""
    if s.network.loss != "half_squared_error":
        return (s.a[j] - s.y) / s.m
    if s.network.output == "softmax":
        return s.a[j] * (s.error - (s.error * s.a[j]).sum(axis=1, keepdims=True))
    return s.error * s.f_prime(j)


def step_back(s, j):
    return s.delta[j + 1] @ s.W[j + 1]


def step_hidden(s, j):
    return s.c[j] * s.f_prime(j)


def step_dW(s, j):  # noqa: N802
    return s.delta[j].T @ s.a[j - 1] + s.l2 * s.W[j]


def step_db(s, j):
    return s.delta[j].sum(axis=0)


def step_result(s, j):
    return s.dW, s.db


STEPS: dict[str, Any] = {
    "z": step_z, "a": step_a, "error": step_error, "output": step_output, "back": step_back,
    "hidden": step_hidden, "dW": step_dW, "db": step_db, "result": step_result,
}  # fmt: skip


Step = Callable[[State, int], Any]
"""(what was computed so far, layer) -> the step's result."""
Rule = Callable[[MLP, int], bool]


@dataclass(frozen=True)
class Mistake:
    """One wrong way of taking one or more steps.

    Attributes:
        name: of the kind.
        steps: which steps it replaces.
        causes: the names by which a finding may call it.
        tensors: where a finding may place it.
        place: "output", "hidden", "any" (each layer by itself) or "all" (the whole function, to be
            placed at the output).
        suits: whether the kind makes sense in this network and layer.
        needs_l2: whether it shows only in a loss with weight decay.
    """

    name: str
    steps: dict[str, Step]
    causes: tuple[str, ...]
    tensors: tuple[str, ...]
    place: str
    suits: Rule
    needs_l2: bool = False


class Handwritten:
    """A function my_gradients(W, b, x, y) -> (dW, db), with mistakes planted at layers."""

    def __init__(
        self, network: MLP, plants: Sequence[tuple[Mistake, int]] = (), l2: float = 0.0
    ) -> None:
        self.network, self.plants, self.l2 = network, plants, l2
        self.kept: dict[str, Any] = {}

    def take(self, step: str, s: State, j: int) -> Any:
        for mistake, layer in self.plants:
            if step in mistake.steps and (layer == j or mistake.place == "all"):
                return mistake.steps[step](s, j)
        return STEPS[step](s, j)

    def __call__(self, W, b, x, y):
        s = State(self.network, W, b, x, y)
        s.l2, s.kept = self.l2, self.kept
        for j in range(len(W)):
            s.z[j] = self.take("z", s, j)
            s.a[j] = self.take("a", s, j)
        s.error = self.take("error", s, s.last)
        for j in range(s.last, -1, -1):
            if j == s.last:
                s.delta[j] = self.take("output", s, j)
            else:
                s.c[j] = self.take("back", s, j)
                s.delta[j] = self.take("hidden", s, j)
            s.dW[j] = self.take("dW", s, j)
            if s.b:
                s.db[j] = self.take("db", s, j)
        dW, db = self.take("result", s, s.last)
        return [dW[j] for j in sorted(dW)], [db[j] for j in sorted(db)]
