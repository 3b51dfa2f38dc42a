"""Backpropagation by ``jax.grad``: jax.nn's activations, optax's losses and optimizers.

Modes:
    scan: one jitted ``lax.scan`` over all the steps of a call, the parameters donated.
    manual: the same scan over the hand-written equations (6) to (9), so that the difference
        is what ``jax.grad`` costs.
    eager: no jit of ours; each operation is dispatched by itself.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from bpbench.backend import Backend, Backpropagation, Gradients, Model
from bpbench.errors import Unsupported
from bpbench.network import LEAKY_RELU_SLOPE, MLP, Array, Parameters
from bpbench.optimizers import Optimizer

Weights = tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]
"""W, (n_l, n_{l-1}) each, and b, (n_l,) each or ()."""

ACTIVATIONS: dict[str, Any] = {
    "identity": lambda z: z,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    # jax.nn.leaky_relu has derivative 1 at 0, where the others have the slope
    "leaky_relu": lambda z: jnp.where(z > 0, z, LEAKY_RELU_SLOPE * z),
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "softmax": jax.nn.softmax,
}

TIMES_DERIVATIVE: dict[str, Any] = {
    "identity": lambda e, z, a: e,
    "sigmoid": lambda e, z, a: e * (a * (1 - a)),
    "tanh": lambda e, z, a: e * (1 - a**2),
    "relu": lambda e, z, a: e * (z > 0),
    "leaky_relu": lambda e, z, a: e * jnp.where(z > 0, 1, LEAKY_RELU_SLOPE).astype(z.dtype),
    "elu": lambda e, z, a: e * jnp.where(z > 0, 1, a + 1),
    "softplus": lambda e, z, a: e * jax.nn.sigmoid(z),
    "gelu": lambda e, z, a: e * (jax.scipy.stats.norm.cdf(z) + z * jax.scipy.stats.norm.pdf(z)),
    "silu": lambda e, z, a: e * (jax.nn.sigmoid(z) * (1 + z * jax.nn.sigmoid(-z))),
    "softmax": lambda e, z, a: a * (e - (e * a).sum(axis=1, keepdims=True)),
}
"""For the mode without autodiff: dL/dz of the error dL/da, z and a = f(z), (m, n_l) each."""


def forward(
    network: MLP, weights: Weights, x: jax.Array, perturbations: tuple[jax.Array, ...] | None = None
) -> tuple[list[jax.Array], list[jax.Array]]:
    """z and a of every layer, (m, n_l); ``perturbations``, which are zeros, are added to z."""
    W, b = weights
    z, a = [], []
    below = x
    for layer, name in enumerate(network.activations):
        linear = below @ W[layer].T
        linear = linear + b[layer] if b else linear
        z.append(linear if perturbations is None else linear + perturbations[layer])
        below = ACTIVATIONS[name](z[layer])
        a.append(below)
    return z, a


LOSSES: dict[str, Any] = {
    "half_squared_error": lambda z, a, y: optax.losses.l2_loss(a, y).sum(axis=1),
    "binary_cross_entropy": lambda z, a, y: optax.losses.sigmoid_binary_cross_entropy(z, y).sum(
        axis=1
    ),
    "cross_entropy": lambda z, a, y: optax.losses.softmax_cross_entropy(z, y),
}
"""The loss of each row, (m,), of the last layer's z and a."""

OUTPUT_ERRORS: dict[str, Any] = {
    "half_squared_error": lambda times_derivative, z, a, y: times_derivative(
        (a - y) / len(y), z, a
    ),
    "binary_cross_entropy": lambda times_derivative, z, a, y: (a - y) / len(y),
    "cross_entropy": lambda times_derivative, z, a, y: (
        (a * y.sum(axis=1, keepdims=True) - y) / len(y)
    ),
}
"""For the mode without autodiff: the derivative of the mean loss by z, (m, n_L)."""


def mean_loss(
    network: MLP, weights: Weights, z: jax.Array, a: jax.Array, y: jax.Array, l2: float
) -> jax.Array:
    """The mean over the rows of the loss of the last layer's z and a, plus the l2 term."""
    loss = LOSSES[network.loss](z, a, y).mean()
    return loss + 0.5 * l2 * sum((W**2).sum() for W in weights[0]) if l2 else loss


