"""Backpropagation by Keras: its Dense layers, activations and optimizers, trained by its ``fit``.

Modes are Keras's engines (keras_engines.py). A process has one of them, so Keras is imported when a
backend is made, not with this module, and the two classes that derive from Keras's are made inside
functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from bpbench.backend import Backend, Backpropagation, Gradients, Model
from bpbench.backends.keras_engines import ENGINES, STEPS_PER_FIT, import_keras, running_engine
from bpbench.errors import Unsupported
from bpbench.network import LEAKY_RELU_SLOPE, MLP, Array, Parameters
from bpbench.optimizers import FORMULAS, SGD, Optimizer, step

Tensor = Any


@cache
def activations(engine: str, dtype: str) -> dict[str, Any]:
    """Keras's own activations, but for those that are inexact on this engine in this dtype."""
    from keras import activations as stock
    from keras import ops

    def leaky_relu(z: Tensor) -> Tensor:
        # Keras's has derivative 1 at 0 on jax, and a float32 slope on tensorflow (2e-8 off)
        return ops.where(z > 0, z, LEAKY_RELU_SLOPE * z)

    def tanh(z: Tensor) -> Tensor:
        # (e^2z - 1) / (e^2z + 1), mirrored above 0 so that it neither overflows nor cancels;
        # elu(u) is e^u - 1 below 0
        below, above = stock.elu(2 * z), stock.elu(-2 * z)
        return ops.where(z > 0, -above / (2 + above), below / (2 + below))

    def elu(z: Tensor) -> Tensor:
        return ops.where(z > 0, z, ops.expm1(ops.where(z > 0, ops.zeros_like(z), z)))

    def gelu(z: Tensor) -> Tensor:
        return 0.5 * z * (1 + ops.erf(2**-0.5 * z))

    functions = {
        "identity": stock.linear,
        "sigmoid": stock.sigmoid,
        "tanh": stock.tanh,
        "relu": stock.relu,
        "leaky_relu": leaky_relu,
        "elu": stock.elu,
        "softplus": stock.softplus,
        "gelu": partial(stock.gelu, approximate=False),
        "silu": stock.silu,
        "softmax": stock.softmax,
    }
    if (engine, dtype) == ("jax", "float64"):
        functions["tanh"] = tanh  # Keras's casts to float32 (2e-7 off)
    if engine == "tensorflow":
        functions["elu"] = elu  # Keras's is e^z - 1, which cancels near 0 (25 sigmas in float32)
    if (engine, dtype) == ("tensorflow", "float64"):
        functions["gelu"] = gelu  # Keras's holds sqrt(2) in float32 (5e-9 off)
    return functions


def forward(
    network: MLP, functions: Any, layers: Any, x: Tensor, perturbations: Any = None
) -> tuple[list[Tensor], list[Tensor]]:
    """z of every layer and a of the hidden ones, (m, n_l); ``perturbations``, which are zeros, are
    added to z.

    The last a is left to those who use it: TensorFlow computes what it is told to, used or not.
    """
    z, a = [], [x]
    for layer, dense in enumerate(layers):
        linear = dense(a[layer])
        z.append(linear if perturbations is None else linear + perturbations[layer])
        if layer < network.layers - 1:
            a.append(functions[network.activations[layer]](z[layer]))
    return z, a[1:]


@cache
def losses() -> dict[str, Any]:
    """(z, y, f): the summed loss of the last layer's z, whose activation is f."""
    from keras import ops

    return {
        "half_squared_error": lambda z, y, f: 0.5 * ops.sum(ops.square(f(z) - y)),
        "binary_cross_entropy": lambda z, y, f: ops.sum(
            ops.binary_crossentropy(y, z, from_logits=True)
        ),
        # ops.categorical_crossentropy's gradient takes the sum of y for exactly 1 on tensorflow
        "cross_entropy": lambda z, y, f: -ops.sum(y * ops.log_softmax(z)),
    }


