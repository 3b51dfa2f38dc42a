"""What may delta of the output layer be? The wrong errors, and the right error wrongly used."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.functions import FUNCTIONS
from bpbench.verify.diagnose.mistakes.context import Context, applied, taken
from bpbench.verify.diagnose.mistakes.row import Guess, Row, Seen, kind
from bpbench.verify.diagnose.mistakes.slopes import DIAGONAL, OUTPUT_MISSING

ROUNDED = kind("predictions rounded", "train on the outputs themselves, not on the rounded ones")
PARTIAL_MEAN = kind("1/m in one term only", "divide a - y as a whole")
LEVELLED = kind(
    "error averaged over its entries", "every output of every sample has an error of its own"
)
CANCELS = kind(
    "f' where cross-entropy cancels it", "delta of the output is a - y: cross-entropy cancels f'"
)
BINARY = kind("binary cross-entropy's derivative with softmax", "with softmax dL/da is -y/a")
HALF_OF_IT = kind(
    "second term of the cross-entropy missing", "derive -y log a - (1-y) log(1-a) as a whole"
)
TWICE = kind(
    "activation applied twice", "apply it once; losses that take logits apply it themselves"
)
Z_FOR_A = kind("z for a in the error", "apply the output's activation before y is subtracted")
JACOBIAN = kind(
    "wrong Jacobian of the softmax", "dz_i = a_i (da_i - sum over j of a_j da_j), for each sample"
)
SHIFTED = kind("labels shifted", "check the one-hot encoding and whether classes count from 0")
OTHER_ROWS = kind("labels of other samples", "keep the rows of x and y in the same order")
COLUMN_OF_Y = kind("y of shape (m,) against (m,1)", "reshape y to (m, 1): (m, 1) - (m,) is (m, m)")


def _chosen(c: Context) -> Array:
    """One-hot: the largest output of each sample."""
    return np.asarray(np.eye(c.n)[c.o.argmax(axis=1)])


def _levels(c: Context) -> Iterator[tuple[str, Array]]:
    """a - y of which only a mean is left, in the place of each entry."""
    error = c.o - c.y
    names = {
        1: "each sample has one error, the mean over its outputs",
        0: "each output has one error, the mean over the samples",
        None: "there is one error, the mean over everything",
    }
    for axis, say in names.items():
        yield say, np.broadcast_to(error.mean(axis=axis, keepdims=True), error.shape)


softmax = taken("softmax")
ERRORS = (
    Row(kind("sign of y", "the error is a - y"), "the error is a + y, not a - y", lambda c: c.o + c.y),
    Row(kind("loss for its derivative", "the derivative of (a - y)^2 / 2 is a - y"),
        "the squared error itself is sent back", lambda c: (c.o - c.y) ** 2 / 2),
    Row(kind("absolute error", "keep the sign of a - y"), "the error has lost its sign", lambda c: np.abs(c.o - c.y)),
    Row(kind("absolute error's derivative", "the derivative of (a - y)^2 / 2 is a - y"),
        "only the sign of a - y is sent back", lambda c: np.sign(c.o - c.y)),
    Row(ROUNDED, "the error is that of the rounded output", lambda c: np.round(c.o) - c.y),
    Row(ROUNDED, "the error is that of the chosen class", lambda c: _chosen(c) - c.y),
    Row(kind("y missing in the error", "subtract y: the error is a - y"), "the error is a, without y", lambda c: c.o),
    Row(kind("a missing in the error", "the error is a - y, not y alone"), "the error is -y, without a", lambda c: -c.y),
    Row(kind("cross-entropy's derivative", "the squared error's derivative is a - y"),
        "dL/da is that of a cross-entropy", lambda c: -c.y / c.o),
    Row(kind("error cubed", "the derivative of (a - y)^2 / 2 is a - y itself"), "the error is cubed", lambda c: (c.o - c.y) ** 3),
    Row(kind("root of the squared error", "the loss is the squared error, not its root"), "the error is divided by its row's length",
        lambda c: (c.o - c.y) / np.sqrt(((c.o - c.y) ** 2).sum(axis=1, keepdims=True))),
    Row(kind("relative error", "the error is a - y, not a share of y"),
        "the error is divided by y", lambda c: (c.o - c.y) / np.where(c.y == 0, np.nan, c.y)),
    Row(PARTIAL_MEAN, "y is not divided by m, as a is", lambda c: c.o - c.m * c.y),
    Row(PARTIAL_MEAN, "a is not divided by m, as y is", lambda c: c.m * c.o - c.y),
    Row(LEVELLED, "{v[0]}", lambda c, v: v[1], each=_levels),
)  # fmt: skip
"""In the place of a - y of a squared error, (m, n_L)."""


def errors(c: Context) -> Iterator[Guess]:
    """Delta for each wrong error: with f' and, for those who forgot it too, without."""
    missing = Seen(OUTPUT_MISSING.name, "f'(z) is missing")
    for row in ERRORS:
        for seen, error in row.values(c):
            yield Guess((seen,), c.through(error / c.m))
            yield Guess((seen, missing), error / c.m)


