"""Backpropagation as a tutorial writes it, into any step of which a mistake can be planted.

It shares no code with bpbench: the judge must not be tested by its own formulas. ``Handwritten`` is
right as long as nothing is planted. A ``Mistake`` replaces one step at one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    """What one call has computed so far, by the names of the document."""

    def __init__(self, network, W, b, x, y):
        self.network, self.W, self.b, self.x, self.y = network, W, b, x, y
        self.m, self.last = len(x), network.layers - 1
        self.z, self.a = {}, {-1: x}
        self.c, self.delta, self.dW, self.db = {}, {}, {}, {}
        self.l2 = 0.0

    def f_prime(self, layer):
        return F_PRIME[self.network.activations[layer]](self.z[layer])


def step_z(s, l):
    z = s.a[l - 1] @ s.W[l].T
    return z + s.b[l] if s.b else z


def step_a(s, l):
    name = s.network.activations[l]
    return softmax(s.z[l]) if name == "softmax" else F[name](s.z[l])


def step_error(s, l):
    """dL/da of the mean loss, (m, n_L)."""
    o, y = s.a[l], s.y
    if s.network.loss == "binary_cross_entropy":
        return (o - y) / (o * (1 - o)) / s.m
    if s.network.loss == "cross_entropy":
        return -y / o / s.m
    return (o - y) / s.m


def step_output(s, l):
    """delta of the output layer."""
    if s.network.loss != "half_squared_error":
        return (s.a[l] - s.y) / s.m
    if s.network.output == "softmax":
        return s.a[l] * (s.error - (s.error * s.a[l]).sum(axis=1, keepdims=True))
    return s.error * s.f_prime(l)


def step_back(s, l):
    return s.delta[l + 1] @ s.W[l + 1]


def step_hidden(s, l):
    return s.c[l] * s.f_prime(l)


def step_dW(s, l):
    return s.delta[l].T @ s.a[l - 1] + s.l2 * s.W[l]


def step_db(s, l):
    return s.delta[l].sum(axis=0)


def step_result(s, l):
    return s.dW, s.db


STEPS: dict[str, Callable[[State, int], Any]] = {
    "z": step_z, "a": step_a, "error": step_error, "output": step_output, "back": step_back,
    "hidden": step_hidden, "dW": step_dW, "db": step_db, "result": step_result,
}  # fmt: skip


@dataclass(frozen=True)
class Mistake:
    """One wrong way of taking one or more steps.

    Attributes:
        name: of the mistake, for the test's id.
        steps: which steps it replaces: (state, layer) -> the step's result.
        causes: the names under which a finding may report it.
        tensors: the tensors at which a finding may place it.
        place: "output", "hidden", "any" (each layer by itself) or "all" (one mistake in the whole
            function, to be placed at the output layer, or at none).
        suits: whether the kind makes sense in this network and layer.
        below: the finding may be placed a layer lower or higher by this much (a forward pass whose
            activation is wrong shows in the layer above).
    """

    name: str
    steps: dict[str, Callable[[State, int], Any]]
    causes: tuple[str, ...]
    tensors: tuple[str, ...]
    place: str = "any"
    suits: Callable[[MLP, int], bool] = field(default=lambda network, layer: True)
    needs_l2: bool = False


class Handwritten:
    """A function my_gradients(W, b, x, y) -> (dW, db), with mistakes planted at layers."""

    def __init__(
        self, network: MLP, plants: Sequence[tuple[Mistake, int]] = (), l2: float = 0.0
    ) -> None:
        self.network, self.plants, self.l2 = network, plants, l2
        self.kept: dict[str, Any] = {}

    def take(self, step: str, s: State, l: int) -> Any:
        for mistake, layer in self.plants:
            if step in mistake.steps and (layer == l or mistake.place == "all"):
                return mistake.steps[step](s, l)
        return STEPS[step](s, l)

    def __call__(self, W, b, x, y):
        s = State(self.network, W, b, x, y)
        s.l2, s.kept = self.l2, self.kept
        for l in range(len(W)):
            s.z[l] = self.take("z", s, l)
            s.a[l] = self.take("a", s, l)
        s.error = self.take("error", s, s.last)
        for l in range(s.last, -1, -1):
            if l == s.last:
                s.delta[l] = self.take("output", s, l)
            else:
                s.c[l] = self.take("back", s, l)
                s.delta[l] = self.take("hidden", s, l)
            s.dW[l] = self.take("dW", s, l)
            if s.b:
                s.db[l] = self.take("db", s, l)
        dW, db = self.take("result", s, s.last)
        return [dW[l] for l in sorted(dW)], [db[l] for l in sorted(db)]


# ── Which mistakes make sense where ────────────────────────────────────────────────────────────


def _bends(network, layer):
    """f' of the layer is no constant, so that a wrong f' shows."""
    return network.activations[layer] not in ("identity", "softmax")


def _smooth(network, layer):
    return network.activations[layer] not in ("identity", "softmax", "relu", "leaky_relu")


def _of_output(network, layer):
    return network.activations[layer] in OF_OUTPUT


def _squared(network, layer):
    return network.loss == "half_squared_error"


def _entropy(network, layer):
    return network.loss != "half_squared_error"


def _relu(network, layer):
    return network.activations[layer] == "relu"


def _has_bias(network, layer):
    return network.bias


def _above(network, layer):
    """There is a layer below whose output is not its input."""
    return layer > 0 and network.activations[layer - 1] != "identity"


def both(*rules):
    return lambda network, layer: all(rule(network, layer) for rule in rules)


def scaled(step, factor):
    return lambda s, l: factor(s, l) * STEPS[step](s, l)


def _all_scaled(factor):
    def result(s, l):
        k = factor(s, l)
        return {i: k * g for i, g in s.dW.items()}, {i: k * g for i, g in s.db.items()}

    return {"result": result}


def _delta_scaled(factor):
    return {"output": scaled("output", factor), "hidden": scaled("hidden", factor)}


def _delta_times(function):
    """delta of any layer, with ``function(s, l)`` in the place of f'."""

    def output(s, l):
        return s.error * function(s, l)

    return {"output": output, "hidden": lambda s, l: s.c[l] * function(s, l)}