OPTIMIZERS: dict[str, Any] = {
    # None, not 0, leaves out a velocity that would only be copied
    "SGD": lambda o: optax.sgd(o.learning_rate, o.momentum or None, o.nesterov),
    "RMSProp": lambda o: optax.rmsprop(o.learning_rate, o.decay, o.epsilon, eps_in_sqrt=False),
    "Adam": lambda o: optax.adam(o.learning_rate, o.beta1, o.beta2, o.epsilon),
}
"""Optax's optimizer that computes the formula of a description."""


class JaxModel(Model):
    """The parameters and optax's state as pytrees of device arrays, replaced by every step."""

    backend: JaxBackend

    def __init__(self, backend: JaxBackend, network: MLP, parameters: Parameters) -> None:
        self._forward = partial(_output, network)
        self._differentiate = partial(_differentiate, network, backend.mode == "manual")
        if backend.mode != "eager":
            self._forward = jax.jit(self._forward)
            self._differentiate = jax.jit(self._differentiate, static_argnums=3)
        self._trainers: dict[Optimizer, Any] = {}
        super().__init__(backend, network, parameters)

    def upload(self, array: Array) -> jax.Array:
        if array.dtype.kind == "i" and not jax.config.jax_enable_x64:
            array = array.astype(np.int32)
        # a copy: jax may otherwise go on using NumPy's own memory
        return jax.device_put(jnp.array(array, copy=True), self.backend.place)

    def download(self, array: jax.Array) -> Array:
        return np.array(array)

    def synchronize(self) -> None:
        jax.block_until_ready((self.weights, self.state))

    def write_parameters(self, parameters: Parameters) -> None:
        self.weights: Weights = (
            tuple(map(self.upload, parameters.W)),
            tuple(map(self.upload, parameters.b)),
        )
        self.state: Any = ()

    def read_parameters(self) -> Weights:
        return self.weights

    def forward(self, x: jax.Array) -> jax.Array:
        return self._forward(self.weights, x)

    def differentiate(
        self, x: jax.Array, y: jax.Array | None, cotangent: jax.Array | None, l2: float
    ) -> Backpropagation[jax.Array]:
        target = cotangent if y is None else y
        loss, z, a, delta, (W, b), by_x = self._differentiate(
            self.weights, x, target, y is not None, l2
        )
        return Backpropagation(
            None if y is None else loss, tuple(z), tuple(a), delta, Gradients(W, b), by_x
        )

    def start(self, optimizer: Optimizer) -> None:
        transformation = self.backend.formula("optimizer", optimizer.name, OPTIMIZERS)(optimizer)
        self.state = jax.device_put(transformation.init(self.weights), self.backend.place)

    def steps(
        self, x: jax.Array, y: jax.Array, order: jax.Array, optimizer: Optimizer
    ) -> jax.Array:
        if optimizer not in self._trainers:
            manual = self.backend.mode == "manual"
            transformation = OPTIMIZERS[optimizer.name](optimizer)
            step = partial(_step, self.network, manual, optimizer, transformation)
            self._trainers[optimizer] = (
                partial(_loop, step)
                if self.backend.mode == "eager"
                else jax.jit(partial(_scan, step), donate_argnums=0)
            )
        (self.weights, self.state), losses = self._trainers[optimizer](
            (self.weights, self.state), x, y, order
        )
        return losses


def _output(network: MLP, weights: Weights, x: jax.Array) -> jax.Array:
    return forward(network, weights, x)[1][-1]


def _differentiate(
    network: MLP,
    manual: bool,
    weights: Weights,
    x: jax.Array,
    target: jax.Array,
    of_loss: bool,
    l2: Any,
) -> tuple[Any, ...]:
    """Loss, z, a, and the derivatives by perturbations, weights and x."""
    if manual:
        z, a = forward(network, weights, x)
        loss = mean_loss(network, weights, z[-1], a[-1], target, 0.0) if of_loss else 0.0
        loss = loss + 0.5 * l2 * sum((W**2).sum() for W in weights[0])
        delta, by_weights = _by_hand(network, weights, x, z, a, target, of_loss, l2)
        return loss, z, a, delta, by_weights, delta[0] @ weights[0][0]

    def objective(
        weights: Weights, perturbations: tuple[jax.Array, ...], x: jax.Array
    ) -> tuple[jax.Array, Any]:
        z, a = forward(network, weights, x, perturbations)
        if of_loss:
            loss = mean_loss(network, weights, z[-1], a[-1], target, 0.0)
        else:
            loss = (target * a[-1]).sum()
        # l2 is traced here, so that another value compiles nothing anew
        loss = loss + 0.5 * l2 * sum((W**2).sum() for W in weights[0])
        return loss, (z, a)

    perturbations = tuple(jnp.zeros((len(x), n), x.dtype) for n in network.sizes[1:])
    (loss, (z, a)), (by_weights, by_taps, by_x) = jax.value_and_grad(
        objective, argnums=(0, 1, 2), has_aux=True
    )(weights, perturbations, x)
    return loss, z, a, by_taps, by_weights, by_x


