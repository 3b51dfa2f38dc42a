"""How fast could a training step be? Its exact arithmetic, and its bare matrix products.

A step of backpropagation is, for every layer, the product of the forward pass, that of the weights'
gradient and, but for the first layer, that of the error of the layer below. All else is small
beside them on large networks. So the same products done alone, by NumPy's BLAS, are the limit that
a step is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bpbench.measure.clock import timed
from bpbench.network import Array

LAYOUTS = ("rows", "columns")
"""How a batch may lie in memory: a sample is a row, as frameworks have it, or a column."""
TRIES = 3
"""Blocks that each layout is timed by, to take the faster one."""
TRY_SECONDS = 0.005


class Product(NamedTuple):
    """A matrix product, (m, k) times (k, n)."""

    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.k * self.n


def products(sizes: Sequence[int], batch: int) -> list[Product]:
    """The matrix products of one training step.

    Args:
        sizes: (n_1, ..., n_L), units of every layer, the inputs' first.
        batch: rows of a batch.

    Source: equation (2) for the forward pass, equations (7) and (8) for the others.
    """
    found = []
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        found += [Product(batch, n_in, n_out), Product(n_out, batch, n_in)]
        if layer:  # nobody asks for the gradient by the data
            found.append(Product(batch, n_out, n_in))
    return found


def step_flops(sizes: Sequence[int], batch: int) -> int:
    """Floating-point operations in the matrix products of one training step, exactly."""
    return sum(product.flops for product in products(sizes, batch))


class BareProducts:
    """The matrix products of a step and nothing else, ``np.dot`` into arrays made beforehand.

    Every layout is tried, and the faster one is the limit.

    Args:
        sizes: (n_1, ..., n_L).
        batch: rows of a batch.
        dtype: "float32" or "float64".

    Attributes:
        layout: the faster of LAYOUTS.
    """

    def __init__(self, sizes: Sequence[int], batch: int, dtype: str) -> None:
        calls = {layout: _calls(sizes, batch, dtype, layout) for layout in LAYOUTS}
        self.layout = min(LAYOUTS, key=lambda layout: _quickest(calls[layout]))
        self._calls = calls[self.layout]

    def run(self, steps: int) -> None:
        """Do the products of so many steps."""
        _repeat(self._calls, steps)


Call = tuple[Callable[[Array, Array, Array], object], Array, Array, Array]


def _calls(sizes: Sequence[int], batch: int, dtype: str, layout: str) -> list[Call]:
    """np.dot and its arguments, for every product in the order of a step."""
    rng = np.random.default_rng(0)

    def samples(n: int) -> Array:
        return rng.random((batch, n)).astype(dtype)

    layers = []
    for n_in, n_out in pairwise(sizes):
        W, dW = rng.random((2, n_out, n_in)).astype(dtype)
        layers.append((samples(n_in), W, dW, samples(n_out), samples(n_out), samples(n_in)))
    forward: list[Call] = []
    backward: list[Call] = []
    for layer, (a, W, dW, z, delta, below) in enumerate(layers):
        if layout == "rows":
            forward.append((np.dot, a, W.T, z))
            each: list[Call] = [(np.dot, delta.T, a, dW), (np.dot, delta, W, below)]
        else:
            # the data's rows are samples whatever the layout; the rest is laid out anew
            columns = a.T if not layer else np.ascontiguousarray(a.T)
            z, delta, below = (np.ascontiguousarray(array.T) for array in (z, delta, below))
            forward.append((np.dot, W, columns, z))
            each = [(np.dot, delta, columns.T, dW), (np.dot, W.T, delta, below)]
        backward = (each if layer else each[:1]) + backward
    return forward + backward


def _repeat(calls: list[Call], steps: int) -> None:
    for _ in range(steps):
        for dot, left, right, out in calls:
            dot(left, right, out)


def _quickest(calls: list[Call]) -> float:
    """The least seconds of a step."""
    steps = 1
    while (took := _seconds(calls, steps)) < TRY_SECONDS:
        steps *= max(2, min(16, int(TRY_SECONDS / took)))
    return min(_seconds(calls, steps) for _ in range(TRIES)) / steps


def _seconds(calls: list[Call], steps: int) -> float:
    return max(timed(lambda: _repeat(calls, steps)).wall, 1e-9)
