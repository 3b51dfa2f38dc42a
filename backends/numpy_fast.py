"""How fast can the document's equations be in NumPy? The same sums as in numpy_reference.py.

What costs time there is not arithmetic: it is calls on small arrays, and memory that is allocated,
written and read again on large ones. So here, once for each batch size, every array is made and
the step is written out as a straight line of calls that fill them. A sample is a column, as the
document writes it, and W and b of all layers lie in one array, their gradient in another.

Which trick pays how much is in docs/fast_numpy.md; benchmarks/numpy_fast_limits.py measures it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from backends.numpy_kernels import (
    ACTIVATIONS,
    LOSSES,
    STEP_SLOTS,
    LastLayer,
    with_shared_slopes,
)
from backends.numpy_plan import Plan, blocks
from backends.numpy_updates import Update
from bpbench.backend import Backend, Backpropagation, Gradients, Model
from bpbench.network import MLP, Array, Parameters
from bpbench.optimizers import Optimizer

FOLDED = 4096
"""Up to this many weights a layer's b is a column of W, fed by a unit that is always 1: one product
does what else takes an addition, and in the backward pass a sum. Larger layers lose by it."""

FOLDED_INPUTS = 16
"""The same for the first layer, where the ones must be put beside x in every batch."""

ONE_UPDATE_BYTES = 512 * 1024
"""Up to this size all parameters are updated at once; above, each layer's as soon as its gradient
is there, which then is still in the cache, and one gradient's memory serves all layers."""

CHUNK_BYTES = 512 * 1024
"""So much of the data is gathered at once, at most for ``CHUNK_STEPS`` steps."""

CHUNK_STEPS = 64

SHARED_SLOPES = 1024
"""Up to this many units times samples, all sigmoids, f' of all layers is computed at once."""

BATCH_SIZES = 2
"""For so many batch sizes the buffers are kept: the usual one and that of a last, short batch."""


@dataclass(frozen=True)
class LayerArrays:
    """One layer's part of a flat array, as views.

    Attributes:
        flat: (n_out * n_in + n_out,), all of it; without the last n_out where there is no b.
        w: (n_out * n_in,), the entries of W as they lie in memory.
        W: (n_out, n_in).
        b: (n_out,), or None.
        both: (n_in + 1, n_out), W transposed with b as its last row, where b is folded into W.
    """

    flat: Array
    w: Array
    W: Array
    b: Array | None
    both: Array | None


class Layout:
    """Where in a flat array W and b of each layer lie."""

    def __init__(self, network: MLP) -> None:
        self.shapes = list(zip(network.sizes[1:], network.sizes, strict=False))
        self.bias = network.bias
        self.folded = [
            network.bias and n_out * n_in <= FOLDED and (layer > 0 or n_in <= FOLDED_INPUTS)
            for layer, (n_out, n_in) in enumerate(self.shapes)
        ]
        sizes = [n_out * (n_in + network.bias) for n_out, n_in in self.shapes]
        ends = np.cumsum([0, *sizes]).tolist()
        self.parts = [slice(start, end) for start, end in pairwise(ends)]
        self.size, self.largest = ends[-1], max(sizes)

    def layers(self, flat: Array) -> list[LayerArrays]:
        """The layers of an array of all parameters, (size,)."""
        return [self.layer(layer, flat[part]) for layer, part in enumerate(self.parts)]

    def layer(self, layer: int, flat: Array) -> LayerArrays:
        """One layer in an array that begins with its part."""
        n_out, n_in = self.shapes[layer]
        flat = flat[: n_out * (n_in + self.bias)]
        w, b = flat[: n_out * n_in], flat[n_out * n_in :] if self.bias else None
        if not self.folded[layer]:
            return LayerArrays(flat, w, w.reshape(n_out, n_in), b, None)
        # transposed, so that W without b has no gaps, which would cost BLAS a copy
        both = flat.reshape(n_in + 1, n_out)
        return LayerArrays(flat, w, both[:-1].T, b, both)


