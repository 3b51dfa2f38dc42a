"""Which NumPy calls make up a forward and a backward pass, and on which arrays?

A sample is a column, as in the equations' source: z = W a + b stands as there. W and b
of all layers lie in one array and their gradient in another, so that one call can change them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from bpbench.backends.numpy_common.plan import Plan, blocks
from bpbench.backends.numpy_fast.kernels import (
    ACTIVATIONS,
    LOSSES,
    STEP_SLOTS,
    LastLayer,
    with_shared_slopes,
)
from bpbench.network import MLP, Array

FOLDED_INPUTS = 16
"""Up to this many inputs the first layer's b is a column of W as well. In other layers it always
is, fed by a unit that is always 1: one product does what else takes an addition, and in the
backward pass a sum. Beside x the ones must be put in every batch, which eats what that saves."""

SHARED_SLOPES = 1024
"""Up to this many units times samples, all sigmoids, f' of all layers is computed at once."""


@dataclass(frozen=True)
class LayerArrays:
    """One layer's part of a flat array, as views.

    Attributes:
        w: (n_out * n_in,), the entries of W as they lie in memory.
        W: (n_out, n_in).
        b: (n_out,), or None.
        both: (n_in + 1, n_out), W transposed with b as its last row, where b is folded into W.
    """

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
            network.bias and (layer > 0 or n_in <= FOLDED_INPUTS)
            for layer, (_, n_in) in enumerate(self.shapes)
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
            return LayerArrays(w, w.reshape(n_out, n_in), b, None)
        # transposed, so that W without b has no gaps, which would cost BLAS a copy
        both = flat.reshape(n_in + 1, n_out)
        return LayerArrays(w, both[:-1].T, b, both)


class Pass:
    """The plan of a forward and a backward pass of m samples, and the arrays that it fills.

    Args:
        weights: the layers of the parameters.
        keep: whether z, a and delta of every layer are to be had afterwards. Else a takes the place
            of z, and is overwritten by its derivative and then by the error of the layer below.
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
        self.units = plan.empty(sum(rows, sizes[-1]) * m)
        self.units.fill(1)
        self.fed = _split(self.units, [*rows, sizes[-1]], m)
        self.a = [fed[:n] for fed, n in zip(self.fed, sizes, strict=True)]
        self.activations = [ACTIVATIONS[name] for name in network.activations]
        self.kept = [
            plan.empty(n, m) if activation.keeps else None
            for n, activation in zip(sizes, self.activations, strict=True)
        ]
        self.z = [plan.empty(n, m) for n in sizes] if keep else []
        # by the time that a layer's error is there, nobody needs the a of the layer above
        self.delta = [
            above[:n] if above is not None and n <= len(above) and not keep else plan.empty(n, m)
            for n, above in zip(sizes, [*self.a[1:], None], strict=True)
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

    def output(self) -> Array:
        """Add the last layer's z and its a, and return where that will be, (n_L, m)."""
        self._last(self.a[-1])
        self.activations[-1].forward(self.plan, self.a[-1], self.kept[-1])
        return self.a[-1]

    def cotangent(self, output: Array) -> None:
        """Add the same, a copy of a in ``output``, and the last delta for dL/da in the slot y."""
        a = self.output()
        self.plan.call(np.copyto, output, a)
        self.plan.call(np.copyto, self.delta[-1], "y")
        self.activations[-1].backward(self.plan, self.delta[-1], a, self.kept[-1])

    def loss(self, scale: float, output: Array | None = None) -> None:
        """Add the last layer's z and delta, times ``scale``, and what the loss needs."""
        loss = LOSSES[self.network.loss]
        z = self._last("for_loss" if loss.of_logits else self.a[-1])
        factor = self.plan.constant(scale)
        last = LastLayer(self.activations[-1], z, self.kept[-1], self.delta[-1], factor, output)
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
            self.plan.call(np.add, z, weights.b[rows, None], z)

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
