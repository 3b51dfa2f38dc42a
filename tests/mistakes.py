"""The mistakes that are planted: each kind, the steps it replaces, and how it must be reported."""

from __future__ import annotations

import itertools

import numpy as np

from bpbench import MLP
from tests.handwritten import (
    F_PRIME,
    OF_OUTPUT,
    STEPS,
    F,
    Mistake,
    Rule,
    Step,
    softmax,
    step_a,
    step_back,
    step_db,
    step_dW,
    step_hidden,
    step_output,
    step_z,
)

# ── Where a kind makes sense ───────────────────────────────────────────────────────────────────


def always(network, layer):
    return True


def curved(network, layer):
    """f' of the layer is no constant, so that a wrong f' shows."""
    return network.activations[layer] not in ("identity", "softmax")


def smooth(network, layer):
    return network.activations[layer] not in ("identity", "softmax", "relu", "leaky_relu")


def of_output(network, layer):
    return network.activations[layer] in OF_OUTPUT


def squared(network, layer):
    return network.loss == "half_squared_error"


def entropy(network, layer):
    return network.loss != "half_squared_error"


def relu(network, layer):
    return network.activations[layer] == "relu"


def biased(network, layer):
    return network.bias


def several(network, layer):
    """The layer has several units."""
    return network.sizes[layer + 1] > 1


def bent_below(network, layer):
    """What the layer is given is not what the layer below computed as z."""
    return layer > 0 and network.activations[layer - 1] != "identity"


def own_slope(network, layer):
    """delta of the layer holds f', which a cross-entropy cancels at the output."""
    return squared(network, layer) or layer < network.layers - 1


def hidden_is(name):
    return lambda network, layer: network.activations[layer] == name


def hidden_is_not(name):
    return lambda network, layer: network.activations[layer] != name


def both(*rules):
    return lambda network, layer: all(rule(network, layer) for rule in rules)


# ── Steps ──────────────────────────────────────────────────────────────────────────────────────


def times(step: str, factor: Step) -> dict[str, Step]:
    """A step's right result by a factor."""
    return {step: lambda s, j: factor(s, j) * STEPS[step](s, j)}


def slope(f: Step) -> dict[str, Step]:
    """delta of any layer with something else in the place of f'."""
    return {"output": lambda s, j: s.error * f(s, j), "hidden": lambda s, j: s.c[j] * f(s, j)}


def masked(s, j, keep):
    """The gradients of some samples only."""
    return s.delta[j][keep].T @ s.a[j - 1][keep]


def not_last(array):
    return np.arange(len(array)) < len(array) - 1


def single(step: str) -> Step:
    return lambda s, j: STEPS[step](s, j).astype(np.float32).astype(np.float64)


def other_name(s, j):
    return "sigmoid" if s.network.activations[j] != "sigmoid" else "tanh"


def accumulated(s, j):
    total = s.kept.setdefault(tuple(g.shape for g in s.dW.values()), [{}, {}])
    for sums, new in zip(total, (s.dW, s.db), strict=True):
        for i, g in new.items():
            sums[i] = sums.get(i, 0) + g
    return dict(total[0]), dict(total[1])


def with_momentum(s, j):
    speed = s.kept.setdefault(("v", *(g.shape for g in s.dW.values())), {})
    for i, g in s.dW.items():
        speed[i] = 0.9 * speed.get(i, 0) + g
    return dict(speed), s.db


def moved_in_place(s, j):
    for i, g in s.dW.items():
        s.W[i] -= 0.1 * g
    return s.dW, s.db


def parameters_moved(s, j):
    W = {i: s.W[i] - 0.1 * g for i, g in s.dW.items()}
    return W, {i: s.b[i] - 0.1 * g for i, g in s.db.items()}


def saturating(s, j):
    """delta by way of dL/da, which divides by probabilities."""
    if s.network.loss == "cross_entropy":
        error = -s.y / s.a[j] / s.m
        return s.a[j] * (error - (error * s.a[j]).sum(axis=1, keepdims=True))
    return (-s.y / s.a[j] + (1 - s.y) / (1 - s.a[j])) * s.a[j] * (1 - s.a[j]) / s.m


def with_epsilon(s, j):
    """delta by way of dL/da, with epsilons against a division by zero."""
    if s.network.loss == "cross_entropy":
        error = -s.y / (s.a[j] + 1e-6) / s.m
        return s.a[j] * (error - (error * s.a[j]).sum(axis=1, keepdims=True))
    error = -s.y / (s.a[j] + 1e-6) + (1 - s.y) / (1 - s.a[j] + 1e-6)
    return error * s.a[j] * (1 - s.a[j]) / s.m


