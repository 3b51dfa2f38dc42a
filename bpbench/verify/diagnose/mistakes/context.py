"""What may the formula of a mistake use? All that is known of one layer in one probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property

import numpy as np

from bpbench.losses import ByOutput, find_loss
from bpbench.network import LEAKY_RELU_SLOPE, Array
from bpbench.verify.diagnose.functions import FUNCTIONS, OF_OUTPUT
from bpbench.verify.diagnose.probe import Answer, Probe
from bpbench.verify.diagnose.readings import Reading

NOTHING = Answer((), ())


class Context:
    """One layer of one probe, with what came down to it.

    Attributes:
        layer, under, above: its index and its neighbours'.
        last: whether it is the output layer.
        squared: whether dL/da is carried through f', which a cross-entropy cancels.
        name, entrywise: the activation that was taken; whether it has an f' entry by entry.
        leak: its slope below 0, if it is a relu.
        m, n: how many samples, and units.
        W, b, z, a: the layer's own; W (n_l, n_{l-1}), b (n_l,), the others (m, n_l).
        W_above: (n_{l+1}, n_l), of a hidden layer.
        x, y, o: the inputs, the expected outputs and the outputs, (m, n).
        input, given: what the layer is given, (m, n_{l-1}), and its name.
        below: what multiplies delta in dW, (m, n_{l-1}), which may be another array.
        deltas, errors: by layer, what was handed down, and what f' was multiplied by there.
        inputs: by layer, what multiplies delta in dW.
        answer: what was found.
    """

    def __init__(
        self,
        probe: Probe,
        reading: Reading,
        layer: int,
        deltas: Sequence[Array | None] = (),
        errors: Sequence[Array | None] = (),
        inputs: Sequence[Array] = (),
        answer: Answer = NOTHING,
    ) -> None:
        self.probe, self.reading, self.answer = probe, reading, answer
        self.layer, self.under, self.above = layer, layer - 1, layer + 1
        self.last = layer == probe.network.layers - 1
        self.derivative = find_loss(probe.network.loss).derivative
        self.squared = isinstance(self.derivative, ByOutput)
        self.name = reading.functions[layer]
        self.W, self.b = probe.W[layer], probe.b[layer] if probe.b else np.zeros(0)
        self.W_above = self.W if self.last else probe.W[self.above]
        self.biased = bool(probe.b)
        self.z, self.a, self.o = reading.z[layer], reading.a[layer], reading.a[-1]
        self.entrywise = reading.slope(layer, self.z[:1]) is not None
        self.leak = LEAKY_RELU_SLOPE if self.name == "leaky_relu" else 0.0
        self.x, self.y = probe.x, probe.y
        self.m, self.n = self.z.shape
        self.input = reading.a[self.under] if layer else probe.x
        self.given = f"a[{self.under}]" if layer else "x"
        self.below = inputs[layer] if inputs else self.input
        self.deltas, self.errors, self.inputs = deltas, errors, inputs
        self.decay: Array | float = 0.0

    def decayed(self, times: float) -> Context:
        """The same with dW that holds its L2 term so many times."""
        other = copy(self)
        other.decay = times * self.probe.l2 * self.W if times else 0.0
        other.dW = self.delta.T @ self.below + other.decay
        return other

    def at(self, error: Array) -> Context:
        """The same with another error for f' to multiply."""
        other = copy(self)
        other.back = error
        return other

    # ── The way back ───────────────────────────────────────────────────────────────────────────

    def f_prime(self, z: Array) -> Array:
        """f' of the layer's activation at other values."""
        slope = self.reading.slope(self.layer, z)
        assert slope is not None
        return slope

    def of_output(self, a: Array) -> Array:
        """f' by its formula of a, at other values."""
        return OF_OUTPUT[self.name](a)

    @cached_property
    def slope(self) -> Array:
        """f'(z), (m, n_l)."""
        return self.f_prime(self.z)

    @cached_property
    def over_z(self) -> Array:
        """f(z) / z, (m, n_l)."""
        return np.where(self.z == 0, self.slope, self.a / self.z)

    @property
    def delta_above(self) -> Array:
        """What the layer above handed down, (m, n_{l+1})."""
        delta = self.deltas[self.above]
        assert delta is not None
        return delta

    @cached_property
    def back(self) -> Array:
        """The error by a, which f' multiplies, (m, n_l)."""
        return self.loss_slope if self.last else self.delta_above @ self.W_above

    @cached_property
    def delta(self) -> Array:
        """The right delta, (m, n_l)."""
        return self.erring(self.error) if self.last else self.back * self.slope

    @cached_property
    def error(self) -> Array:
        """a - y over m, or what the loss has in its place, (m, n_L)."""
        if isinstance(self.derivative, ByOutput):
            return np.asarray(self.derivative.error(self.o, self.y))
        if self.reading.functions[-1] == self.probe.network.output:
            return np.asarray(self.derivative.delta(self.reading.z[-1], self.o, self.y))
        return np.asarray((self.o - self.y) / self.m)  # as it is done whatever the output is

    @cached_property
    def of_difference(self) -> bool:
        """Whether what the loss has there is a - y over m, which mistakes with y are made in."""
        return bool(np.allclose(self.error, (self.o - self.y) / self.m, rtol=1e-6, atol=1e-12))

    @cached_property
    def loss_slope(self) -> Array:
        """dL/da of the mean loss as it is written down, (m, n_L)."""
        return np.asarray(self.derivative.error(self.o, self.y))

    def through(self, error: Array) -> Array:
        """An error by the output's a, carried to one by z: by f', or by the softmax's Jacobian."""
        slope, a = self.reading.slope(-1), self.o
        if slope is None:
            return np.asarray(a * (error - (error * a).sum(axis=1, keepdims=True)))
        return np.asarray(error * slope)

    def erring(self, error: Array) -> Array:
        """Delta of the output for another a - y over m."""
        return self.through(error) if self.squared else error

    @cached_property
    def dW(self) -> Array:  # noqa: N802
        """The right dW for this input, (n_l, n_{l-1}), with ``decay``, its L2 term."""
        return np.asarray(self.delta.T @ self.below + self.decay)

    @cached_property
    def db(self) -> Array:
        """The right db, (n_l,)."""
        return np.asarray(self.delta.sum(axis=0))


def applied(name: str, z: Array) -> Array:
    """f(z) of any activation."""
    return FUNCTIONS[name](z)[0]


def slope_of(name: str, z: Array) -> Array:
    """f'(z) of an activation that works entry by entry."""
    slope = FUNCTIONS[name](z)[1]
    assert slope is not None
    return slope


def taken(*names: str) -> Callable[[Context], bool]:
    """The layer's activation is one of these."""
    return lambda c: c.name in names
