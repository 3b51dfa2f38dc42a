"""What is a whole training run as one compiled function? The equations, step by step.

Numba compiles this file's functions once for each dtype, whatever the network: a network is a
table of numbers, one row for each layer, and of offsets into one array of parameters and one of
everything else, the room. A sample is a row; W lies transposed, (n_in, n_out), because
then a W^T and a^T delta read and write whole registers.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from bpbench.backends.numpy_compiled.formulas import ACTIVATIONS
from bpbench.backends.numpy_compiled.kernels import (
    UPDATES,
    activate,
    binary_cross_entropy,
    cross_entropy,
    softmax,
    softmax_error,
    squared_error,
    sum_of_squares,
    times_derivative,
    update,
    weighted_logarithms,
)
from bpbench.backends.numpy_compiled.products import compiled, inlined, njit, product
from bpbench.backends.numpy_compiled.tiles import at, copy, gemm, pointer

SUMMED_AT_ONCE = 4096
"""Numbers of which one sum is taken in the dtype itself; the sums are added in float64."""


N_IN, N_OUT, ACTIVATION, OF_W, OF_B, OF_A, OF_KEPT, OF_DELTA, BY_BLAS = range(9)
"""The columns of a network's table; W and b are offsets in the parameters (b: -1 where there is
none), a, kept and delta in the room."""

X, Y, TOTAL, WEIGHT, GRADIENT, ZEROS, ONE, NUMBERS, PACKED = range(9)
"""What else lies in the room, as offsets."""

SOFTMAX = len(ACTIVATIONS)
"""The number of the activation that ``activate`` does not know."""

SQUARED, BINARY, CROSS = 0, 1, 2
LOSSES = {"half_squared_error": SQUARED, "binary_cross_entropy": BINARY, "cross_entropy": CROSS}
"""The number of each loss that ``output_error`` has a formula for."""

SCALED, ADAM = list(UPDATES).index("scaled"), list(UPDATES).index("Adam")
"""Numbers of updates; the first takes gradients times -learning_rate: plain gradient descent."""


@inlined
def add(source, target, count):
    for i in range(count):
        target[i] += source[i]


@compiled
def activated(code, z, kept, count):
    """``activate``, whose code is there but once: it is large, and called in several places."""
    activate(code, z, kept, count)


@compiled
def differentiated(code, error, a, kept, count):
    times_derivative(code, error, a, kept, count)


@compiled
def updated(code, P, G, m, v, count, l2, numbers):
    update(code, P, G, m, v, count, l2, numbers)


@inlined
def squares(x, count):
    """The sum of x^2 in float64."""
    total = 0.0
    for start in range(0, count, SUMMED_AT_ONCE):
        total += sum_of_squares(at(x, start), min(SUMMED_AT_ONCE, count - start))
    return total


@inlined
def forward(layers, places, P, room, m, blas):
    """z^(l) = W^(l) a^(l-1) + b^(l); a^(l) = f(z^(l)), but for the last layer: that keeps z."""
    below, last = at(room, places[X]), len(layers) - 1
    packed = at(room, places[PACKED])
    unit, nil = np.int64(1), np.int64(0)  # literal numbers would each be another type
    for layer in range(len(layers)):
        n_in, n_out = layers[layer, N_IN], layers[layer, N_OUT]
        a, kept = at(room, layers[layer, OF_A]), at(room, layers[layer, OF_KEPT])
        W, code = at(P, layers[layer, OF_W]), layers[layer, ACTIVATION]
        biased = layers[layer, OF_B] >= 0
        b = at(P, layers[layer, OF_B]) if biased else at(room, places[ZEROS])
        if layers[layer, BY_BLAS]:
            gemm(blas, False, False, n_out, m, n_in, W, n_out, below, n_in, a, n_out)
            for row in range(m):
                add(b, at(a, row * n_out), n_out)
                if layer < last:
                    activated(code, at(a, row * n_out), at(kept, row * n_out), n_out)
        else:
            product(below, n_in, unit, W, n_out, unit, a, n_out, b, nil, 0.0, m, n_out, n_in,
                    packed)  # fmt: skip
            if layer < last:
                activated(code, a, kept, m * n_out)
        below = a


@inlined
def output_error(layers, places, room, m, loss, scale):
    """Turn the last z into delta, times ``scale``; the sum of the rows' losses.

    Softmax and squared error go row by row, the rest entry by entry.
    """
    last = len(layers) - 1
    n, code = layers[last, N_OUT], layers[last, ACTIVATION]
    z, y = at(room, layers[last, OF_A]), at(room, places[Y])
    delta, kept = at(room, layers[last, OF_DELTA]), at(room, layers[last, OF_KEPT])
    total = 0.0
    if loss == SQUARED:
        if code == SOFTMAX:
            for row in range(m):
                softmax(at(z, row * n), n)
        else:
            activated(code, z, kept, m * n)
        for start in range(0, m * n, SUMMED_AT_ONCE):
            count = min(SUMMED_AT_ONCE, m * n - start)
            total += 0.5 * squared_error(at(z, start), at(y, start), at(delta, start), scale, count)
        if code == SOFTMAX:
            for row in range(m):
                softmax_error(at(delta, row * n), at(z, row * n), n)
        else:
            differentiated(code, delta, z, kept, m * n)
    elif loss == BINARY:
        for start in range(0, m * n, SUMMED_AT_ONCE):
            count = min(SUMMED_AT_ONCE, m * n - start)
            total += binary_cross_entropy(
                at(z, start), at(y, start), at(delta, start), scale, count
            )
    elif loss == CROSS:
        sums, weights = at(room, places[TOTAL]), at(room, places[WEIGHT])
        for row in range(m):
            start, both = row * n, (at(sums, row), at(weights, row))
            total += cross_entropy(at(z, start), at(y, start), at(delta, start), *both, scale, n)
        total += weighted_logarithms(sums, weights, m)
    else:
        total = np.nan
    return total


@inlined
def hidden_error(layers, places, P, room, m, layer, blas):
    """delta^(l) = (W^(l+1)^T delta^(l+1)) * f'(z^(l)), where ``layer`` is l + 1."""
    n_in, n_out = layers[layer, N_IN], layers[layer, N_OUT]
    W, delta = at(P, layers[layer, OF_W]), at(room, layers[layer, OF_DELTA])
    error = at(room, layers[layer - 1, OF_DELTA])
    if layers[layer, BY_BLAS]:
        gemm(blas, True, False, n_in, m, n_out, W, n_out, delta, n_out, error, n_in)
    else:
        unit, nil = np.int64(1), np.int64(0)
        product(delta, n_out, unit, W, unit, n_out, error, n_in, at(room, places[ZEROS]), nil,
                0.0, m, n_in, n_out, at(room, places[PACKED]))  # fmt: skip
    a, kept = at(room, layers[layer - 1, OF_A]), at(room, layers[layer - 1, OF_KEPT])
    differentiated(layers[layer - 1, ACTIVATION], error, a, kept, m * n_in)