# ── The kinds ──────────────────────────────────────────────────────────────────────────────────

MISTAKES: list[Mistake] = []


def kind(
    name: str,
    steps: dict[str, Step],
    *causes: str,
    at: str,
    tensors: str = "delta",
    suits: Rule = always,
    l2: bool = False,
) -> None:
    """Add a kind; without causes its own name is what a finding must call it."""
    named = causes or (name,)
    MISTAKES.append(Mistake(name, steps, named, tuple(tensors.split()), at, suits, l2))


def factor(name: str, f: Step, *causes: str, suits: Rule = always) -> None:
    """A factor of the whole gradient."""

    def result(s, j):
        k = f(s, j)
        return {i: k * g for i, g in s.dW.items()}, {i: k * g for i, g in s.db.items()}

    kind(name, {"result": result}, *causes, at="all", suits=suits)


def output(name: str, delta: Step, *causes: str, suits: Rule = always) -> None:
    """A wrong delta of the output."""
    kind(name, {"output": delta}, *causes, at="output", suits=suits)


def error(name: str, e: Step, *causes: str, suits: Rule = squared) -> None:
    """A wrong dL/da, f' and all the rest being right."""
    kind(name, {"error": e}, *causes, at="output", suits=both(squared, suits))


def hidden(name: str, delta: Step, *causes: str, suits: Rule = curved) -> None:
    """A wrong delta of a hidden layer."""
    kind(name, {"hidden": delta}, *causes, at="hidden", suits=suits)


def back(name: str, c: Step, *causes: str, suits: Rule = always) -> None:
    """A wrong error that comes back to a hidden layer."""
    kind(name, {"back": c}, *causes, at="hidden", suits=suits)


def dW(name: str, g: Step, *causes: str, at: str = "any", suits: Rule = always, l2=False) -> None:
    kind(name, {"dW": g}, *causes, at=at, tensors="dW", suits=suits, l2=l2)


def db(name: str, g: Step, *causes: str, at: str = "any", suits: Rule = always, l2=False) -> None:
    kind(name, {"db": g}, *causes, at=at, tensors="db", suits=both(biased, suits), l2=l2)


# Factors of the whole gradient
HALF, AGAIN = "half missing or extra", "1/m twice"
MEAN = "mean over outputs too"
factor("no 1/m", lambda s, j: s.m)
factor("1/m twice", lambda s, j: 1 / s.m)
factor("mean over outputs too", lambda s, j: 1 / s.y.shape[1], suits=several)
factor("half missing", lambda s, j: 2, HALF)
factor("half extra", lambda s, j: 0.5, HALF)
factor("sign", lambda s, j: -1)
factor("learning rate folded in", lambda s, j: 0.03)
factor("2/n_L of a mean squared error", lambda s, j: 2 / s.y.shape[1], MEAN, HALF, suits=squared)
factor("divided by the inputs", lambda s, j: s.m / s.x.shape[1], "divided by the wrong axis")
factor(
    "logarithm of base 2", lambda s, j: 1 / np.log(2), "logarithm of another base", suits=entropy
)
factor("divided by m - 1", lambda s, j: s.m / (s.m - 1))
factor("hard-coded batch size", lambda s, j: s.m / 10)
kind("accumulated", {"result": accumulated}, at="all", tensors="dW")
kind("momentum mixed in", {"result": with_momentum}, at="all", tensors="dW")

# Factors of one layer
sign = {**times("output", lambda s, j: -1), **times("hidden", lambda s, j: -1)}
kind("sign of one delta", sign, "sign", at="any")
again = {**times("output", lambda s, j: 1 / s.m), **times("hidden", lambda s, j: 1 / s.m)}
kind("1/m again in one delta", again, AGAIN, at="any")
dW("no 1/m in one dW", lambda s, j: s.m * step_dW(s, j), "no 1/m")
dW("dW averaged again", lambda s, j: step_dW(s, j) / s.m, AGAIN)
dW("sign of one dW", lambda s, j: -step_dW(s, j), "sign")