class Chunk:
    """The batches of up to ``length`` steps: gathered in one call, their losses computed in one."""

    def __init__(self, network: MLP, layout: Layout, dtype: str, m: int, length: int) -> None:
        n_in, n_out = network.sizes[0], network.sizes[-1]
        self.loss, self.m, self.length = LOSSES[network.loss], m, length
        self.x = np.empty((length, m, n_in), dtype)
        self.columns = self.x.transpose(0, 2, 1)
        self.ones_beside_x = layout.folded[0]
        if self.ones_beside_x:
            self.columns = np.ones((length, n_in + 1, m), dtype)
        self.rows_of_y = np.empty((length, m, n_out), dtype)
        self.y, self.scaled_y, self.for_loss, self.spare = np.empty((4, length, n_out, m), dtype)
        self.sums, self.weight, self.total = np.empty((3, length, m), dtype)
        self.ones = np.ones(n_out, dtype)
        self.penalty = np.zeros(length, dtype)
        x = self.columns.transpose(0, 2, 1)
        self.slots: list[tuple[Any, ...]] = [
            (x[k], self.columns[k], self.columns[k].dot, self.y[k], self.scaled_y[k],
             self.weight[k], self.for_loss[k], self.total[k], self.penalty[k : k + 1].reshape(()))
            for k in range(length)
        ]  # fmt: skip

    def gather(self, x: Array, y: Array, rows: Array, scale: Array) -> list[tuple[Any, ...]]:
        """Fill as many slots as there are ``rows``, (k, m), of x and y."""
        k = len(rows)
        # "clip", because take into a buffer copies it twice to be able to raise; rows are checked
        x.take(rows, 0, self.x[:k], "clip")
        if self.ones_beside_x:
            self.columns[:k, :-1] = self.x[:k].transpose(0, 2, 1)
        y.take(rows, 0, self.rows_of_y[:k], "clip")
        self.y[:k] = self.rows_of_y[:k].transpose(0, 2, 1)
        if self.loss.of_logits:
            np.multiply(self.y[:k], scale, self.scaled_y[:k])
            self.rows_of_y[:k].reshape(-1, len(self.ones)).dot(self.ones, self.sums[:k].ravel())
            np.multiply(self.sums[:k], scale, self.weight[:k])
        return self.slots[:k]

    def losses(self, k: int, l2: float) -> Array:
        """The mean losses of the first k steps, 0.5 * l2 * sum of W^2 included."""
        total = self.loss.total(
            self.for_loss[:k], self.total[:k], self.y[:k], self.sums[:k], self.spare[:k]
        )
        return total / self.m + 0.5 * l2 * self.penalty[:k] if l2 else total / self.m


