"""Backpropagation by TensorFlow's GradientTape: tf.nn's activations and losses.

The optimizers are the stated formulas in TensorFlow's tensors: TensorFlow's own are Keras's, whose
RMSProp and Adam put epsilon elsewhere (up to 4e-2 apart after 100 steps).

Modes:
    function: one ``tf.function`` compiled by XLA, a while loop over all the steps of a call.
    eager: each operation is dispatched by itself.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from bpbench.backend import Backend, Backpropagation, Gradients, Model
from bpbench.errors import Unsupported
from bpbench.network import LEAKY_RELU_SLOPE, MLP, Array, Parameters
from bpbench.optimizers import FORMULAS, Optimizer, step


def _gelu(z: tf.Tensor) -> tf.Tensor:
    """tf.nn.gelu holds sqrt(2) in float32: 5e-9 off in float64."""
    return 0.5 * z * (1 + tf.math.erf(z * tf.constant(2**-0.5, z.dtype)))


def _leaky_relu(z: tf.Tensor) -> tf.Tensor:
    """tf.nn.leaky_relu holds its slope in float32: 1.3e-9 off in float64."""
    return tf.where(z > 0, z, tf.constant(LEAKY_RELU_SLOPE, z.dtype) * z)


def _elu(z: tf.Tensor) -> tf.Tensor:
    """tf.nn.elu takes e^z - 1, which cancels near 0: 25 standard deviations of rounding off."""
    return tf.where(z > 0, z, tf.math.expm1(tf.where(z > 0, tf.zeros_like(z), z)))


ACTIVATIONS: dict[str, Any] = {
    "identity": tf.identity,
    "sigmoid": tf.math.sigmoid,
    "tanh": tf.math.tanh,
    "relu": tf.nn.relu,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "softplus": tf.math.softplus,
    "gelu": _gelu,
    "silu": tf.nn.silu,
    "softmax": tf.nn.softmax,
}


def forward(
    network: MLP, W: Any, b: Any, x: tf.Tensor, perturbations: Any = None
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """z and a of every layer, (m, n_l); ``perturbations``, which are zeros, are added to z."""
    z, a = [], []
    below = x
    for layer, name in enumerate(network.activations):
        linear = tf.matmul(below, W[layer], transpose_b=True)
        linear = linear + b[layer] if b else linear
        z.append(linear if perturbations is None else linear + perturbations[layer])
        below = ACTIVATIONS[name](z[layer])
        a.append(below)
    return z, a


LOSSES: dict[str, Any] = {
    "half_squared_error": lambda z, a, y: tf.nn.l2_loss(a - y),
    "binary_cross_entropy": lambda z, a, y: tf.reduce_sum(
        tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=z)
    ),
    # softmax_cross_entropy_with_logits takes the sum of y for exactly 1 in its gradient
    "cross_entropy": lambda z, a, y: -tf.reduce_sum(y * tf.nn.log_softmax(z)),
}
"""The summed loss of the last layer's z and a."""


def mean_loss(
    network: MLP, W: Any, z: tf.Tensor, a: tf.Tensor, y: tf.Tensor, l2: float
) -> tf.Tensor:
    """The mean over the rows of the loss of the last layer's z and a, plus the l2 term."""
    loss = LOSSES[network.loss](z, a, y) / tf.cast(tf.shape(y)[0], y.dtype)
    return loss + l2 * tf.add_n([tf.nn.l2_loss(w) for w in W]) if l2 else loss


class TensorFlowModel(Model):
    """The parameters and the optimizer's state as tensors, replaced by every call."""

    backend: TensorFlowBackend

    def __init__(self, backend: TensorFlowBackend, network: MLP, parameters: Parameters) -> None:
        self._compiled = (
            partial(tf.function, jit_compile=True, autograph=False)
            if backend.mode == "function"
            else lambda f: f
        )
        self._forward = self._compiled(partial(_output, network))
        self._differentiate = self._compiled(partial(_differentiate, network))
        self._trainers: dict[Optimizer, Any] = {}
        super().__init__(backend, network, parameters)

    def upload(self, array: Array) -> tf.Tensor:
        with tf.device(self.backend.place):
            return tf.constant(array)

    def download(self, array: tf.Tensor) -> Array:
        return np.array(array)

    def synchronize(self) -> None:
        tf.test.experimental.sync_devices()

    def write_parameters(self, parameters: Parameters) -> None:
        self.W = tuple(map(self.upload, parameters.W))
        self.b = tuple(map(self.upload, parameters.b))

    def read_parameters(self) -> tuple[tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]:
        return self.W, self.b

    def forward(self, x: tf.Tensor) -> tf.Tensor:
        with tf.device(self.backend.place):
            return self._forward(self.W, self.b, x)

    def differentiate(
        self, x: tf.Tensor, y: tf.Tensor | None, cotangent: tf.Tensor | None, l2: float
    ) -> Backpropagation[tf.Tensor]:
        target = cotangent if y is None else y
        with tf.device(self.backend.place):
            loss, z, a, W, b, delta, by_x = self._differentiate(
                self.W, self.b, x, target, y is not None, tf.constant(l2, x.dtype)
            )
        return Backpropagation(
            None if y is None else loss, tuple(z), tuple(a), delta, Gradients(W, b), by_x
        )

    def start(self, optimizer: Optimizer) -> None:
        formula = self.backend.formula("optimizer", optimizer.name, FORMULAS)
        moments = formula.moments(optimizer)
        with tf.device(self.backend.place):
            zeros = [(tf.zeros_like(p),) * moments for p in (*self.W, *self.b)]
            # a count that nobody asks for would cost time in every turn of the loop
            t = tf.constant(0.0, tf.float64) if formula.counts else ()
            self.state = (t, tuple(zeros))

    def steps(
        self, x: tf.Tensor, y: tf.Tensor, order: tf.Tensor, optimizer: Optimizer
    ) -> tf.Tensor:
        if optimizer not in self._trainers:
            train = _while_loop if self.backend.mode == "function" else _python_loop
            one_step = partial(_step, self.network, optimizer)
            self._trainers[optimizer] = self._compiled(partial(train, one_step))
        with tf.device(self.backend.place):
            self.W, self.b, self.state, losses = self._trainers[optimizer](
                self.W, self.b, self.state, x, y, order
            )
        return losses