# The error of the output
NO_SLOPE, CANCELS = "output f' missing", "f' where cross-entropy cancels it"
DIAGONAL = "diagonal of the softmax Jacobian only"
output(NO_SLOPE, lambda s, j: s.error, suits=both(squared, lambda n, j: n.output != "identity"))
output(CANCELS, lambda s, j: step_output(s, j) * s.a[j] * (1 - s.a[j]), suits=entropy)
output("diagonal only", lambda s, j: s.error * s.a[j] * (1 - s.a[j]), DIAGONAL,
       suits=lambda n, j: n.output == "softmax")  # fmt: skip
output("dL/da as delta", lambda s, j: s.error, NO_SLOPE, suits=entropy)
output("labels shifted", lambda s, j: (s.a[j] - np.roll(s.y, 1, axis=1)) / s.m,
       suits=both(entropy, several))  # fmt: skip
output("second term of the cross-entropy missing", lambda s, j: -s.y * (1 - s.a[j]) / s.m,
       suits=lambda n, j: n.loss == "binary_cross_entropy")  # fmt: skip
output("(a - y) a in a cross-entropy", lambda s, j: (s.a[j] - s.y) * s.a[j] / s.m,
       "wrong derivative", CANCELS, "f for f'", suits=entropy)  # fmt: skip
error("z for a in the error", lambda s, j: (s.z[j] - s.y) / s.m,
      suits=lambda n, j: n.output not in ("identity", "softmax", "relu"))  # fmt: skip
error("sign of y", lambda s, j: (s.a[j] + s.y) / s.m)
error("loss for its derivative", lambda s, j: (s.a[j] - s.y) ** 2 / 2 / s.m)
error("absolute error's derivative", lambda s, j: np.sign(s.a[j] - s.y) / s.m)
error("predictions rounded", lambda s, j: (np.round(s.a[j]) - s.y) / s.m,
      suits=lambda n, j: n.output == "sigmoid")  # fmt: skip
output("wrong Jacobian of the softmax",
       lambda s, j: s.a[j] * (s.error - (s.error * s.a[j]).sum(axis=0)),
       suits=both(squared, lambda n, j: n.output == "softmax"))  # fmt: skip
output("samples weighted", lambda s, j: step_output(s, j) * np.linspace(0.5, 1.5, s.m)[:, None])
output("a / m - y", lambda s, j: s.a[j] / s.m - s.y, "1/m in one term only", suits=entropy)
output("labels of other samples",
       lambda s, j: (s.a[j] - s.y[np.random.default_rng(0).permutation(s.m)]) / s.m,
       suits=both(entropy, several))  # fmt: skip
output("index of the rows missing", lambda s, j: (s.a[j] - s.y.max(axis=0)) / s.m,
       suits=lambda n, j: n.loss == "cross_entropy")  # fmt: skip
output(
    "activation applied twice",
    lambda s, j: (F.get(s.network.output, softmax)(s.a[j]) - s.y) / s.m,
    suits=entropy,
)
output("samples left out", lambda s, j: step_output(s, j) * (np.arange(s.m) < 2)[:, None])
output("classes weighted", lambda s, j: (s.a[j] - s.y) * (1 + 2 * s.y) / s.m,
       suits=lambda n, j: n.loss == "binary_cross_entropy")  # fmt: skip
error("root of the loss", lambda s, j: (s.a[j] - s.y) / s.m / np.sqrt(np.mean((s.a[j] - s.y) ** 2)))
output("label smoothing", lambda s, j: (s.a[j] - 0.9 * s.y - 0.1 / s.y.shape[1]) / s.m,
       "labels changed", suits=entropy)  # fmt: skip
output("error of the chosen class",
       lambda s, j: (np.eye(s.y.shape[1])[s.a[j].argmax(axis=1)] - s.y) / s.m,
       "predictions rounded", suits=both(entropy, several))  # fmt: skip
output("epsilon in the denominator", with_epsilon, suits=entropy)
error(
    "error averaged over its entries",
    lambda s, j: (s.a[j] - s.y).mean(axis=1, keepdims=True) / s.m + 0 * s.y,
    suits=both(several, lambda n, j: n.output != "softmax"),
)
output("y of shape (m,) against (m,1)", lambda s, j: (s.a[j] - s.y[:, 0]) / s.m,
       suits=lambda n, j: n.sizes[-1] == 1)  # fmt: skip
output("log of a saturated probability", saturating, suits=entropy)

output("hinge loss's derivative",
       lambda s, j: (1 - 2 * s.y) * ((2 * s.y - 1) * s.z[j] < 1) / s.m,
       suits=lambda n, j: n.loss == "binary_cross_entropy")  # fmt: skip