def _rows(keep):
    """A gradient of some of the samples only."""

    def dW(s, l):
        return s.delta[l][keep].T @ s.a[l - 1][keep]

    return {"dW": dW, "db": lambda s, l: s.delta[l][keep].sum(axis=0)}


def _updated(s, l):
    return s.delta[l + 1] @ (s.W[l + 1] - 0.1 * s.dW[l + 1])


def _accumulate(s, l):
    total = s.kept.setdefault(tuple(g.shape for g in s.dW.values()), [{}, {}])
    for sums, new in zip(total, (s.dW, s.db), strict=True):
        for i, g in new.items():
            sums[i] = sums.get(i, 0) + g
    return dict(total[0]), dict(total[1])


def _changed_in_place(s, l):
    for i, g in s.dW.items():
        s.W[i] -= 0.1 * g
    return s.dW, s.db


def _shifted(s, l):
    return (s.a[l] - np.roll(s.y, 1, axis=1)) / s.m


def _clipped(step):
    return lambda s, l: np.clip(STEPS[step](s, l), -0.05, 0.05)


def _single(step):
    return lambda s, l: STEPS[step](s, l).astype(np.float32).astype(np.float64)


def _flat_target(s, l):
    return (s.a[l] - s.y[:, 0]) / s.m  # (m, 1) - (m,) is (m, m)


def _saturating(s, l):
    if s.network.loss == "cross_entropy":
        error = -s.y / s.a[l] / s.m
        return s.a[l] * (error - (error * s.a[l]).sum(axis=1, keepdims=True))
    return (-s.y / s.a[l] + (1 - s.y) / (1 - s.a[l])) * s.a[l] * (1 - s.a[l]) / s.m