def _hinge(c: Context) -> Array:
    """The derivative by z of a hinge loss with margin 1: for each output where several may be 1,
    else of all classes against the true one (Weston & Watkins).
    """
    z, y = c.z, c.y
    if (y.sum(axis=1) == 1).all() and c.n > 1:
        above = 1.0 * ((z - (z * y).sum(axis=1, keepdims=True) + 1 > 0) & (y == 0))
        return np.asarray(above - y * above.sum(axis=1, keepdims=True))
    sign = 2 * y - 1
    return np.asarray(-sign * (sign * z < 1))


ENTROPY = (
    Row(CANCELS, "a - y is multiplied by f'(z), which cross-entropy cancels", lambda c: c.through(c.error)),
    Row(DIAGONAL, "only the diagonal a(1-a) of the softmax's Jacobian is used", lambda c: c.loss_slope * c.o * (1 - c.o), softmax),
    Row(BINARY, "dL/da is that of the binary cross-entropy", lambda c: c.error / (c.o * (1 - c.o)), softmax),
    Row(BINARY, "dL/da is that of the binary cross-entropy", lambda c: c.through(c.error / (c.o * (1 - c.o))), softmax),
    Row(OUTPUT_MISSING, "dL/da is used as delta, without f'", lambda c: c.loss_slope),
    Row(kind("hinge loss's derivative", "the loss is the cross-entropy: delta is a - y"),
        "the error is that of a hinge loss", lambda c: _hinge(c) / c.m),
    Row(HALF_OF_IT, "only -y/a is derived, not (1-y)/(1-a)", lambda c: -c.y * (1 - c.o) / c.m),
    Row(HALF_OF_IT, "only (1-y)/(1-a) is derived, not -y/a", lambda c: (1 - c.y) * c.o / c.m),
    Row(HALF_OF_IT, "only -y/a is derived, and f' is missing", lambda c: -c.y / c.o / c.m),
    Row(kind("sign inside the cross-entropy", "the derivative is -y/a + (1-y)/(1-a)"),
        "the two terms of the cross-entropy's derivative have the same sign", lambda c: (-c.y * (1 - c.o) - (1 - c.y) * c.o) / c.m),
)  # fmt: skip
"""In the place of a cross-entropy's delta, (m, n_L)."""


SAID_TWICE = "{c.name} is applied twice: the loss is given a, and wants z"
ENTROPY_LATE = (
    Row(TWICE, SAID_TWICE, lambda c: c.through((applied(c.name, c.o) - c.y) / c.m), lambda c: c.name in FUNCTIONS),
    Row(TWICE, SAID_TWICE, lambda c: (applied(c.name, c.o) - c.y) / c.m, lambda c: c.name in FUNCTIONS),
    Row(ROUNDED, "the error is that of the chosen class", lambda c: ((_chosen(c) if c.n > 1 else np.round(c.o)) - c.y) / c.m),
    Row(ROUNDED, "the error is that of the rounded output", lambda c: (np.round(c.o) - c.y) / c.m),
    Row(kind("index of the rows missing", "index each row too: p[range(m), y] -= 1"),
        "1 is taken from the columns of all the batch's classes, in every row (p[:, y] -= 1)", lambda c: (c.o - c.y.max(axis=0)) / c.m),
    Row(PARTIAL_MEAN, "y is not divided by m, as a is", lambda c: c.o / c.m - c.y),
    Row(PARTIAL_MEAN, "a is not divided by m, as y is", lambda c: c.o - c.y / c.m),
    Row(LEVELLED, "{v[0]}", lambda c, v: v[1] / c.m, each=_levels),
)  # fmt: skip
"""The same, less likely than a wrong f'."""