error("y against every output", lambda s, j: (s.a[j] - s.y[:, 0]).mean(axis=1)[:, None] / s.m,
      "y of shape (m,) against (m,1)", suits=lambda n, j: n.sizes[-1] == 1)  # fmt: skip

# f'
NO_HIDDEN = "hidden f' missing"
hidden(NO_HIDDEN, lambda s, j: s.c[j])
kind("f'(a)", slope(lambda s, j: F_PRIME[s.network.activations[j]](s.a[j])), at="any",
     suits=both(smooth, own_slope))  # fmt: skip
kind("z(1-z), 1-z^2", slope(lambda s, j: OF_OUTPUT[s.network.activations[j]](s.z[j])), at="any",
     suits=both(of_output, own_slope))  # fmt: skip
hidden(
    "f' twice", lambda s, j: s.c[j] * s.f_prime(j) ** 2, suits=both(curved, hidden_is_not("relu"))
)
hidden("f for f'", lambda s, j: s.c[j] * s.a[j])
hidden("sigmoid's f'", lambda s, j: s.c[j] * F_PRIME["sigmoid"](s.z[j]),
       "f' of another activation", suits=hidden_is_not("sigmoid"))  # fmt: skip
hidden("a(1+a) for a(1-a)", lambda s, j: s.c[j] * s.a[j] * (1 + s.a[j]),
       "wrong derivative", suits=hidden_is("sigmoid"))  # fmt: skip
hidden("1 - a for 1 - a^2", lambda s, j: s.c[j] * (1 - s.a[j]),
       "wrong derivative", suits=hidden_is("tanh"))  # fmt: skip
hidden("f' of another layer",
       lambda s, j: s.c[j] * F_PRIME[s.network.activations[j]](s.z[j + 1]))  # fmt: skip
hidden("ReLU mask from the wrong place", lambda s, j: s.c[j] * (s.c[j] > 0), suits=relu)
hidden("z >= 0", lambda s, j: s.c[j] * (s.z[j] >= 0), suits=relu)

hidden("product rule", lambda s, j: s.c[j] * F["sigmoid"](s.z[j]),
       "product rule: a term of f' missing", suits=hidden_is("silu"))  # fmt: skip
hidden("f' added, not multiplied", lambda s, j: s.c[j] + s.f_prime(j))
hidden("ReLU mask inverted", lambda s, j: s.c[j] * (s.z[j] < 0), suits=relu)
hidden("another slope", lambda s, j: s.c[j] * np.where(s.z[j] > 0, 1, 0.05),
       "wrong derivative", suits=hidden_is("leaky_relu"))  # fmt: skip
hidden("parentheses missing in f'",
       lambda s, j: s.c[j] * s.a[j] * 1 - s.a[j], suits=hidden_is("sigmoid"))  # fmt: skip
hidden("elu' without + 1", lambda s, j: s.c[j] * np.where(s.z[j] > 0, 1, s.a[j]),
       "wrong derivative", suits=hidden_is("elu"))  # fmt: skip

hidden("straight-through estimate of f'", lambda s, j: s.c[j] * (np.abs(s.z[j]) <= 1), suits=smooth)
hidden("f' at the mean of z",
       lambda s, j: s.c[j] * F_PRIME[s.network.activations[j]](s.z[j].mean(axis=0)))  # fmt: skip
hidden("f' taken at the error", lambda s, j: s.c[j] * F_PRIME[s.network.activations[j]](s.c[j]),
       "f' at the error", "ReLU mask from the wrong place", suits=curved)  # fmt: skip
hidden("a for z in silu'", lambda s, j: s.c[j] * (
           F["sigmoid"](s.z[j]) + s.a[j] * F_PRIME["sigmoid"](s.z[j])
       ), "a for z, or z for a, in f'", suits=hidden_is("silu"))  # fmt: skip
hidden("leak without the error", lambda s, j: np.where(s.z[j] > 0, s.c[j], 0.01),
       "error missing in a part of delta", suits=hidden_is("leaky_relu"))  # fmt: skip
hidden("b added to delta", lambda s, j: step_hidden(s, j) + s.b[j],
       "bias added on the way back", suits=biased)  # fmt: skip

# The way back
back("divided by the units above", lambda s, j: step_back(s, j) / len(s.W[j + 1]),
     "divided by a size", MEAN, suits=lambda n, j: several(n, j + 1))  # fmt: skip