def mean_loss(network: MLP, functions: Any, layers: Any, z: Tensor, y: Tensor, l2: float) -> Tensor:
    """The mean over the rows of the loss of the last layer's z, plus the l2 term.

    Sums over m: Keras's losses average by ops.mean, in float32 on jax (4e-7 off in float64).
    """
    from keras import ops

    loss = losses()[network.loss](z, y, functions[network.output])
    loss = loss / ops.cast(ops.shape(y)[0], y.dtype)
    return loss + l2_term(layers, l2) if l2 else loss


def l2_term(layers: Any, l2: Any) -> Tensor:
    """0.5 * l2 * sum of W^2; the factor of keras.regularizers.L2 is float32 on tensorflow."""
    from keras import ops

    return 0.5 * l2 * sum(ops.sum(ops.square(layer.kernel)) for layer in layers)


# ── Training by Keras's fit ────────────────────────────────────────────────────────────────────


def _keras_sgd(o: SGD) -> Any:
    """Keras's own, whose velocity is -learning_rate times ours."""
    from keras import optimizers

    # np.float64, because a plain float becomes float32 on tensorflow (2e-8 off)
    return optimizers.SGD(o.learning_rate, np.float64(o.momentum), o.nesterov)


def _formula(optimizer: Optimizer) -> Any:
    """The description's formula, because Keras's RMSProp and Adam put epsilon elsewhere: up to 4e-2
    and 1e-2 apart after 100 steps."""
    return _formula_class()(optimizer)


OPTIMIZERS: dict[str, Any] = {"SGD": _keras_sgd, "RMSProp": _formula, "Adam": _formula}


@cache
def _formula_class() -> Any:
    from keras import ops, optimizers

    class Formula(optimizers.Optimizer):  # type: ignore[misc]
        """A formula of bpbench.optimizers in Keras's tensors, times Keras's learning rate."""

        def __init__(self, optimizer: Optimizer) -> None:
            super().__init__(learning_rate=optimizer.learning_rate)
            self.formula = replace(optimizer, learning_rate=1.0)

        def build(self, variables: list[Any]) -> None:
            super().build(variables)
            count = FORMULAS[self.formula.name].moments(self.formula)
            self.moments = [
                self.add_optimizer_variables(variables, f"moment_{k}") for k in range(count)
            ]

        def update_step(self, gradient: Tensor, variable: Any, learning_rate: Any) -> None:
            at = self._get_variable_index(variable)
            t = ops.cast(self.iterations + 1, variable.dtype)
            kept = [moment[at] for moment in self.moments]
            values = tuple(moment.value for moment in kept)
            update, new = step(
                self.formula, gradient, values, ops.sqrt, partial(one_minus_power, t)
            )
            for moment, value in zip(kept, new, strict=True):
                self.assign(moment, value)
            self.assign_sub(variable, learning_rate * update)

    def one_minus_power(t: Tensor, beta: float) -> Tensor:
        # 1 - beta^t by expm1: the difference itself is 5e-5 off in float32 for .999 and t = 1
        return -ops.expm1(math.log(beta) * t) if beta else ops.ones_like(t)

    return Formula


