"""How fast can the equations be, written by hand? The whole loop, compiled.

``fast`` pays for a call per operation; here Numba compiles steps, layers and operations into one
function, whose products are tiles of products.py, or BLAS where that is faster. Only
training is compiled: a pass whose every part is wanted, and a prediction, are the reference's.

What each part pays is in docs/fast_numpy.md; benchmarks/numpy_fast_limits.py measures it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numba.extending import get_cython_function_address

from bpbench.backend import Backend
from bpbench.backends import numpy_reference as reference
from bpbench.backends.numpy_common.plan import CACHE_LINE, empty, latest
from bpbench.backends.numpy_compiled import loop
from bpbench.backends.numpy_compiled.formulas import ACTIVATIONS
from bpbench.backends.numpy_compiled.kernels import UPDATES
from bpbench.backends.numpy_compiled.loop import LOSSES, SOFTMAX, train
from bpbench.backends.numpy_compiled.products import room
from bpbench.backends.numpy_compiled.vectors import FLOATS, REGISTER_BYTES
from bpbench.network import MLP, Array, Parameters
from bpbench.optimizers import FORMULAS, SGD, Optimizer

BLAS_FROM = 2**22 if REGISTER_BYTES == 64 else 2**21
"""Multiplications of a product (m * n_in * n_out) from which BLAS may take it. With two threads, it
takes 0.7 of the tiles' time for 25 million, and twice as long for 2 million. With one, tiles are as
fast as OpenBLAS at its best where there is AVX-512, and slower from here on where there is not."""

INTERRUPTIBLE = 1e10
"""Multiplications between two moments at which Ctrl-C is heard: some tenths of a second."""

MULTIPLICATIONS_OF_A_STEP = 1e4
"""What a step takes whatever its size, in multiplications."""

UPDATE_CODES = {name: code for code, name in enumerate(UPDATES)}
ONES = {dtype: np.ones(1, dtype) for dtype in ("float32", "float64")}
CODES = {name: code for code, name in enumerate(ACTIVATIONS)} | {"softmax": SOFTMAX}


@cache
def blas(dtype: str) -> int:
    """The address of SciPy's sgemm or dgemm."""
    name = "sgemm" if dtype == "float32" else "dgemm"
    return int(get_cython_function_address("scipy.linalg.cython_blas", name))