@inlined
def move(layers, places, P, S, T, room, m, layer, code, l2, blas):
    """grad W = delta^(l) (a^(l-1))^T, grad b = delta^(l), and the optimizer's step of one layer.

    ``S`` and ``T`` hold the optimizer's state, where the parameters have theirs.
    """
    n_in, n_out = layers[layer, N_IN], layers[layer, N_OUT]
    below = at(room, layers[layer - 1, OF_A] if layer else places[X])
    delta, W = at(room, layers[layer, OF_DELTA]), at(P, layers[layer, OF_W])
    G, zeros = at(room, places[GRADIENT]), at(room, places[ZEROS])
    packed = at(room, places[PACKED])
    unit, nil = np.int64(1), np.int64(0)  # literal numbers would each be another type
    one, numbers, none = at(room, places[ONE]), at(room, places[NUMBERS]), 0.0
    if layers[layer, BY_BLAS]:
        gemm(blas, False, True, n_out, n_in, m, delta, n_out, below, n_in, G, n_out)
    elif code == SCALED:
        product(below, unit, n_in, delta, n_out, unit, W, n_out, W, n_out, l2, n_in, n_out, m,
                packed)  # fmt: skip
    else:
        product(below, unit, n_in, delta, n_out, unit, G, n_out, zeros, nil, none, n_in, n_out, m,
                packed)  # fmt: skip
    if code != SCALED or layers[layer, BY_BLAS]:
        first, second = at(S, layers[layer, OF_W]), at(T, layers[layer, OF_W])
        weight = -l2 if code == SCALED else l2
        updated(code, W, G, first, second, n_in * n_out, weight, numbers)
    if layers[layer, OF_B] < 0:
        return
    b = at(P, layers[layer, OF_B])
    if code == SCALED:
        product(one, nil, nil, delta, n_out, unit, b, n_out, b, nil, none, unit, n_out, m,
                packed)  # fmt: skip
    else:
        product(one, nil, nil, delta, n_out, unit, G, n_out, zeros, nil, none, unit, n_out, m,
                packed)  # fmt: skip
        first, second = at(S, layers[layer, OF_B]), at(T, layers[layer, OF_B])
        updated(code, b, G, first, second, n_out, none, numbers)