class Pass:
    """The plan of a forward and a backward pass of m samples, and the arrays that it fills.

    Args:
        weights: the layers of the parameters.
        keep: whether z, a and delta of every layer are to be had afterwards. Else a takes the place
            of z and is used up by its derivative, and two arrays hold all deltas in turn.
    """

    def __init__(
        self, network: MLP, weights: list[LayerArrays], dtype: str, m: int, keep: bool
    ) -> None:
        self.network, self.weights, self.keep = network, weights, keep
        self.plan = plan = Plan(dtype, *STEP_SLOTS)
        self.ones = np.ones(m, dtype)
        sizes = network.sizes[1:]
        # below a layer with folded b, one unit more, which is always 1
        rows = [n + (above.both is not None) for n, above in zip(sizes, weights[1:], strict=False)]
        self.units = np.ones(sum(rows, sizes[-1]) * m, dtype)
        self.fed = _split(self.units, [*rows, sizes[-1]], m)
        self.a = [fed[:n] for fed, n in zip(self.fed, sizes, strict=True)]
        self.activations = [ACTIVATIONS[name] for name in network.activations]
        self.kept = [
            plan.empty(n, m) if activation.keeps else None
            for n, activation in zip(sizes, self.activations, strict=True)
        ]
        self.z = [plan.empty(n, m) for n in sizes] if keep else []
        turns = [] if keep else [plan.empty(max(sizes) * m) for _ in sizes[:2]]
        self.delta = [
            plan.empty(n, m) if keep else turns[layer % 2][: n * m].reshape(n, m)
            for layer, n in enumerate(sizes)
        ]
        sigmoids = set(network.activations) == {"sigmoid"} and not LOSSES[network.loss].of_logits
        if sigmoids and not keep and self.units.size <= SHARED_SLOPES:
            slopes = plan.empty(self.units.size)
            hidden, last = with_shared_slopes(self.units, slopes)
            self.activations = [hidden] * (len(sizes) - 1) + [last]
            self.kept = [
                kept[:n]
                for kept, n in zip(_split(slopes, [*rows, sizes[-1]], m), sizes, strict=True)
            ]

    def forward(self) -> None:
        """Add z^(l) = W^(l) a^(l-1) + b^(l) and a^(l) = f(z^(l)), up to the last layer's a."""
        for layer in range(self.network.layers - 1):
            z, kept = self.a[layer], self.kept[layer]
            self._product(layer, z)
            for rows in blocks(z):
                self._bias(layer, z[rows], rows)
                if self.keep:
                    self.plan.call(np.copyto, self.z[layer][rows], z[rows])
                self.activations[layer].forward(self.plan, z[rows], _cut(kept, rows))

    def output(self, output: Array) -> None:
        """Add the last layer's z and its a, put into ``output``, (n_L, m)."""
        self._last(self.a[-1])
        self.activations[-1].forward(self.plan, self.a[-1], self.kept[-1])
        self.plan.call(np.copyto, output, self.a[-1])

    def cotangent(self, output: Array) -> None:
        """Add the same and the last layer's delta for dL/da in the slot y."""
        self.output(output)
        self.plan.call(np.copyto, self.delta[-1], "y")
        self.activations[-1].backward(self.plan, self.delta[-1], self.a[-1], self.kept[-1])

    def loss(self, scale: float, output: Array | None = None) -> None:
        """Add the last layer's z and delta, times ``scale``, and what the loss needs."""
        loss = LOSSES[self.network.loss]
        z = self._last("for_loss" if loss.of_logits else self.a[-1])
        bounded = all(activation.bounded for activation in self.activations[-2:-1])
        last = LastLayer(
            self.activations[-1], z, self.kept[-1], self.delta[-1], self.plan.constant(scale),
            output, self.weights[-1].flat if bounded and self.network.layers > 1 else None,
        )  # fmt: skip
        loss.error(self.plan, last)

    def backward(
        self,
        gradient: list[LayerArrays],
        by_x: Array | None = None,
        finish: Callable[[int], None] = lambda layer: None,
    ) -> None:
        """Add the errors of all layers below the last, and every layer's gradient.

        Args:
            gradient: where it goes; layers may share memory if ``finish`` is done with it.
            by_x: (n_1, m), the input gradient; not computed where None.
            finish: adds what is to be done with a layer's gradient.
        """
        spare = self.plan.empty(max(a.size for a in self.a)) if self.keep else None
        for layer in reversed(range(self.network.layers)):
            error = self.delta[layer - 1] if layer else by_x
            if error is not None:
                self.plan.call(self.weights[layer].W.T.dot, self.delta[layer], error)
            self._gradient(layer, gradient[layer])
            finish(layer)
            if not layer or error is None:
                return
            a, kept = self.a[layer - 1], self.kept[layer - 1]
            if spare is not None:
                a = spare[: a.size].reshape(a.shape)
                self.plan.call(np.copyto, a, self.a[layer - 1])
            for rows in blocks(error):
                self.activations[layer - 1].backward(
                    self.plan, error[rows], a[rows], _cut(kept, rows)
                )

    def penalty(self) -> None:
        """Add the sum of W^2 over all layers, the l2 term's."""
        pieces = [layer.w[rows] for layer in self.weights for rows in blocks(layer.w)]
        sums = self.plan.empty(len(pieces))
        for index, w in enumerate(pieces):
            self.plan.call(w.dot, w, sums[index : index + 1].reshape(()))
        self.plan.call(np.add.reduce, sums, 0, None, "penalty")

    def penalise(self, layer: int, gradient: LayerArrays, l2: float) -> None:
        """Add l2 * W to a layer's gradient."""
        for rows in blocks(gradient.w):
            w, g = self.weights[layer].w[rows], gradient.w[rows]
            term = self.plan.scratch(w)
            self.plan.call(np.multiply, w, self.plan.constant(l2), term)
            self.plan.call(np.add, g, term, g)

    def _last(self, z: Any) -> Any:
        layer = self.network.layers - 1
        self._product(layer, z)
        self._bias(layer, z)
        if self.keep:
            self.plan.call(np.copyto, self.z[-1], z)
        return z

    def _product(self, layer: int, z: Any) -> None:
        weights = self.weights[layer]
        W = weights.W if weights.both is None else weights.both.T
        self.plan.call(W.dot, self.fed[layer - 1] if layer else "columns", z)

    def _bias(self, layer: int, z: Any, rows: slice = slice(None)) -> None:
        weights = self.weights[layer]
        if weights.b is not None and weights.both is None:
            self.plan.spread(np.add, z, weights.b[rows, None], z, like=self.a[layer][rows])

    def _gradient(self, layer: int, gradient: LayerArrays) -> None:
        """grad_W = delta^(l) (a^(l-1))^T and grad_b = delta^(l), summed over the samples."""
        delta = self.delta[layer]
        if gradient.both is not None:
            dot: Any = self.fed[layer - 1].dot if layer else "columns_dot"
            self.plan.call(dot, delta.T, gradient.both)
            return
        self.plan.call(delta.dot, self.fed[layer - 1].T if layer else "x", gradient.W)
        if gradient.b is not None:
            # a product with ones: 0.3 us for 32 x 64, where np.add.reduce takes 1.7
            self.plan.call(delta.dot, self.ones, gradient.b)