@cache
def blas_threads() -> int:
    """Threads of SciPy's BLAS."""
    import scipy.linalg.cython_blas as library  # its own OpenBLAS must be there to be asked
    from threadpoolctl import threadpool_info

    assert library
    return max(
        (pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"),
        default=1,
    )


class Places:
    """Hands out offsets in one array; every piece starts on a cache line."""

    def __init__(self, dtype: str) -> None:
        self.line = CACHE_LINE // np.dtype(dtype).itemsize
        self.size = 0

    def __call__(self, count: int) -> int:
        start = self.size
        self.size += -(-count // self.line) * self.line
        return start


class Workspace:
    """The room for steps on batches of m samples, and the tables that say what lies where.

    Args:
        parameters: offsets of W and b in the parameters, one row for each layer.
        plain: whether the update is that of plain gradient descent, whose gradient of W goes
            straight into W unless BLAS takes the product.

    Attributes:
        layers, places: what lies where, as loop.py reads it.
        array: the room.
    """

    def __init__(
        self, network: MLP, parameters: list[tuple[int, int]], dtype: str, m: int, plain: bool
    ) -> None:
        shapes = list(pairwise(network.sizes))
        large = [by_blas(m, *shape) for shape in shapes]
        take = Places(dtype)
        self.layers = np.zeros((network.layers, loop.BY_BLAS + 1), np.int64)
        a = [take(m * n) for n in network.sizes[1:]]
        for layer, (n_in, n_out) in enumerate(shapes):
            name = network.activations[layer]
            # when a layer's error is taken, nobody needs the a of the layer above any more
            fits = layer + 1 < network.layers and n_out <= network.sizes[layer + 2]
            self.layers[layer] = (
                n_in, n_out, CODES[name], *parameters[layer], a[layer],
                take(m * n_out) if name != "softmax" and ACTIVATIONS[name].keeps else a[layer],
                a[layer + 1] if fits else take(m * n_out), large[layer],
            )  # fmt: skip
        entries = [n_in * n_out for n_in, n_out in shapes]
        formed = [n for n, blas in zip(entries, large, strict=True) if blas or not plain]
        rooms = {
            loop.X: m * network.sizes[0],
            loop.Y: m * network.sizes[-1],
            loop.TOTAL: m,
            loop.WEIGHT: m,
            loop.GRADIENT: max(formed, default=0),
            loop.ZEROS: max(network.sizes),
            loop.ONE: 1,
            loop.NUMBERS: 8,
            loop.PACKED: room(FLOATS[dtype].lanes),
        }
        self.places = np.array([take(rooms[piece]) for piece in sorted(rooms)], np.int64)
        self.array = empty(take.size, dtype)
        self.array[self.places[loop.ZEROS] : self.places[loop.ONE]] = 0
        self.array[self.places[loop.ONE]] = 1
        self.large = any(large)


def by_blas(m: int, n_in: int, n_out: int) -> bool:
    """Whether BLAS takes a layer's products."""
    if m * n_in * n_out < BLAS_FROM:
        return False
    return REGISTER_BYTES < 64 or blas_threads() > 1


def _sgd(o: SGD, m: int) -> tuple[str, list[float]]:
    rate, l2 = o.learning_rate, o.l2
    if not o.momentum:
        return "scaled", [rate, l2, 0, 0, 0, -rate / m, rate * l2]
    return "nesterov" if o.nesterov else "momentum", [rate, l2, o.momentum, 0, 0, 1 / m, l2]


OPTIMIZERS: dict[str, Callable[[Any, int], tuple[str, list[float]]]] = {
    "SGD": _sgd,
    "RMSProp": lambda o, m: (
        "RMSProp", [o.learning_rate, o.l2, 0, o.decay, o.epsilon, 1 / m, o.l2],
    ),
    "Adam": lambda o, m: (
        "Adam", [o.learning_rate, o.l2, o.beta1, o.beta2, o.epsilon, 1 / m, o.l2],
    ),
}  # fmt: skip
"""(optimizer, m): the name of the update, and the numbers that the compiled step takes."""


class CompiledModel(reference.ReferenceModel):
    """The reference, but for training: all parameters in one array, W transposed."""

    def __init__(self, backend: Backend, network: MLP, parameters: Parameters) -> None:
        take = Places(backend.dtype)
        self.offsets = [
            (take(n_in * n_out), take(n_out) if network.bias else -1)
            for n_in, n_out in pairwise(network.sizes)
        ]
        self.P = empty(take.size, backend.dtype)
        self.P.fill(0)
        self.state: list[Array] = []
        self.spaces: dict[tuple[int, bool], Workspace] = {}
        super().__init__(backend, network, parameters)

    def write_parameters(self, parameters: Parameters) -> None:
        shapes = list(pairwise(self.network.sizes))
        self.W = [
            self.P[w : w + n_in * n_out].reshape(n_in, n_out).T
            for (w, _), (n_in, n_out) in zip(self.offsets, shapes, strict=True)
        ]
        self.b = [
            self.P[b : b + n_out]
            for (_, b), (_, n_out) in zip(self.offsets, shapes, strict=True)
            if b >= 0
        ]
        for mine, given in zip((*self.W, *self.b), (*parameters.W, *parameters.b), strict=True):
            mine[...] = given

    def upload(self, array: Array) -> Array:
        return np.require(array, requirements=["C", "A"])  # compiled code sees but an address

    def download(self, array: Array) -> Array:
        return np.array(array, order="C")

    def start(self, optimizer: Optimizer) -> None:
        self.t = 0
        self.settings = self.backend.formula("optimizer", optimizer.name, OPTIMIZERS)
        count = FORMULAS[optimizer.name].moments(optimizer)
        if len(self.state) != count:
            self.state = [empty(self.P.size, self.backend.dtype) for _ in range(count)]
        for array in self.state:
            array.fill(0)

    def steps(self, x: Array, y: Array, order: Array, optimizer: Optimizer) -> Array:
        m = order.shape[1]
        name, settings = self.settings(optimizer, m)
        plain = name == "scaled"
        made = self.network, self.offsets, self.backend.dtype, m, plain
        space = latest(self.spaces, (m, plain), lambda: Workspace(*made))
        losses = np.empty(len(order), self.backend.dtype)
        work = m * sum(3 * n_in * n_out for n_in, n_out in pairwise(self.network.sizes))
        chunk = max(1, int(INTERRUPTIBLE / (work + MULTIPLICATIONS_OF_A_STEP)))
        # Adam's m and v; one array of state is v, and plain gradient descent touches neither
        first, second = (
            (*self.state, self.P, self.P)[:2] if len(self.state) != 1 else 2 * self.state
        )
        for start in range(0, len(order), chunk):
            part = order[start : start + chunk]
            train(
                ONES[self.backend.dtype], space.layers, space.places, self.P.ctypes.data,
                first.ctypes.data, second.ctypes.data, space.array.ctypes.data, x.ctypes.data,
                y.ctypes.data, part.ctypes.data, len(part), m,
                losses[start:].ctypes.data, LOSSES[self.network.loss],
                UPDATE_CODES[name], np.array(settings, np.float64), self.t,
                blas(self.backend.dtype) if space.large else 0,
            )  # fmt: skip
            self.t += len(part)
        return losses


class NumPyCompiledBackend(Backend):
    """Backpropagation by hand, its training compiled by Numba."""

    name = "numpy"
    modes = ("compiled",)

    def model(self, network: MLP, parameters: Parameters) -> CompiledModel:
        self.require(network, CODES, LOSSES)
        self.require(network, reference.ACTIVATIONS, reference.LOSSES)
        return CompiledModel(self, network, parameters)