MANY, HIDDEN, OUTPUT, ALL = "any", "hidden", "output", "all"
ANY_TENSOR = ("delta", "dW", "db")

MISTAKES = (
    # Factors of the whole gradient
    Mistake("no 1/m", _all_scaled(lambda s, l: s.m), ("no 1/m",), ("delta",), ALL),
    Mistake("1/m twice", _all_scaled(lambda s, l: 1 / s.m), ("1/m twice",), ("delta",), ALL),
    Mistake("mean over outputs too", _all_scaled(lambda s, l: 1 / s.y.shape[1]),
            ("mean over outputs too",), ("delta",), ALL, lambda n, l: n.sizes[-1] > 1),
    Mistake("half missing", _all_scaled(lambda s, l: 2), ("half missing or extra",), ("delta",), ALL),
    Mistake("half extra", _all_scaled(lambda s, l: 0.5), ("half missing or extra",), ("delta",), ALL),
    Mistake("sign", _all_scaled(lambda s, l: -1), ("sign",), ("delta",), ALL),
    Mistake("learning rate", _all_scaled(lambda s, l: 0.03), ("learning rate folded in",),
            ("delta",), ALL),
    Mistake("2/n_L of a mean squared error", _all_scaled(lambda s, l: 2 / s.y.shape[1]),
            ("mean over outputs too", "half missing or extra"), ("delta",), ALL, _squared),
    Mistake("divided by the inputs, not the samples", _all_scaled(lambda s, l: s.m / s.x.shape[1]),
            ("divided by the wrong axis",), ("delta",), ALL),
    Mistake("accumulated", {"result": _accumulate}, ("accumulated",), ("delta", None, "dW"), ALL),
    # Factors of one layer
    Mistake("sign of one delta", _delta_scaled(lambda s, l: -1), ("sign",), ("delta",)),
    Mistake("1/m again in one delta", _delta_scaled(lambda s, l: 1 / s.m), ("1/m twice",),
            ("delta",)),
    Mistake("no 1/m in one dW", {"dW": scaled("dW", lambda s, l: s.m)}, ("no 1/m",), ("dW",)),
    Mistake("dW averaged again", {"dW": scaled("dW", lambda s, l: 1 / s.m)}, ("1/m twice",), ("dW",)),
    Mistake("sign of one dW", {"dW": scaled("dW", lambda s, l: -1)}, ("sign",), ("dW",)),
    # The error of the output
    Mistake("output f' missing", {"output": lambda s, l: s.error},
            ("output f' missing",), ("delta",), OUTPUT, both(_squared, lambda n, l: n.output != "identity")),
    Mistake("f' where cross-entropy cancels it",
            {"output": lambda s, l: step_output(s, l) * s.a[l] * (1 - s.a[l])},
            ("f' where cross-entropy cancels it",), ("delta",), OUTPUT, _entropy),
    Mistake("diagonal only, cross-entropy", {"output": lambda s, l: s.error * s.a[l] * (1 - s.a[l])},
            ("diagonal of the softmax Jacobian only",), ("delta",), OUTPUT,
            lambda n, l: n.output == "softmax"),
    Mistake("dL/da as delta", {"output": lambda s, l: s.error}, ("output f' missing",), ("delta",),
            OUTPUT, _entropy),
    Mistake("labels shifted", {"output": _shifted}, ("labels shifted",), ("delta",), OUTPUT, _entropy),
    Mistake("second term of the cross-entropy missing",
            {"output": lambda s, l: -s.y * (1 - s.a[l]) / s.m},
            ("second term of the cross-entropy missing",), ("delta",), OUTPUT,
            lambda n, l: n.loss == "binary_cross_entropy"),
    Mistake("squared error's delta in a cross-entropy",
            {"output": lambda s, l: (s.a[l] - s.y) * s.a[l] / s.m},
            ("wrong derivative", "f' where cross-entropy cancels it", "f for f'"), ("delta",), OUTPUT, _entropy),
    Mistake("z - y", {"error": lambda s, l: (s.z[l] - s.y) / s.m}, ("z for a in the error",),
            ("delta",), OUTPUT, both(_squared, lambda n, l: n.output not in ("identity", "softmax"))),
    Mistake("a + y", {"error": lambda s, l: (s.a[l] + s.y) / s.m}, ("sign of y",), ("delta",), OUTPUT,
            _squared),
    Mistake("error squared", {"error": lambda s, l: (s.a[l] - s.y) ** 2 / 2 / s.m},
            ("loss for its derivative",), ("delta",), OUTPUT, _squared),
    Mistake("sign of the error only", {"error": lambda s, l: np.sign(s.a[l] - s.y) / s.m},
            ("absolute error's derivative",), ("delta",), OUTPUT, _squared),
    Mistake("rounded predictions", {"error": lambda s, l: (np.round(s.a[l]) - s.y) / s.m},
            ("predictions rounded",), ("delta",), OUTPUT,
            both(_squared, lambda n, l: n.output == "sigmoid")),
    # f'
    Mistake("hidden f' missing", {"hidden": lambda s, l: s.c[l]}, ("hidden f' missing",), ("delta",),
            HIDDEN, _bends),
    Mistake("f'(a)", _delta_times(lambda s, l: F_PRIME[s.network.activations[l]](s.a[l])),
            ("f'(a)",), ("delta",), MANY, lambda n, l: _smooth(n, l) and (_squared(n, l) or l < n.layers - 1)),
    Mistake("z(1-z), 1-z^2", _delta_times(lambda s, l: OF_OUTPUT[s.network.activations[l]](s.z[l])),
            ("z(1-z), 1-z^2",), ("delta",), MANY,
            lambda n, l: _of_output(n, l) and (_squared(n, l) or l < n.layers - 1)),
    Mistake("f' twice", {"hidden": lambda s, l: s.c[l] * s.f_prime(l) ** 2}, ("f' twice",), ("delta",),
            HIDDEN, both(_bends, lambda n, l: not _relu(n, l))),
    Mistake("f for f'", {"hidden": lambda s, l: s.c[l] * s.a[l]}, ("f for f'",), ("delta",), HIDDEN, _bends),
    Mistake("sigmoid's f' everywhere", {"hidden": lambda s, l: s.c[l] * F_PRIME["sigmoid"](s.z[l])},
            ("f' of another activation",), ("delta",), HIDDEN,
            lambda n, l: n.activations[l] != "sigmoid"),
    Mistake("a(1+a) for a(1-a)", {"hidden": lambda s, l: s.c[l] * s.a[l] * (1 + s.a[l])},
            ("wrong derivative",), ("delta",), HIDDEN, lambda n, l: n.activations[l] == "sigmoid"),
    Mistake("1 - a for 1 - a^2", {"hidden": lambda s, l: s.c[l] * (1 - s.a[l])},
            ("wrong derivative",), ("delta",), HIDDEN, lambda n, l: n.activations[l] == "tanh"),
    Mistake("f' of the layer above's z", {"hidden": lambda s, l: s.c[l] * F_PRIME[s.network.activations[l]](s.z[l + 1])},
            ("f' of another layer",), ("delta",), HIDDEN, both(_bends, lambda n, l: True)),
    Mistake("ReLU mask from c", {"hidden": lambda s, l: s.c[l] * (s.c[l] > 0)},
            ("ReLU mask from the wrong place",), ("delta",), HIDDEN, _relu),
    Mistake("z >= 0", {"hidden": lambda s, l: s.c[l] * (s.z[l] >= 0)}, ("z >= 0",), ("delta",), HIDDEN, _relu),
    # The way back
    Mistake("W not transposed", {"back": lambda s, l: s.delta[l + 1] @ s.W[l + 1].T},
            ("W not transposed",), ("delta",), HIDDEN),
    Mistake("wrong W", {"back": lambda s, l: s.delta[l + 1] @ s.W[l]}, ("wrong W",), ("delta",), HIDDEN),
    Mistake("W already updated", {"back": _updated}, ("W already updated",), ("delta",), HIDDEN),
    Mistake("a - y sent back, not delta",
            {"back": lambda s, l: (s.error if l + 1 == s.last else s.c[l + 1]) @ s.W[l + 1]},
            ("error sent back without f'",), ("delta",), HIDDEN,
            lambda n, l: _bends(n, l + 1) and (l + 2 < n.layers or _squared(n, l))),
    Mistake("W missing on the way back",
            {"back": lambda s, l: s.delta[l + 1].sum(axis=1, keepdims=True) + 0 * s.a[l]},
            ("W missing on the way back",), ("delta",), HIDDEN),
    Mistake("averaged before going back",
            {"back": lambda s, l: s.delta[l + 1].mean(axis=0) @ s.W[l + 1] + 0 * s.a[l]},
            ("averaged over the samples on the way back",), ("delta",), HIDDEN),
    # dW
    Mistake("dW transposed", {"dW": lambda s, l: s.a[l - 1].T @ s.delta[l]}, ("dW transposed",), ("dW",)),
    Mistake("z for a in dW", {"dW": lambda s, l: s.delta[l].T @ s.z[l - 1]},
            ("wrong activation in dW",), ("dW",), MANY, _above),
    Mistake("a_l for a_(l-1) in dW", {"dW": lambda s, l: s.delta[l].T @ s.a[l]},
            ("wrong activation in dW",), ("dW",), MANY),
    Mistake("f' forgotten in dW only", {"dW": lambda s, l: s.c[l].T @ s.a[l - 1]},
            ("hidden f' missing",), ("dW",), HIDDEN, _bends),
    Mistake("one layer's samples overwritten", _rows(slice(-1, None)), ("rows overwritten in a loop",),
            ("dW", "delta")),
    Mistake("rows overwritten in a loop",
            {"output": lambda s, l: step_output(s, l) * (np.arange(s.m) == s.m - 1)[:, None]},
            ("rows overwritten in a loop",), ("delta",), OUTPUT),
    Mistake("averages multiplied", {"dW": lambda s, l: np.outer(s.delta[l].sum(0), s.a[l - 1].mean(0))},
            ("averaged before the outer product",), ("dW",)),
    Mistake("absolute value", {"dW": lambda s, l: np.abs(step_dW(s, l))}, ("absolute value",), ("dW",)),
    Mistake("dW zero", {"dW": lambda s, l: 0 * s.W[l]}, ("dW zero",), ("dW",)),
    Mistake("last row of dW never filled", {"dW": lambda s, l: step_dW(s, l) * (np.arange(len(s.W[l])) < len(s.W[l]) - 1)[:, None]},
            ("a loop ends too early",), ("dW",)),
    Mistake("clipping of dW", {"dW": _clipped("dW")}, ("clipping",), ("dW",)),
    Mistake("returns W - eta dW", {"result": lambda s, l: ({i: s.W[i] - 0.1 * g for i, g in s.dW.items()}, {i: s.b[i] - 0.1 * g for i, g in s.db.items()})},
            ("parameters returned, not gradients",), ("dW", "delta"), ALL),
    # db
    Mistake("db averaged", {"db": lambda s, l: s.delta[l].mean(axis=0)}, ("db averaged",), ("db",), MANY, _has_bias),
    Mistake("db zero", {"db": lambda s, l: np.zeros_like(s.b[l])}, ("db zero",), ("db",), MANY, _has_bias),
    Mistake("db of the first sample", {"db": lambda s, l: s.delta[l][0]}, ("db of one sample",), ("db",), MANY, _has_bias),
    Mistake("db summed over the units", {"db": lambda s, l: s.delta[l].sum(axis=1)},
            ("db summed over the wrong axis",), ("db",), MANY, _has_bias),
    Mistake("db summed over everything", {"db": lambda s, l: s.delta[l].sum() + 0 * s.b[l]},
            ("db summed over everything",), ("db",), MANY, both(_has_bias, lambda n, l: n.sizes[l + 1] > 1)),
    Mistake("db without f'", {"db": lambda s, l: s.c[l].sum(axis=0)}, ("hidden f' missing",), ("db",), HIDDEN, both(_bends, _has_bias)),
    Mistake("db not summed", {"db": lambda s, l: s.delta[l]}, ("db not summed over the samples",), ("db",), MANY, _has_bias),
    Mistake("db without 1/m", {"db": scaled("db", lambda s, l: s.m)}, ("no 1/m",), ("db",), MANY, _has_bias),
    # L2
    Mistake("L2 missing", {"dW": lambda s, l: s.delta[l].T @ s.a[l - 1]}, ("L2 missing",), ("dW",), needs_l2=True),
    Mistake("L2 doubled", {"dW": lambda s, l: step_dW(s, l) + s.l2 * s.W[l]}, ("L2 doubled",), ("dW",), needs_l2=True),
    Mistake("L2 over m", {"dW": lambda s, l: step_dW(s, l) + (1 / s.m - 1) * s.l2 * s.W[l]}, ("L2 over m",), ("dW",), needs_l2=True),
    Mistake("L2 on the bias", {"db": lambda s, l: step_db(s, l) + s.l2 * s.b[l]}, ("L2 on the bias",), ("db",), MANY, _has_bias, needs_l2=True),
    Mistake("L2 where there is none", {"dW": lambda s, l: step_dW(s, l) + 0.02 * s.W[l]}, ("L2 that the loss does not have",), ("dW",)),
    Mistake("sign of L2", {"dW": lambda s, l: step_dW(s, l) - 2 * s.l2 * s.W[l]}, ("L2 with the wrong sign",), ("dW",), needs_l2=True),
    # The forward pass
    Mistake("bias forgotten in the forward pass", {"z": lambda s, l: s.a[l - 1] @ s.W[l].T},
            ("bias missing in the forward pass",), ("z",), MANY, _has_bias),
    Mistake("another activation", {"a": lambda s, l: F["sigmoid" if s.network.activations[l] != "sigmoid" else "tanh"](s.z[l]),
            "hidden": lambda s, l: s.c[l] * F_PRIME["sigmoid" if s.network.activations[l] != "sigmoid" else "tanh"](s.z[l])},
            ("another activation in the forward pass",), ("a",), HIDDEN),
    Mistake("no activation", {"a": lambda s, l: s.z[l], "hidden": lambda s, l: s.c[l]},
            ("activation missing in the forward pass",), ("a",), HIDDEN, lambda n, l: n.activations[l] != "identity"),
    Mistake("softmax over the samples", {"a": lambda s, l: softmax(s.z[l], axis=0)},
            ("softmax over the wrong axis",), ("a",), OUTPUT, lambda n, l: n.loss == "cross_entropy"),
    # Precision, arguments, shapes
    Mistake("float32 in dW", {"dW": _single("dW")}, ("float32 somewhere",), ("dW",)),
    Mistake("float32 in delta", {"output": _single("output"), "hidden": _single("hidden")}, ("float32 somewhere",), ANY_TENSOR),
    Mistake("W changed in place", {"result": _changed_in_place}, ("inputs changed in place",), ("W", None), ALL),
    Mistake("y of shape (m,)", {"output": _flat_target}, ("y of shape (m,) against (m,1)",), ANY_TENSOR, OUTPUT,
            lambda n, l: n.sizes[-1] == 1),
    Mistake("log of a saturated probability", {"output": _saturating}, ("log of a saturated probability",), ("delta",), OUTPUT, _entropy),
)  # fmt: skip


def layers_of(mistake: Mistake, network: MLP) -> list[int]:
    """The layers of ``network`` at which the mistake makes sense."""
    last = network.layers - 1
    layers = {
        "any": range(network.layers), "hidden": range(last), "output": [last], "all": [last],
    }[mistake.place]  # fmt: skip
    return [layer for layer in layers if mistake.suits(network, layer)]