@cache
def _trainer_class() -> Any:
    import keras
    from keras import ops

    class Trainer(keras.Model):  # type: ignore[misc]
        """A model's layers with data on the device; ``fit`` is fed the numbers of its rows."""

        def __init__(self, model: KerasModel, optimizer: Optimizer, x: Tensor, y: Tensor) -> None:
            super().__init__(dtype=model.backend.dtype)
            self.mlp, self.functions, self.dense = model.network, model.functions, model.layers
            self.engine, self.l2 = model.backend.engine, optimizer.l2
            place = partial(self.add_weight, initializer="zeros", trainable=False)
            self.x, self.y = place(shape=x.shape), place(shape=y.shape)
            self.step_losses = place(shape=(STEPS_PER_FIT,))
            self.step = place(shape=(), dtype="int32")
            self.built = True
            # jit_compile stays "auto": XLA on jax; on tensorflow not on CPU, where it would halve
            # small steps (64-32-10) and double middling ones (784-256-256-10)
            steps = self.engine.steps_per_execution
            self.compile(model.keras_optimizer, steps_per_execution=steps)

        def hold(self, x: Tensor, y: Tensor) -> None:
            """Take over data; copies, because on jax fit gives away what its variables hold."""
            self.x.assign(ops.copy(x))
            self.y.assign(ops.copy(y))

        def call(self, rows: Tensor) -> Tensor:
            x = ops.take(self.x, rows, axis=0)
            return forward(self.mlp, self.functions, self.dense, x)[0][-1]

        def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
            """The loss of the rows x, whose last z is y_pred; also kept in ``step_losses``."""
            y = ops.take(self.y, x, axis=0)
            loss = mean_loss(self.mlp, self.functions, self.dense, y_pred, y, self.l2)
            at, value = ops.reshape(self.step, (1,)), ops.reshape(ops.stop_gradient(loss), (1,))
            self.step_losses.assign(ops.slice_update(self.step_losses.value, at, value))
            self.step.assign_add(1)
            return loss

        def train_on(self, order: Array) -> Tensor:
            """One step per row of order, (steps, batch); the losses before each, (steps,)."""
            self.step.assign(0)
            self.fit(**self.engine.fit_arguments(order), shuffle=False, verbose=0)
            return ops.copy(self.step_losses[: len(order)])

    return Trainer


# ── The model and the backend ──────────────────────────────────────────────────────────────────


