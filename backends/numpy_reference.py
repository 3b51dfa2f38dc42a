"""Backpropagation by hand: the equations of docs/equations.md, in their order.

The m samples of a batch are the rows of a matrix, so that W^(l) a^(l-1) + b^(l) of one sample
reads ``a @ W.T + b``. The loss is the mean over the rows,
whose 1/m enters with the output's error and so is in every delta and gradient after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bpbench.backend import Backend, Backpropagation, Gradients, Model
from bpbench.network import LEAKY_RELU_SLOPE, MLP, Array, Parameters
from bpbench.optimizers import SGD, Adam, Optimizer, RMSProp

# ── Activation functions f and their derivatives f'(z) ─────────────────────────────────────────


def sigmoid(z: Array) -> Array:
    """1 / (1 + e^-z), equation (16); e^-z may overflow to infinity, which rightly gives 0."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-z))


def sigmoid_derivative(z: Array) -> Array:
    """f(z) (1 - f(z)): of z, not of a. Source: equation (17)."""
    a = sigmoid(z)
    return a * (1 - a)


def tanh_derivative(z: Array) -> Array:
    """1 - tanh(z)^2."""
    return 1 - np.tanh(z) ** 2


def relu(z: Array) -> Array:
    """max(z, 0); its derivative at 0 is 0."""
    return np.maximum(z, 0)


def leaky_relu(z: Array) -> Array:
    """z above 0, slope * z elsewhere; its derivative at 0 is the slope."""
    return np.where(z > 0, z, LEAKY_RELU_SLOPE * z)


def leaky_relu_derivative(z: Array) -> Array:
    """1 above 0, the slope elsewhere."""
    return np.where(z > 0, 1, LEAKY_RELU_SLOPE).astype(z.dtype)


def elu(z: Array) -> Array:
    """z above 0, e^z - 1 elsewhere."""
    return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))


def elu_derivative(z: Array) -> Array:
    """1 above 0, e^z elsewhere."""
    return np.exp(np.minimum(z, 0))


def softplus(z: Array) -> Array:
    """log(1 + e^z)."""
    return np.logaddexp(0, z)


def gaussian_cdf(z: Array) -> Array:
    """The standard normal distribution function, (1 + erf(z / sqrt(2))) / 2."""
    from scipy.special import ndtr  # here, so that only networks with gelu need SciPy's time

    return np.asarray(ndtr(z))


def gelu(z: Array) -> Array:
    """z times the standard normal distribution function: the erf form, not the tanh one."""
    return z * gaussian_cdf(z)


def gelu_derivative(z: Array) -> Array:
    """The distribution function plus z times its density."""
    return gaussian_cdf(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi).astype(z.dtype)


def silu(z: Array) -> Array:
    """z sigmoid(z)."""
    return z * sigmoid(z)


def silu_derivative(z: Array) -> Array:
    """s + z s (1 - s), where s = sigmoid(z)."""
    s = sigmoid(z)
    return s + z * s * (1 - s)


def softmax(z: Array) -> Array:
    """e^z over its sum, each row by itself; the largest z is taken off first against overflow."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class Activation(NamedTuple):
    """f and, where f works on each entry by itself, f'."""

    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array] | None


ACTIVATIONS = {
    "identity": Activation(np.copy, np.ones_like),
    "sigmoid": Activation(sigmoid, sigmoid_derivative),
    "tanh": Activation(np.tanh, tanh_derivative),
    "relu": Activation(relu, lambda z: (z > 0).astype(z.dtype)),
    "leaky_relu": Activation(leaky_relu, leaky_relu_derivative),
    "elu": Activation(elu, elu_derivative),
    "softplus": Activation(softplus, sigmoid),
    "gelu": Activation(gelu, gelu_derivative),
    "silu": Activation(silu, silu_derivative),
    "softmax": Activation(softmax, None),
}


def times_derivative(activation: Activation, error: Array, z: Array) -> Array:
    """An error by a carried back to one by z: error * f'(z), or the Jacobian's product for softmax.

    Args:
        activation: the layer's f.
        error: (m, n_l), dL/da.
        z: (m, n_l), where f was taken.

    Returns:
        (m, n_l), dL/dz.
    """
    if activation.derivative is not None:
        return error * activation.derivative(z)
    a = activation.function(z)
    return a * (error - (error * a).sum(axis=1, keepdims=True))


# ── Loss functions ─────────────────────────────────────────────────────────────────────────────


# Of z, (m, n_L), the last layer's pre-activations (logits), a, its activations (the outputs o), and
# y, the expected outputs: the loss of each row, (m,); and the mean's derivative by z, (m, n_L).


def half_squared_error(z: Array, a: Array, y: Array) -> Array:
    """sum (o - y)^2 / 2."""
    return ((a - y) ** 2).sum(axis=1) / 2


def half_squared_delta(f: Activation, z: Array, a: Array, y: Array) -> Array:
    """grad_a L * f'(z), where grad_a L = (a - y) / m."""
    return times_derivative(f, (a - y) / len(y), z)