back("W not transposed", lambda s, j: s.delta[j + 1] @ s.W[j + 1].T)
back("wrong W", lambda s, j: s.delta[j + 1] @ s.W[j])
back("W already updated", lambda s, j: s.delta[j + 1] @ (s.W[j + 1] - 0.1 * s.dW[j + 1]))
back("error sent back without f'",
     lambda s, j: (s.error if j + 1 == s.last else s.c[j + 1]) @ s.W[j + 1],
     suits=lambda n, j: curved(n, j + 1) and own_slope(n, j + 1))  # fmt: skip
back("W missing on the way back",
     lambda s, j: s.delta[j + 1].sum(axis=1, keepdims=True) + 0 * s.a[j],
     "W missing on the way back", "gradient zero", "dW zero")  # fmt: skip
back("averaged over the samples on the way back",
     lambda s, j: s.delta[j + 1].mean(axis=0) @ s.W[j + 1] + 0 * s.a[j])  # fmt: skip
back("error added up over the units", lambda s, j: np.cumsum(step_back(s, j), axis=1),
     "sum not reset in a loop")  # fmt: skip
hidden("delta added up over the samples", lambda s, j: np.cumsum(step_hidden(s, j), axis=0),
       "sum not reset in a loop", suits=always)  # fmt: skip
hidden("bias column dropped at the wrong end",
       lambda s, j: np.roll(step_hidden(s, j) * not_last(s.b[j]), 1, axis=1),
       suits=both(biased, curved))  # fmt: skip

# dW
INPUT, ROWS = "wrong activation in dW", "rows overwritten in a loop"
dW("dW transposed", lambda s, j: s.a[j - 1].T @ s.delta[j])
dW("z for a in dW", lambda s, j: s.delta[j].T @ s.z[j - 1], INPUT, suits=bent_below)
dW("a_l for a_(l-1) in dW", lambda s, j: s.delta[j].T @ s.a[j], INPUT)
dW(
    "f' forgotten in dW only",
    lambda s, j: s.c[j].T @ s.a[j - 1],
    NO_HIDDEN,
    at="hidden",
    suits=curved,
)
one = {"dW": lambda s, j: masked(s, j, slice(-1, None)), "db": lambda s, j: s.delta[j][-1]}
kind("one layer's samples overwritten", one, ROWS, at="any", tensors="dW delta")
output(ROWS, lambda s, j: step_output(s, j) * ~not_last(s.x)[:, None])
dW("averaged before the outer product",
   lambda s, j: np.outer(s.delta[j].sum(0), s.a[j - 1].mean(0)))  # fmt: skip
dW("reshape where a transpose belongs",
   lambda s, j: (s.a[j - 1].T @ s.delta[j]).reshape(s.W[j].shape), suits=several)  # fmt: skip
dW("input centred in dW", lambda s, j: s.delta[j].T @ (s.a[j - 1] - s.a[j - 1].mean(axis=0)),
   "layer's input changed in dW", "averaged before the outer product")  # fmt: skip
dW("gradient rounded", lambda s, j: np.round(step_dW(s, j), 3))
dW("absolute value", lambda s, j: np.abs(step_dW(s, j)))
dW("dW zero", lambda s, j: 0 * s.W[j])
dW("last row of dW never filled", lambda s, j: step_dW(s, j) * not_last(s.W[j])[:, None],
   "a loop ends too early", suits=several)  # fmt: skip
dW("clipping", lambda s, j: np.clip(step_dW(s, j), -0.05, 0.05))
kind("parameters returned, not gradients", {"result": parameters_moved}, at="all", tensors="dW")

# db
db("db averaged", lambda s, j: s.delta[j].mean(axis=0))
db("db zero", lambda s, j: np.zeros_like(s.b[j]))
db("db of one sample", lambda s, j: s.delta[j][0])
db("db summed over the wrong axis", lambda s, j: s.delta[j].sum(axis=1))
db("db summed over everything", lambda s, j: s.delta[j].sum() + 0 * s.b[j],
   "db summed over everything", "db zero", suits=several)  # fmt: skip
db("db without f'", lambda s, j: s.c[j].sum(axis=0), NO_HIDDEN, at="hidden", suits=curved)
db("f' taken at b",
   lambda s, j: s.c[j].sum(axis=0) * OF_OUTPUT["sigmoid"](s.b[j]), "f' at b", at="hidden",
   suits=hidden_is("sigmoid"))  # fmt: skip