def _product(c: Context, axis: int | None) -> Array:
    return np.asarray((c.back * c.o).sum(axis=axis, keepdims=True))


JACOBIANS = (
    Row(JACOBIAN, "the softmax's Jacobian is summed over the samples, not the outputs", lambda c: c.o * (c.back - _product(c, 0)), softmax),
    Row(JACOBIAN, "the softmax's Jacobian is summed over samples and outputs", lambda c: c.o * (c.back - _product(c, None)), softmax),
    Row(JACOBIAN, "the signs in the softmax's Jacobian are wrong", lambda c: c.o * (c.back + _product(c, 1)), softmax),
    Row(JACOBIAN, "the diagonal of the softmax's Jacobian is missing", lambda c: -c.o * _product(c, 1), softmax),
    Row(JACOBIAN, "the softmax's Jacobian lacks an a_j", lambda c: c.o * (c.back - c.back.sum(axis=1, keepdims=True)), softmax),
    Row(kind("error of the chosen class only", "every class has an error: a - y"),
        "only the chosen class has an error", lambda c: c.delta * _chosen(c)),
)  # fmt: skip
"""In the place of any loss's delta, (m, n_L)."""

LABELS = (
    Row(SHIFTED, "y is shifted by one class", lambda c: np.roll(c.y, 1, axis=1)),
    Row(SHIFTED, "y is shifted by one class", lambda c: np.roll(c.y, -1, axis=1)),
    Row(SHIFTED, "y has its classes in reverse order", lambda c: c.y[:, ::-1]),
    Row(kind("labels inverted", "check what 1 means in y"), "y stands for 1 - y", lambda c: 1 - c.y),
    Row(OTHER_ROWS, "y is shifted by one sample", lambda c: np.roll(c.y, 1, axis=0)),
    Row(OTHER_ROWS, "y is shifted by one sample", lambda c: np.roll(c.y, -1, axis=0)),
    Row(OTHER_ROWS, "y has its samples in reverse order", lambda c: c.y[::-1]),
    Row(kind("labels scaled to -1 and 1", "use y as it is, from 0 to 1"), "y stands for 2y - 1", lambda c: 2 * c.y - 1),
    Row(COLUMN_OF_Y, "y of every sample is taken from each output: (m, 1) - (m,) is (m, m)",
        lambda c: np.full_like(c.y, c.y.mean()), lambda c: c.n == 1 and c.m > 1),
)  # fmt: skip
"""In the place of y, (m, n_L)."""

LAST = (
    Row(Z_FOR_A, "the error is that of z, not of a", lambda c: (c.z - c.y) / c.m),
    Row(Z_FOR_A, "the error is that of z, not of a", lambda c: c.through((c.z - c.y) / c.m),
        lambda c: c.squared or c.entrywise),
)  # fmt: skip
"""In the place of any loss's delta, after all others."""


def paired_otherwise(c: Context, delta: Array) -> Guess:
    """The error with the rows of y that make it most like a delta that was found, (m, n_L)."""
    m = c.m
    errors = (c.o[:, None, :] - c.y[None, :, :]) / m  # (m, m, n_L): sample i against row j of y
    if c.squared:
        errors = np.stack([c.through(errors[:, j]) for j in range(m)], axis=1)
    miss = np.abs(errors - delta[:, None, :]).max(axis=2)
    if c.n > 1:  # a direction tells of the row, whatever the factor
        length = np.linalg.norm(errors, axis=2) * np.linalg.norm(delta, axis=1)[:, None]
        miss = -np.abs((errors * delta[:, None, :]).sum(axis=2)) / length
    rows = np.where(np.isfinite(miss), miss, np.inf).argmin(axis=1)
    say = "x and y are in different orders: y is that of other samples"
    return Guess((Seen(OTHER_ROWS.name, say),), errors[np.arange(m), rows])