class KerasModel(Model):
    """The parameters as variables of Dense layers, whose kernels are W transposed."""

    backend: KerasBackend

    def __init__(self, backend: KerasBackend, network: MLP, parameters: Parameters) -> None:
        self.ops = backend.keras.ops
        self.functions = activations(backend.mode, backend.dtype)
        dense = partial(backend.keras.layers.Dense, dtype=backend.dtype, use_bias=network.bias)
        with backend.scope():
            self.layers = [dense(n, kernel_initializer="zeros") for n in network.sizes[1:]]
            for layer, n_in in zip(self.layers, network.sizes, strict=False):
                layer.build((None, n_in))
        self.kernels = [layer.kernel for layer in self.layers]
        self.biases = [layer.bias for layer in self.layers] if network.bias else []
        self.variables = [*self.kernels, *self.biases]
        self._forward = backend.engine.function(self._output, self.variables)
        self._differentiate = backend.engine.gradient(self._objective, self.variables)
        self._trainer: Any = None
        self._trainer_of: Any = None
        super().__init__(backend, network, parameters)

    def upload(self, array: Array) -> Tensor:
        copied = np.array(array)  # the engines may otherwise go on using NumPy's own memory
        if array.dtype.kind == "i":
            return copied  # row numbers stay on the host, where fit cuts its batches from them
        with self.backend.scope():
            return self.ops.convert_to_tensor(copied)

    def download(self, array: Tensor) -> Array:
        return np.array(self.ops.convert_to_numpy(array))

    def synchronize(self) -> None:
        self.backend.engine.synchronize(self.variables)

    def write_parameters(self, parameters: Parameters) -> None:
        given = [*(W.T for W in parameters.W), *parameters.b]
        with self.backend.scope():
            for variable, array in zip(self.variables, given, strict=True):
                variable.assign(self.upload(array))

    def read_parameters(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        with self.backend.scope():
            W = tuple(map(self.ops.transpose, self.kernels))
            return W, tuple(map(self.ops.copy, self.biases))

    def forward(self, x: Tensor) -> Tensor:
        with self.backend.scope():
            return self._forward(x)

    def differentiate(
        self, x: Tensor, y: Tensor | None, cotangent: Tensor | None, l2: float
    ) -> Backpropagation[Tensor]:
        layers = self.network.layers
        with self.backend.scope():
            perturbations = [
                self.ops.zeros((x.shape[0], n), x.dtype) for n in self.network.sizes[1:]
            ]
            (loss, (z, a)), (by_variables, by_perturbations, by_x) = self._differentiate(
                perturbations, x, y, cotangent, l2
            )
            W = tuple(map(self.ops.transpose, by_variables[:layers]))
        gradients = Gradients(W, tuple(by_variables[layers:]))
        return Backpropagation(
            None if y is None else loss,
            tuple(z),
            tuple(a),
            tuple(by_perturbations),
            gradients,
            by_x,
        )

    def start(self, optimizer: Optimizer) -> None:
        with self.backend.scope():
            if self._trainer_of != optimizer:
                self._trainer, self._trainer_of = None, optimizer
                make = self.backend.formula("optimizer", optimizer.name, OPTIMIZERS)
                self.keras_optimizer = make(optimizer)
                # layer by layer, as Trainer has them
                self.keras_optimizer.build([v for layer in self.layers for v in layer.variables])
            for state in self.keras_optimizer.variables:
                if state is not self.keras_optimizer.learning_rate:
                    state.assign(self.ops.zeros_like(state.value))

    def steps(self, x: Tensor, y: Tensor, order: Array, optimizer: Optimizer) -> Tensor:
        with self.backend.scope():
            # what is compiled is for one shape of data; other data of that shape take its place
            if self._trainer is None or tuple(self._trainer.x.shape) != tuple(x.shape):
                self._trainer = _trainer_class()(self, optimizer, x, y)
                self._held: tuple[Tensor, Tensor] = (None, None)
            if self._held[0] is not x or self._held[1] is not y:
                self._trainer.hold(x, y)
                self._held = (x, y)
            starts = range(0, len(order), STEPS_PER_FIT)
            losses = [self._trainer.train_on(order[k : k + STEPS_PER_FIT]) for k in starts]
            return losses[0] if len(losses) == 1 else self.ops.concatenate(losses)

    def _output(self, x: Tensor) -> Tensor:
        z, _ = forward(self.network, self.functions, self.layers, x)
        return self.functions[self.network.output](z[-1])

    def _objective(
        self, perturbations: Any, x: Tensor, y: Tensor | None, cotangent: Tensor | None, l2: Any
    ) -> tuple[Tensor, Any]:
        z, a = forward(self.network, self.functions, self.layers, x, perturbations)
        output = self.functions[self.network.output](z[-1])
        if y is not None:
            loss = mean_loss(self.network, self.functions, self.layers, z[-1], y, 0.0)
        else:
            loss = self.ops.sum(cotangent * output)
        # l2 may be traced here, so that another value compiles nothing anew
        return loss + l2_term(self.layers, l2), (z, [*a, output])


class KerasBackend(Backend):
    """Keras; float64 on jax switches on x64 for the whole process.

    Without a mode it takes the engine that Keras runs on in this process already.
    """

    name = "keras"
    modes = ("jax", "tensorflow", "torch")
    devices = ("cpu", "cuda")

    def __init__(
        self, mode: str | None = None, device: str = "cpu", dtype: str = "float32"
    ) -> None:
        running = running_engine()
        super().__init__(running if mode is None and running in self.modes else mode, device, dtype)
        if (self.mode, dtype) == ("torch", "float64"):
            raise Unsupported(
                "keras:torch computes in float32 even where all is float64: keras.ops.matmul, and "
                "so Dense, casts to it (8e-7 off); use float32, keras:jax or keras:tensorflow"
            )
        self.keras, framework = import_keras(self.mode)
        self.engine = ENGINES[self.mode](framework)
        if device == "cuda" and not self.engine.sees_gpu():
            raise Unsupported(
                f"keras:{self.mode} sees no cuda device; "
                f"expected a GPU and a CUDA build of {self.mode}"
            )
        if (self.mode, dtype) == ("jax", "float64"):
            framework.config.update("jax_enable_x64", True)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Make this backend's dtype and device Keras's defaults, which belong to the process.

        Layers are told their dtype, but learning rates, buffers and constants go by floatx.
        """
        config, before = self.keras.config, self.keras.config.floatx()
        config.set_floatx(self.dtype)
        try:
            with self.keras.device("gpu" if self.device == "cuda" else "cpu"):
                yield
        finally:
            config.set_floatx(before)

    def model(self, network: MLP, parameters: Parameters) -> KerasModel:
        self.require(network, activations(self.mode, self.dtype), losses())
        return KerasModel(self, network, parameters)