def _output(network: MLP, W: Any, b: Any, x: tf.Tensor) -> tf.Tensor:
    return forward(network, W, b, x)[1][-1]


def _differentiate(
    network: MLP, W: Any, b: Any, x: tf.Tensor, target: tf.Tensor, of_loss: bool, l2: tf.Tensor
) -> tuple[Any, ...]:
    """Loss, z, a, and the derivatives by W, b, perturbations and x."""
    perturbations = tuple(tf.zeros((x.shape[0], n), x.dtype) for n in network.sizes[1:])
    with tf.GradientTape() as tape:
        tape.watch((W, b, perturbations, x))
        z, a = forward(network, W, b, x, perturbations)
        if of_loss:
            loss = mean_loss(network, W, z[-1], a[-1], target, 0)
        else:
            loss = tf.reduce_sum(target * a[-1])
        loss = loss + l2 * tf.add_n([tf.nn.l2_loss(w) for w in W])
    return loss, z, a, *tape.gradient(loss, (W, b, perturbations, x))


def _step(
    network: MLP, optimizer: Optimizer, W: Any, b: Any, state: Any, x: tf.Tensor, y: tf.Tensor
) -> tuple[Any, ...]:
    """One step on a batch: new W, b and state, and the loss before it."""
    with tf.GradientTape() as tape:
        tape.watch((W, b))
        z, a = forward(network, W, b, x)
        loss = mean_loss(network, W, z[-1], a[-1], y, optimizer.l2)
    dW, db = tape.gradient(loss, (W, b))
    t, moments = state
    t = t + 1 if FORMULAS[optimizer.name].counts else t

    def correction(beta: float) -> tf.Tensor:
        return tf.cast(1 - beta**t, x.dtype)

    updates = [
        step(optimizer, g, kept, tf.sqrt, correction)
        for g, kept in zip((*dW, *db), moments, strict=True)
    ]
    moved = tuple(p - update for p, (update, _) in zip((*W, *b), updates, strict=True))
    state = (t, tuple(kept for _, kept in updates))
    return moved[: len(W)], moved[len(W) :], state, loss


def _python_loop(
    one_step: Any, W: Any, b: Any, state: Any, x: tf.Tensor, y: tf.Tensor, order: tf.Tensor
) -> tuple[Any, ...]:
    losses = []
    for rows in order:
        W, b, state, loss = one_step(W, b, state, tf.gather(x, rows), tf.gather(y, rows))
        losses.append(loss)
    return W, b, state, tf.stack(losses)


def _while_loop(
    one_step: Any, W: Any, b: Any, state: Any, x: tf.Tensor, y: tf.Tensor, order: tf.Tensor
) -> tuple[Any, ...]:
    """The same loop inside the graph: parameters and state are its variables."""
    count = order.shape[0]

    def body(k: tf.Tensor, losses: Any, W: Any, b: Any, state: Any) -> tuple[Any, ...]:
        rows = order[k]
        W, b, state, loss = one_step(W, b, state, tf.gather(x, rows), tf.gather(y, rows))
        return k + 1, losses.write(k, loss), W, b, state

    losses = tf.TensorArray(x.dtype, size=count, element_shape=())
    _, losses, W, b, state = tf.while_loop(
        lambda k, *_: k < count, body, (tf.constant(0), losses, W, b, state)
    )
    return W, b, state, losses.stack()


class TensorFlowBackend(Backend):
    """TensorFlow."""

    name = "tensorflow"
    modes = ("function", "eager")
    devices = ("cpu", "cuda")

    def __init__(
        self, mode: str | None = None, device: str = "cpu", dtype: str = "float32"
    ) -> None:
        super().__init__(mode, device, dtype)
        if device == "cuda" and not tf.config.list_physical_devices("GPU"):
            raise Unsupported(
                "tensorflow sees no GPU; expected one and a CUDA build of tensorflow, "
                f"this is tensorflow {tf.__version__}"
            )
        self.place = "/GPU:0" if device == "cuda" else "/CPU:0"

    def model(self, network: MLP, parameters: Parameters) -> TensorFlowModel:
        self.require(network, ACTIVATIONS, LOSSES)
        return TensorFlowModel(self, network, parameters)
