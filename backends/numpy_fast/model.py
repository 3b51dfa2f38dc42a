"""How fast can the equations be in NumPy? The same sums as in numpy_reference.py.

What costs time there is not arithmetic: it is calls on small arrays, and memory that is allocated,
written and read again on large ones. So here, once for each batch size, every array is made and
the step is written out as a straight line of calls that fill them. A sample is a column, as the
document writes it, and W and b of all layers lie in one array, their gradient in another.

Which trick pays how much is in docs/fast_numpy.md; benchmarks/numpy_fast_limits.py measures it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from bpbench.backend import Backend, Backpropagation, Gradients, Model
from bpbench.backends.numpy_common.plan import Written, empty, latest
from bpbench.backends.numpy_fast.kernels import ACTIVATIONS, LOSSES, STEP_SLOTS
from bpbench.backends.numpy_fast.passes import LayerArrays, Layout, Pass
from bpbench.backends.numpy_fast.updates import OPTIMIZERS, Update
from bpbench.network import MLP, Array, Parameters
from bpbench.optimizers import Optimizer

ONE_UPDATE_BYTES = 512 * 1024
"""Up to this size all parameters are updated at once; above, each layer's as soon as its gradient
is there, which then is still in the cache, and one gradient's memory serves all layers."""

CHUNK_BYTES = 512 * 1024
"""So much of x is gathered at once, and so much of y, each for at most ``CHUNK_STEPS`` steps."""

CHUNK_STEPS = 64

PREDICTED = 1024
"""Rows that ``predict`` takes at a time, so that its arrays stay small."""