db("db not summed over the samples", lambda s, j: s.delta[j])
db("db without 1/m", lambda s, j: s.m * step_db(s, j), "no 1/m")

# L2
dW("L2 missing", lambda s, j: s.delta[j].T @ s.a[j - 1], l2=True)
dW("L2 doubled", lambda s, j: step_dW(s, j) + s.l2 * s.W[j], l2=True)
dW("L2 over m", lambda s, j: step_dW(s, j) + (1 / s.m - 1) * s.l2 * s.W[j], l2=True)
dW("L2 with the wrong sign", lambda s, j: step_dW(s, j) - 2 * s.l2 * s.W[j], l2=True)
db("L2 on the bias", lambda s, j: step_db(s, j) + s.l2 * s.b[j], l2=True)
dW("L2 where there is none", lambda s, j: step_dW(s, j) + 0.02 * s.W[j],
   "L2 that the loss does not have")  # fmt: skip

dW("L1 for L2", lambda s, j: step_dW(s, j) + 0.01 * np.sign(s.W[j]))

# The forward pass
kind("bias missing in the forward pass", {"z": lambda s, j: s.a[j - 1] @ s.W[j].T}, at="any",
     tensors="z", suits=biased)  # fmt: skip
kind("another activation in the forward pass",
     {"a": lambda s, j: F[other_name(s, j)](s.z[j]),
      "hidden": lambda s, j: s.c[j] * F_PRIME[other_name(s, j)](s.z[j])},
     at="hidden", tensors="a")  # fmt: skip
kind("activation missing in the forward pass",
     {"a": lambda s, j: s.z[j], "hidden": lambda s, j: s.c[j]}, at="hidden", tensors="a",
     suits=hidden_is_not("identity"))  # fmt: skip
kind("softmax over the wrong axis", {"a": lambda s, j: softmax(s.z[j], axis=0)}, at="output",
     tensors="a", suits=lambda n, j: n.loss == "cross_entropy")  # fmt: skip
kind("z normalised in the forward pass", {"z": lambda s, j: step_z(s, j) - step_z(s, j).mean(axis=0)},
     at="hidden", tensors="z")  # fmt: skip
kind("W scaled in the forward pass", {"z": lambda s, j: step_z(s, j) + 0.01 * s.a[j - 1] @ s.W[j].T},
     at="any", tensors="z", suits=biased)  # fmt: skip
kind("a scaled in the forward pass", {"a": lambda s, j: 0.8 * step_a(s, j)}, at="hidden",
     tensors="a")  # fmt: skip
kind("temperature", {"z": lambda s, j: step_z(s, j) / 3}, "z scaled in the forward pass",
     at="output", tensors="z", suits=entropy)  # fmt: skip

# Precision and arguments
dW("float32 in dW", single("dW"), "float32 somewhere")
kind("float32 in delta", {"output": single("output"), "hidden": single("hidden")},
     "float32 somewhere", at="any", tensors="delta dW db")  # fmt: skip
kind("inputs changed in place", {"result": moved_in_place}, at="all", tensors="W")


def layers_of(mistake: Mistake, network: MLP) -> list[int]:
    """The layers of ``network`` at which the mistake makes sense."""
    last = network.layers - 1
    layers = {
        "any": range(network.layers), "hidden": range(last), "output": [last], "all": [last],
    }[mistake.place]  # fmt: skip
    return [layer for layer in layers if mistake.suits(network, layer)]


# ── Layouts ────────────────────────────────────────────────────────────────────────────────────

LAYOUTS = tuple(itertools.product(("out_in", "in_out"), ("rows", "columns")))


BESIDE = {"raises", "wrong shape", "log of a saturated probability"}
"""What may be true besides, and for certain, of a function with one mistake."""


def laid_out(function, weights, samples):
    """A function of bpbench's layout in another, its mistakes left as they are."""

    def in_layout(W, b, x, y):
        if weights == "in_out":
            W = [w.T for w in W]
        if samples == "columns":
            b, x, y = [v.reshape(-1) for v in b], x.T, y.T
        dW, db = function(W, b, x, y)
        if weights == "in_out":
            dW = [g.T for g in dW]
        if samples == "columns":
            db = [g.reshape(-1, 1) if g.ndim == 1 else g.T for g in db]
        return dW, db

    return in_layout