def trainer(sources):
    """The compiled training run.

    Args:
        sources: a number that changes with the code that is compiled: Numba's cache knows only
            of changes in this file.
    """

    def train(
        like, layers, places, P, S, T, room, x, y, order, steps, m,
        losses, loss, code, settings, t, blas,
    ):  # fmt: skip
        """Take steps from P; the arrays' addresses come as whole numbers.

        Args:
            like: (1,), an array of the dtype.
            layers: (layers, 9), by N_IN and what follows it; places: (9,), by X and so on.
            P, S, T: parameters and the optimizer's state; room: for everything else.
            x, y: (rows, n_1) and (rows, n_L); order: (steps, m), int64; losses: (steps,).
            loss, code: numbers of the loss and of the update.
            settings: (7,), float64: learning rate, l2, first and second factor, epsilon, the
                scale of delta, and what the update does with l2.
            t: steps taken before.
            blas: the address of sgemm or dgemm.
        """
        if sources == 0:
            return
        P, S, T = pointer(P, like), pointer(S, like), pointer(T, like)
        room, losses = pointer(room, like), pointer(losses, like)
        x, y, order = pointer(x, like), pointer(y, like), pointer(order, layers)
        numbers = at(room, places[NUMBERS])
        rate, l2, first, second, epsilon, scale, weight = settings
        n_x, n_y = layers[0, N_IN], layers[-1, N_OUT]
        batch_x, batch_y = at(room, places[X]), at(room, places[Y])
        for step in range(steps):
            for i in range(m):
                row = order[step * m + i]
                copy(at(x, row * n_x), at(batch_x, i * n_x), n_x)
                copy(at(y, row * n_y), at(batch_y, i * n_y), n_y)
            penalty = 0.0
            if l2 > 0:
                for layer in range(len(layers)):
                    penalty += squares(
                        at(P, layers[layer, OF_W]), layers[layer, N_IN] * layers[layer, N_OUT]
                    )
            forward(layers, places, P, room, m, blas)
            total = output_error(layers, places, room, m, loss, scale)
            losses[step] = total / m + 0.5 * l2 * penalty
            if code != SCALED:
                now = t + step + 1
                numbers[0] = rate / (1 - first**now) if code == ADAM else rate
                numbers[1], numbers[2], numbers[3] = first, second, 1 - second
                numbers[4], numbers[5] = epsilon, 1 - first
                numbers[6] = 1 / (1 - second**now) if code == ADAM else 1.0
            for layer in range(len(layers) - 1, -1, -1):
                if layer:
                    hidden_error(layers, places, P, room, m, layer, blas)
                move(layers, places, P, S, T, room, m, layer, code, weight, blas)

    return train


def digest(folder: Path = Path(__file__).parent) -> int:
    """A number of the files that are compiled."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        found.update(path.read_bytes())
    return int.from_bytes(found.digest()[:4], "little") + 1


def kept(function):
    """Compile a function when it is called, and keep the code where there is a place for it."""
    options = {"error_model": "numpy", "no_cfunc_wrapper": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither this folder nor the user's cache can be written to
        return njit(**options)(function)


train = kept(trainer(digest()))