def _split(flat: Array, rows: list[int], m: int) -> list[Array]:
    """A flat array as arrays of (n, m), one after the other."""
    ends = np.cumsum([0, *rows]) * m
    return [flat[a:b].reshape(-1, m) for a, b in pairwise(ends)]


def _cut(array: Array | None, rows: slice) -> Array | None:
    return None if array is None else array[rows]


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
        slot_bytes = P.itemsize * m * (network.sizes[0] + 4 * network.sizes[-1])
        length = min(CHUNK_STEPS, max(1, CHUNK_BYTES // slot_bytes))
        self.chunk = Chunk(network, layout, dtype, m, length)
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
        self.step = steps.plan.written_out()

    def run(self, x: Array, y: Array, order: Array) -> Array:
        """A step for each row of ``order``, (steps, m); the losses before each."""
        losses = np.empty(len(order), x.dtype)
        for start in range(0, len(order), self.chunk.length):
            rows = order[start : start + self.chunk.length]
            for slot in self.chunk.gather(x, y, rows, self.scale):
                self.step(*slot)
            losses[start : start + len(rows)] = self.chunk.losses(len(rows), self.l2)
        return losses


class FastModel(Model):
    """All parameters in one array, and a trainer for each batch size."""

    def __init__(self, backend: Backend, network: MLP, parameters: Parameters) -> None:
        self.layout = Layout(network)
        self.P = np.empty(self.layout.size, backend.dtype)
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
        output = np.empty((self.network.sizes[-1], len(x)), x.dtype)
        forward = Pass(self.network, self.layers, self.backend.dtype, len(x), keep=False)
        forward.forward()
        forward.output(output)
        self._run_once(forward.plan, x)
        return output.T

    def differentiate(
        self, x: Array, y: Array | None, cotangent: Array | None, l2: float
    ) -> Backpropagation[Array]:
        m, dtype = len(x), self.backend.dtype
        found = Pass(self.network, self.layers, dtype, m, keep=True)
        output = found.plan.empty(self.network.sizes[-1], m)
        gradient = self.layout.layers(found.plan.empty(self.layout.size))
        by_x = found.plan.empty(self.network.sizes[0], m)
        found.penalty()
        found.forward()
        if cotangent is None:
            found.loss(1 / m, output)
        else:
            found.cotangent(output)
        found.backward(gradient, by_x, lambda layer: found.penalise(layer, gradient[layer], l2))
        chunk = self._run_once(found.plan, x, cotangent if y is None else y)
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
            self.update = Update(optimizer, self.layout.size, self.backend.dtype)
            self.trainers.clear()
            whole = self.P.nbytes <= ONE_UPDATE_BYTES
            self.G = np.empty(self.layout.size if whole else self.layout.largest, self.P.dtype)
        self.update.reset()

    def steps(self, x: Array, y: Array, order: Array, optimizer: Optimizer) -> Array:
        assert self.update is not None
        m = order.shape[1]
        # the latest used is the last; the one that goes is the first
        trainer = self.trainers.pop(m, None)
        while len(self.trainers) >= BATCH_SIZES:
            self.trainers.pop(next(iter(self.trainers)))
        if trainer is None:
            trainer = Trainer(self.network, self.layout, self.P, self.G, self.update, m)
        self.trainers[m] = trainer
        with np.errstate(over="ignore"):  # of the sigmoid's e^-z, which rightly gives 0
            return trainer.run(x, y, order)

    def _run_once(self, plan: Plan, x: Array, y: Array | None = None) -> Chunk:
        """Run a plan on all of x, as a chunk of one step."""
        chunk = Chunk(self.network, self.layout, self.backend.dtype, len(x), 1)
        if y is None:
            y = np.zeros((len(x), self.network.sizes[-1]), x.dtype)
        (slot,) = chunk.gather(x, y, np.arange(len(x))[None], np.array(1 / len(x), x.dtype))
        with np.errstate(over="ignore"):
            plan.written_out()(*slot)
        return chunk

    def _signed(self, layers: list[LayerArrays]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """W and b of layers as the document has them."""
        pairs = list(zip(self.signs, layers, strict=True))
        return (
            tuple(sign * layer.W for sign, layer in pairs),
            tuple(sign * layer.b for sign, layer in pairs if layer.b is not None),
        )


class NumPyFastBackend(Backend):
    """The document's backpropagation in NumPy, as fast as it can be written by hand."""

    name = "numpy"
    modes = ("fast",)

    def model(self, network: MLP, parameters: Parameters) -> FastModel:
        return FastModel(self, network, parameters)