class Chunk:
    """The batches of up to ``length`` steps: y gathered in one call, the losses computed in one.

    x, which is mostly the larger, is gathered for up to ``batches`` steps.
    """

    def __init__(self, network: MLP, layout: Layout, dtype: str, m: int, most: int) -> None:
        n_in, n_out = network.sizes[0], network.sizes[-1]

        def at_once(entries: int) -> int:
            """How many steps, with so many entries each."""
            return min(most, max(1, CHUNK_BYTES // (entries * np.dtype(dtype).itemsize)))

        self.loss, self.m = LOSSES[network.loss], m
        self.length, self.batches = at_once(5 * m * n_out), at_once(m * n_in)
        self.x = empty((self.batches, m, n_in), dtype)
        self.columns = self.x.transpose(0, 2, 1)
        self.ones_beside_x = layout.folded[0]
        if self.ones_beside_x:
            self.columns = empty((self.batches, n_in + 1, m), dtype)
            self.columns[:, -1] = 1
        self.rows_of_y = empty((self.length, m, n_out), dtype)
        self.y, self.scaled_y, self.for_loss, self.spare = empty((4, self.length, n_out, m), dtype)
        self.sums, self.weight, self.total = empty((3, self.length, m), dtype)
        self.ones = np.ones(n_out, dtype)
        self.penalty = np.zeros(self.length, dtype)
        self.slots = [self._slot(k) for k in range(self.length)]

    def _slot(self, k: int) -> tuple[Any, ...]:
        """What the names of STEP_SLOTS stand for in step k."""
        columns, logits = self.columns[k % self.batches], self.for_loss[k].reshape(-1)
        return (
            columns.T, columns, columns.dot, self.y[k], self.scaled_y[k], self.weight[k],
            self.for_loss[k], partial(logits.dot, logits), self.total[k],
            self.penalty[k : k + 1].reshape(()),
        )  # fmt: skip

    def gather(
        self, x: Array, y: Array, rows: Array, scale: Array
    ) -> Iterator[list[tuple[Any, ...]]]:
        """The slots of the steps on ``rows``, (k, m), of x and y: as many at a time as are filled.

        Those given before are then filled anew.
        """
        self._gather_y(y, rows, scale)
        for start in range(0, len(rows), self.batches):
            some = rows[start : start + self.batches]
            k = len(some)
            # "clip", because take into a buffer copies it twice to be able to raise; rows are
            # checked
            x.take(some, 0, self.x[:k], "clip")
            if self.ones_beside_x:
                self.columns[:k, :-1] = self.x[:k].transpose(0, 2, 1)
            yield self.slots[start : start + k]

    def _gather_y(self, y: Array, rows: Array, scale: Array) -> None:
        k = len(rows)
        y.take(rows, 0, self.rows_of_y[:k], "clip")
        self.y[:k] = self.rows_of_y[:k].transpose(0, 2, 1)
        if self.loss.of_logits:
            np.multiply(self.y[:k], scale, self.scaled_y[:k])
            self.rows_of_y[:k].reshape(-1, len(self.ones)).dot(self.ones, self.sums[:k].ravel())
            np.multiply(self.sums[:k], scale, self.weight[:k])

    def losses(self, k: int, l2: float) -> Array:
        """The mean losses of the first k steps, 0.5 * l2 * sum of W^2 included."""
        total = self.loss.total(
            self.for_loss[:k], self.total[:k], self.y[:k], self.sums[:k], self.spare[:k]
        )
        return total / self.m + 0.5 * l2 * self.penalty[:k] if l2 else total / self.m


class Trainer:
    """Training steps on batches of m samples, all of whose arrays are made here.

    Args:
        P: all parameters, (size,), which the steps change.
        G: room for their gradient: of all where it has as many entries, else of one layer.
    """

    def __init__(
        self, network: MLP, layout: Layout, P: Array, G: Array, update: Update, m: int
    ) -> None:
        dtype = str(P.dtype)
        self.chunk = Chunk(network, layout, dtype, m, CHUNK_STEPS)
        self.scale = np.array(update.scale / m, dtype)
        self.l2 = update.optimizer.l2
        whole = len(G) == layout.size
        weights = layout.layers(P)
        gradient = [
            layout.layer(layer, G[part] if whole else G) for layer, part in enumerate(layout.parts)
        ]

        def finish(layer: int) -> None:
            part = layout.parts[layer]
            if self.l2:
                steps.penalise(layer, gradient[layer], self.l2 * update.scale)
            if not whole:
                update.plan(steps.plan, part, P[part], G[: part.stop - part.start])

        steps = Pass(network, weights, dtype, m, keep=False)
        if update.changes:
            steps.plan.call(update.advance)
        if self.l2:
            steps.penalty()
        steps.forward()
        steps.loss(update.scale / m)
        steps.backward(gradient, finish=finish)
        if whole:
            update.plan(steps.plan, slice(None), P, G)
        self.steps = steps.plan.written_out()

    def run(self, x: Array, y: Array, order: Array) -> Array:
        """A step for each row of ``order``, (steps, m); the losses before each."""
        losses = np.empty(len(order), x.dtype)
        for start in range(0, len(order), self.chunk.length):
            rows = order[start : start + self.chunk.length]
            for slots in self.chunk.gather(x, y, rows, self.scale):
                self.steps(slots)
            losses[start : start + len(rows)] = self.chunk.losses(len(rows), self.l2)
        return losses


class FastModel(Model):
    """All parameters in one array, and a trainer for each batch size."""

    def __init__(self, backend: Backend, network: MLP, parameters: Parameters) -> None:
        self.layout = Layout(network)
        self.P = empty(self.layout.size, backend.dtype)
        self.layers = self.layout.layers(self.P)
        self.signs = [ACTIVATIONS[name].sign for name in network.activations]
        self.update: Update | None = None
        self.trainers: dict[int, Trainer] = {}
        super().__init__(backend, network, parameters)

    def upload(self, array: Array) -> Array:
        return array

    def download(self, array: Array) -> Array:
        return np.array(array, order="C")

    def synchronize(self) -> None:
        """NumPy has always finished when it returns."""

    def write_parameters(self, parameters: Parameters) -> None:
        for layer, sign, W in zip(self.layers, self.signs, parameters.W, strict=True):
            np.multiply(W, sign, out=layer.W)
        for layer, sign, b in zip(self.layers, self.signs, parameters.b, strict=False):
            assert layer.b is not None
            np.multiply(b, sign, out=layer.b)

    def read_parameters(self) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        return self._signed(self.layers)

    def forward(self, x: Array) -> Array:
        output = np.empty((len(x), self.network.sizes[-1]), x.dtype)
        passes: dict[int, tuple[Array, Written]] = {}
        for start in range(0, len(x), PREDICTED):
            columns = x[start : start + PREDICTED].T
            m = columns.shape[1]
            if m not in passes:
                forward = Pass(self.network, self.layers, self.backend.dtype, m, keep=False)
                forward.forward()
                a = forward.output()
                passes[m] = a, forward.plan.written_out()
            a, run = passes[m]
            if self.layout.folded[0]:
                columns = np.vstack([columns, np.ones((1, m), x.dtype)])
            with np.errstate(over="ignore"):
                run([tuple(columns if slot == "columns" else None for slot in STEP_SLOTS)])
            output[start : start + m] = a.T
        return output

    def differentiate(
        self, x: Array, y: Array | None, cotangent: Array | None, l2: float
    ) -> Backpropagation[Array]:
        m, dtype = len(x), self.backend.dtype
        found = Pass(self.network, self.layers, dtype, m, keep=True)
        output = found.plan.empty(self.network.sizes[-1], m)
        gradient = self.layout.layers(found.plan.empty(self.layout.size))
        by_x = found.plan.empty(self.network.sizes[0], m)
        if l2:
            found.penalty()
        found.forward()
        if cotangent is None:
            found.loss(1 / m, output)
        else:
            found.cotangent(output)
        found.backward(gradient, by_x)
        for layer in range(self.network.layers if l2 else 0):
            found.penalise(layer, gradient[layer], l2)
        chunk = Chunk(self.network, self.layout, dtype, m, 1)
        target = cotangent if y is None else y
        assert target is not None
        (slots,) = chunk.gather(x, target, np.arange(m)[None], np.array(1 / m, dtype))
        with np.errstate(over="ignore"):
            found.plan.written_out()(slots)
        return Backpropagation(
            loss=None if y is None else chunk.losses(1, l2)[0],
            z=tuple(sign * z.T for sign, z in zip(self.signs, found.z, strict=True)),
            a=(*(a.T for a in found.a[:-1]), output.T),
            delta=tuple(sign * d.T for sign, d in zip(self.signs, found.delta, strict=True)),
            gradients=Gradients(*self._signed(gradient)),
            input_gradient=by_x.T,
        )

    def start(self, optimizer: Optimizer) -> None:
        if self.update is None or self.update.optimizer != optimizer:
            formula = self.backend.formula("optimizer", optimizer.name, OPTIMIZERS)
            self.update = Update(optimizer, formula, self.layout.size, self.backend.dtype)
            self.trainers.clear()
            whole = self.P.nbytes <= ONE_UPDATE_BYTES
            self.G = empty(self.layout.size if whole else self.layout.largest, self.P.dtype)
        self.update.reset()

    def steps(self, x: Array, y: Array, order: Array, optimizer: Optimizer) -> Array:
        assert self.update is not None
        made = self.network, self.layout, self.P, self.G, self.update, order.shape[1]
        trainer = latest(self.trainers, order.shape[1], lambda: Trainer(*made))
        with np.errstate(over="ignore"):  # of the sigmoid's e^-z, which rightly gives 0
            return trainer.run(x, y, order)

    def _signed(self, layers: list[LayerArrays]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """W and b of layers as the equations have them."""
        pairs = list(zip(self.signs, layers, strict=True))
        return (
            tuple(sign * layer.W for sign, layer in pairs),
            tuple(sign * layer.b for sign, layer in pairs if layer.b is not None),
        )


class NumPyFastBackend(Backend):
    """Backpropagation in NumPy, as fast as it can be written by hand."""

    name = "numpy"
    modes = ("fast",)

    def model(self, network: MLP, parameters: Parameters) -> FastModel:
        self.require(network, ACTIVATIONS, LOSSES)
        return FastModel(self, network, parameters)