def _by_hand(
    network: MLP,
    weights: Weights,
    x: jax.Array,
    z: list[jax.Array],
    a: list[jax.Array],
    target: jax.Array,
    of_loss: bool,
    l2: Any,
) -> tuple[tuple[jax.Array, ...], Weights]:
    """delta of every layer, (m, n_l), for y or a cotangent of a; dW and db, with the l2 term.

    Source: equations (6) to (9).
    """
    W, b = weights
    f = TIMES_DERIVATIVE[network.output]
    last = z[-1], a[-1]
    delta = [OUTPUT_ERRORS[network.loss](f, *last, target) if of_loss else f(target, *last)]
    for layer in range(network.layers - 2, -1, -1):
        f = TIMES_DERIVATIVE[network.activations[layer]]
        delta.insert(0, f(delta[0] @ W[layer + 1], z[layer], a[layer]))
    dW = tuple(d.T @ below + l2 * w for d, below, w in zip(delta, [x, *a[:-1]], W, strict=True))
    return tuple(delta), (dW, tuple(d.sum(axis=0) for d in delta) if b else ())


def _step(
    network: MLP,
    manual: bool,
    optimizer: Optimizer,
    transformation: optax.GradientTransformation,
    x: jax.Array,
    y: jax.Array,
    trained: tuple[Weights, Any],
    rows: jax.Array,
) -> tuple[tuple[Weights, Any], jax.Array]:
    """One step on some rows: ((weights, state), the loss before it)."""
    weights, state = trained

    def objective(weights: Weights) -> jax.Array:
        z, a = forward(network, weights, x[rows])
        return mean_loss(network, weights, z[-1], a[-1], y[rows], optimizer.l2)

    if manual:
        batch, target = x[rows], y[rows]
        z, a = forward(network, weights, batch)
        loss = mean_loss(network, weights, z[-1], a[-1], target, optimizer.l2)
        _, gradients = _by_hand(network, weights, batch, z, a, target, True, optimizer.l2)
    else:
        loss, gradients = jax.value_and_grad(objective)(weights)
    updates, state = transformation.update(gradients, state, weights)
    return (optax.apply_updates(weights, updates), state), loss


def _scan(step: Any, trained: Any, x: jax.Array, y: jax.Array, order: jax.Array) -> Any:
    return lax.scan(partial(step, x, y), trained, order)


def _loop(step: Any, trained: Any, x: jax.Array, y: jax.Array, order: jax.Array) -> Any:
    losses = []
    for rows in order:
        trained, loss = step(x, y, trained, rows)
        losses.append(loss)
    return trained, jnp.stack(losses)


class JaxBackend(Backend):
    """JAX; float64 switches on x64 for the whole process."""

    name = "jax"
    modes = ("scan", "manual", "eager")
    devices = ("cpu", "cuda")

    def __init__(
        self, mode: str | None = None, device: str = "cpu", dtype: str = "float32"
    ) -> None:
        super().__init__(mode, device, dtype)
        if dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        try:
            self.place = jax.devices(device)[0]
        except RuntimeError as error:
            raise Unsupported(f"jax sees no {device} device: {error}") from error

    def model(self, network: MLP, parameters: Parameters) -> JaxModel:
        self.require(network, ACTIVATIONS, LOSSES)
        if self.mode == "manual":
            for name in network.activations:
                self.formula("the derivative of activation", name, TIMES_DERIVATIVE)
            self.formula("the derivative of loss", network.loss, OUTPUT_ERRORS)
        return JaxModel(self, network, parameters)
