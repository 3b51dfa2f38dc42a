"""The training step as an expert writes it in NumPy: every array made once, ``out=`` everywhere.

``Trainer`` knows nothing of bpbench. The classes below let bpbench's worker call it in the place
of its own backend's ``run``: ``experiments/overhead.py``. Sigmoid hidden layers and plain SGD.
"""

from __future__ import annotations

import numpy as np

from bpbench.backends.numpy_reference import NumPyBackend, ReferenceModel


class Trainer:
    """Buffers for batches of m rows, and the step that fills them.

    W, b: the parameters, which the steps change; all of them are views of one flat array.
    """

    def __init__(self, W, b, m, softmax):
        self.softmax = softmax
        sizes = [W[0].shape[1], *(len(w) for w in W)]
        dtype = W[0].dtype
        count = sum(w.size for w in W) + sum(c.size for c in b)
        self.flat, self.gradient = np.empty((2, count), dtype)
        self.W, self.b = _views(self.flat, W, b)
        self.dW, self.db = _views(self.gradient, W, b)
        for view, given in zip((*self.W, *self.b), (*W, *b), strict=True):
            view[...] = given
        self.x = np.empty((m, sizes[0]), dtype)
        self.y = np.empty((m, sizes[-1]), dtype)
        self.a = [np.empty((m, n), dtype) for n in sizes[1:]]
        self.delta = [np.empty((m, n), dtype) for n in sizes[1:]]
        self.spare = [np.empty((m, n), dtype) for n in sizes[1:]]
        self.column = np.empty((m, 1), dtype)
        self.scale = 1 / m

    def step(self, x, y, rows, learning_rate):
        """One step on some rows; the loss before it."""
        np.take(x, rows, 0, self.x, "clip")
        np.take(y, rows, 0, self.y, "clip")
        below, last = self.x, len(self.W) - 1
        for layer, (w, c, a) in enumerate(zip(self.W, self.b, self.a, strict=True)):
            np.dot(below, w.T, a)
            np.add(a, c, a)
            if layer < last or not self.softmax:
                _sigmoid(a)
            below = a
        loss = self._output_error(self.a[last], self.delta[last], self.spare[last])
        for layer in range(last, -1, -1):
            delta = self.delta[layer]
            np.dot(delta.T, self.a[layer - 1] if layer else self.x, self.dW[layer])
            np.add.reduce(delta, 0, None, self.db[layer])
            if layer:
                np.dot(delta, self.W[layer], self.delta[layer - 1])
                _times_derivative(self.delta[layer - 1], self.a[layer - 1], self.spare[layer - 1])
        np.multiply(self.gradient, learning_rate, self.gradient)
        np.subtract(self.flat, self.gradient, self.flat)
        return loss

    def _output_error(self, a, delta, spare):
        """delta of the last layer, from z where it is softmax and else from a."""
        y, m = self.y, len(a)
        if not self.softmax:
            np.subtract(a, y, delta)
            loss = 0.5 * np.vdot(delta, delta) / m
            np.multiply(delta, self.scale, delta)
            _times_derivative(delta, a, spare)
            return loss
        np.maximum.reduce(a, 1, None, self.column, keepdims=True)
        np.subtract(a, self.column, a)
        loss = -np.vdot(y, a)
        np.exp(a, delta)
        np.add.reduce(delta, 1, None, self.column, keepdims=True)
        np.divide(delta, self.column, delta)
        np.subtract(delta, y, delta)
        np.multiply(delta, self.scale, delta)
        np.log(self.column, self.column)
        return (loss + np.add.reduce(self.column, None)) / m


def _sigmoid(z):
    np.negative(z, z)
    np.exp(z, z)
    np.add(z, 1, z)
    np.reciprocal(z, z)


def _times_derivative(delta, a, spare):
    """delta * a (1 - a), in place."""
    np.subtract(1, a, spare)
    np.multiply(delta, a, delta)
    np.multiply(delta, spare, delta)


def _views(flat, W, b):
    ends = np.cumsum([array.size for array in (*W, *b)])
    parts = [part.reshape(array.shape)
             for part, array in zip(np.split(flat, ends[:-1]), (*W, *b), strict=True)]  # fmt: skip
    return parts[: len(W)], parts[len(W) :]


class BareModel(ReferenceModel):
    """bpbench's model, trained by ``Trainer``."""

    trainer = None

    def write_parameters(self, parameters):
        super().write_parameters(parameters)
        if self.trainer is not None:
            for view, given in zip(
                (*self.trainer.W, *self.trainer.b), (*self.W, *self.b), strict=True
            ):
                view[...] = given
            self.W, self.b = self.trainer.W, self.trainer.b

    def run(self, batches, optimizer):
        x, y, order = batches.data.x, batches.data.y, batches.order
        if self.trainer is None or len(self.trainer.x) != order.shape[1]:
            softmax = self.network.output == "softmax"
            self.trainer = Trainer(self.W, self.b, order.shape[1], softmax)
            self.W, self.b = self.trainer.W, self.trainer.b
        step, rate = self.trainer.step, x.dtype.type(optimizer.learning_rate)
        with np.errstate(over="ignore"):
            return np.array([step(x, y, rows, rate) for rows in order], x.dtype)


class Bare(NumPyBackend):
    """The bare recipe, for bpbench: ``--backend benchmarks/bare_numpy.py:Bare``."""

    name = "bare_numpy"
    modes = ("buffers",)

    def model(self, network, parameters):
        return BareModel(self, network, parameters)