def binary_cross_entropy(z: Array, a: Array, y: Array) -> Array:
    """sum -y log o - (1 - y) log(1 - o), from logits."""
    return (np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))).sum(axis=1)


def binary_delta(f: Activation, z: Array, a: Array, y: Array) -> Array:
    """(a - y) / m: the sigmoid's f' cancels."""
    return (a - y) / len(y)


def cross_entropy(z: Array, a: Array, y: Array) -> Array:
    """-sum y log o, from logits: log o = z - log sum e^z."""
    r = z - z.max(axis=1, keepdims=True)
    log_a = r - np.log(np.exp(r).sum(axis=1, keepdims=True))
    return -(y * log_a).sum(axis=1)


def cross_entropy_delta(f: Activation, z: Array, a: Array, y: Array) -> Array:
    """(a - y) / m: the softmax's f' cancels (a sum(y) - y; the sum is 1 but for rounding)."""
    return (a * y.sum(axis=1, keepdims=True) - y) / len(y)


class Loss(NamedTuple):
    """The loss of each row of z, a and y; delta^(L) of f, z, a and y."""

    per_row: Callable[[Array, Array, Array], Array]
    output_error: Callable[[Activation, Array, Array, Array], Array]


LOSSES = {
    "half_squared_error": Loss(half_squared_error, half_squared_delta),
    "binary_cross_entropy": Loss(binary_cross_entropy, binary_delta),
    "cross_entropy": Loss(cross_entropy, cross_entropy_delta),
}


def mean_loss(network: MLP, z: Array, a: Array, y: Array) -> np.floating:
    """The loss of each row, averaged over the rows.

    Args:
        network: whose loss.
        z: (m, n_L), the last layer's pre-activations: the logits.
        a: (m, n_L), its activations: the outputs o.
        y: (m, n_L), the expected outputs.
    """
    return LOSSES[network.loss].per_row(z, a, y).mean()


# ── Equations (1) to (4): the forward pass ─────────────────────────────────────────────────────


def forward(
    network: MLP, W: list[Array], b: list[Array], x: Array
) -> tuple[list[Array], list[Array]]:
    """z^(l) = W^(l) a^(l-1) + b^(l); a^(l) = f(z^(l)).

    Args:
        W: (n_l, n_{l-1}) each.
        b: (n_l,) each, or none.
        x: (m, n_1).

    Returns:
        z and a, (m, n_l) each.

    Source: equations (2) and (3).
    """
    z: list[Array] = []
    a: list[Array] = []
    below = x
    for layer, name in enumerate(network.activations):
        z.append(below @ W[layer].T + b[layer] if b else below @ W[layer].T)
        a.append(ACTIVATIONS[name].function(z[layer]))
        below = a[layer]
    return z, a


# ── Equations (6) to (9): the backward pass ────────────────────────────────────────────────────


def output_error(network: MLP, z: Array, a: Array, y: Array) -> Array:
    """delta^(L) = grad_a L * f'(z^(L)), with the 1/m of the mean.

    Args:
        z, a, y: (m, n_L).

    Returns:
        (m, n_L).

    Source: equation (6).
    """
    return LOSSES[network.loss].output_error(ACTIVATIONS[network.output], z, a, y)


def hidden_error(delta: Array, W: Array, z: Array, activation: Activation) -> Array:
    """delta^(l) = (W^(l+1)^T delta^(l+1)) * f'(z^(l)).

    Args:
        delta: (m, n_{l+1}), dL/dz of the layer above.
        W: (n_{l+1}, n_l), the weights of the layer above.
        z: (m, n_l), this layer's pre-activations.

    Returns:
        (m, n_l), dL/dz of this layer.

    Source: equation (7).
    """
    return times_derivative(activation, delta @ W, z)


def parameter_gradients(delta: Array, below: Array) -> tuple[Array, Array]:
    """grad_W = delta^(l) (a^(l-1))^T and grad_b = delta^(l), summed over the rows.

    Args:
        delta: (m, n_l).
        below: (m, n_{l-1}), the layer's input a^(l-1).

    Returns:
        (n_l, n_{l-1}) and (n_l,).

    Source: equations (8) and (9).
    """
    return delta.T @ below, delta.sum(axis=0)


def backpropagate(
    network: MLP,
    W: list[Array],
    b: list[Array],
    x: Array,
    y: Array | None,
    cotangent: Array | None,
    l2: float,
) -> Backpropagation[Array]:
    """Equations (1) to (9) and (12) to (15), for y or for dL/da[-1]."""
    z, a = forward(network, W, b, x)
    if y is not None:
        loss = mean_loss(network, z[-1], a[-1], y)
        loss = loss + x.dtype.type(0.5 * l2) * sum((w**2).sum() for w in W) if l2 else loss
        error = output_error(network, z[-1], a[-1], y)
    else:
        assert cotangent is not None
        loss = None
        error = times_derivative(ACTIVATIONS[network.output], cotangent, z[-1])

    delta = [error]  # from the output back
    for layer in range(network.layers - 2, -1, -1):
        activation = ACTIVATIONS[network.activations[layer]]
        delta.insert(0, hidden_error(delta[0], W[layer + 1], z[layer], activation))

    gradients = [parameter_gradients(d, below) for d, below in zip(delta, [x, *a], strict=False)]
    return Backpropagation(
        loss=loss,
        z=tuple(z),
        a=tuple(a),
        delta=tuple(delta),
        gradients=Gradients(
            tuple(
                dW + x.dtype.type(l2) * w if l2 else dW
                for (dW, _), w in zip(gradients, W, strict=True)
            ),
            tuple(db for _, db in gradients) if b else (),
        ),
        input_gradient=delta[0] @ W[0],
    )


# ── Equations (10) and (11): moving the parameters ─────────────────────────────────────────────


def sgd_step(o: SGD, g: Array, m: Array, v: Array, t: int) -> tuple[Array, Array, Array]:
    """Gradient descent, with momentum where asked for."""
    v = o.momentum * v + g
    return o.learning_rate * (g + o.momentum * v if o.nesterov else v), m, v


def rmsprop_step(o: RMSProp, g: Array, m: Array, v: Array, t: int) -> tuple[Array, Array, Array]:
    """The gradient over its running root mean square."""
    v = o.decay * v + (1 - o.decay) * g**2
    return o.learning_rate * g / (np.sqrt(v) + o.epsilon), m, v


def adam_step(o: Adam, g: Array, m: Array, v: Array, t: int) -> tuple[Array, Array, Array]:
    """The running mean of the gradient over its running root mean square, both corrected."""
    m = o.beta1 * m + (1 - o.beta1) * g
    v = o.beta2 * v + (1 - o.beta2) * g**2
    m_hat, v_hat = m / (1 - o.beta1**t), v / (1 - o.beta2**t)
    return o.learning_rate * m_hat / (np.sqrt(v_hat) + o.epsilon), m, v


Step = Callable[..., tuple[Array, Array, Array]]

OPTIMIZERS: dict[str, Step] = {"SGD": sgd_step, "RMSProp": rmsprop_step, "Adam": adam_step}
"""(optimizer, g, m, v, t), t from 1: what is taken from the parameter, and the new m and v."""


class Update:
    """One array's optimizer: the state that its formula keeps, and the step."""

    def __init__(self, optimizer: Optimizer, formula: Step, like: Array) -> None:
        self.optimizer, self.formula = optimizer, formula
        self.m = np.zeros_like(like)
        self.v = np.zeros_like(like)
        self.t = 0

    def step(self, g: Array) -> Array:
        """What is to be taken from the parameter, for its gradient g (any shape, kept)."""
        self.t += 1
        moved, self.m, self.v = self.formula(self.optimizer, g, self.m, self.v, self.t)
        return moved


class ReferenceModel(Model):
    """The equations above, with the parameters in two lists."""

    def upload(self, array: Array) -> Array:
        return array

    def download(self, array: Array) -> Array:
        return np.array(array)

    def synchronize(self) -> None:
        """NumPy has always finished when it returns."""

    def write_parameters(self, parameters: Parameters) -> None:
        self.W = [W.copy() for W in parameters.W]
        self.b = [b.copy() for b in parameters.b]

    def read_parameters(self) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        return tuple(self.W), tuple(self.b)

    def forward(self, x: Array) -> Array:
        return forward(self.network, self.W, self.b, x)[1][-1]

    def differentiate(
        self, x: Array, y: Array | None, cotangent: Array | None, l2: float
    ) -> Backpropagation[Array]:
        return backpropagate(self.network, self.W, self.b, x, y, cotangent, l2)

    def start(self, optimizer: Optimizer) -> None:
        formula = self.backend.formula("optimizer", optimizer.name, OPTIMIZERS)
        self.updates = [Update(optimizer, formula, array) for array in (*self.W, *self.b)]

    def steps(self, x: Array, y: Array, order: Array, optimizer: Optimizer) -> Array:
        losses = np.empty(len(order), self.backend.dtype)
        for step, rows in enumerate(order):
            found = self.differentiate(x[rows], y[rows], None, optimizer.l2)
            losses[step] = found.loss
            gradients = (*found.gradients.W, *found.gradients.b)
            for parameter, g, update in zip(
                (*self.W, *self.b), gradients, self.updates, strict=True
            ):
                parameter -= update.step(g)  # W <- W - eta grad_W, in place
        return losses


class NumPyBackend(Backend):
    """Backpropagation, written by hand in NumPy."""

    name = "numpy"
    modes = ("reference",)

    def model(self, network: MLP, parameters: Parameters) -> ReferenceModel:
        self.require(network, ACTIVATIONS, LOSSES)
        return ReferenceModel(self, network, parameters)
