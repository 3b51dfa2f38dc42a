"""What may delta of the output layer be? The wrong errors, and the right error wrongly used."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.functions import FUNCTIONS
from bpbench.verify.diagnose.guesses import Guess, guess, misshapen, some_of
from bpbench.verify.diagnose.probe import Probe
from bpbench.verify.diagnose.readings import Reading
from bpbench.verify.diagnose.slopes import slopes


def loss_slope(probe: Probe, reading: Reading) -> Array:
    """dL/da of the mean loss as it is written down, (m, n_L)."""
    o, y, m = reading.a[-1], probe.y, probe.samples
    with np.errstate(all="ignore"):
        if probe.network.loss == "binary_cross_entropy":
            return np.asarray((o - y) / (o * (1 - o)) / m)
        if probe.network.loss == "cross_entropy":
            return np.asarray(-y / o / m)
    return np.asarray((o - y) / m)


def times_slope(reading: Reading, error: Array) -> Array:
    """An error by a[-1] carried to one by z[-1]: by f', or by the softmax's whole Jacobian."""
    slope = reading.slope(-1)
    a = reading.a[-1]
    if slope is None:
        return np.asarray(a * (error - (error * a).sum(axis=1, keepdims=True)))
    return np.asarray(error * slope)


def output_deltas(probe: Probe, reading: Reading) -> Iterator[Guess]:
    """What delta of the output layer may be, (m, n_L), the right one first."""
    z, o, y, m = reading.z[-1], reading.a[-1], probe.y, probe.samples
    loss, layer = probe.network.loss, len(reading.z) - 1
    cancels = "f' where cross-entropy cancels it"
    error = (o - y) / m
    slope = loss_slope(probe, reading)
    right = times_slope(reading, error) if loss == "half_squared_error" else error
    if loss == "half_squared_error":
        yield Guess((), right)
        for number, each in enumerate(slopes(probe, reading, layer, error)):
            if number or each.mistakes:
                yield Guess(each.mistakes, error * each.value)
        yield from _squared_errors(probe, reading)
    else:
        yield Guess((), error)
        jacobian = times_slope(reading, error)
        yield guess(cancels, "a - y is multiplied by f'(z), which cross-entropy cancels", jacobian)
        if reading.functions[-1] == "softmax":
            diagonal = "diagonal of the softmax Jacobian only"
            say = "only the diagonal a(1-a) of the softmax's Jacobian is used"
            yield guess(diagonal, say, slope * o * (1 - o))
            yield guess(
                "binary cross-entropy's derivative with softmax",
                "dL/da is that of the binary cross-entropy", error / (o * (1 - o)),
            )  # fmt: skip
            yield guess(
                "binary cross-entropy's derivative with softmax",
                "dL/da is that of the binary cross-entropy",
                times_slope(reading, error / (o * (1 - o))),
            )
            yield guess(
                "error of the true class only", "only the true class has an error", error * y
            )
        yield guess("output f' missing", "dL/da is used as delta, without f'", slope)
        yield guess(
            "hinge loss's derivative", "the error is that of a hinge loss", _hinge(z, y) / m
        )
        half = "second term of the cross-entropy missing"
        yield guess(half, "only -y/a is derived, not (1-y)/(1-a)", -y * (1 - o) / m)
        yield guess(half, "only (1-y)/(1-a) is derived, not -y/a", (1 - y) * o / m)
        yield guess(half, "only -y/a is derived, and f' is missing", -y / o / m)
        say = "the two terms of the cross-entropy's derivative have the same sign"
        yield guess("sign inside the cross-entropy", say, (-y * (1 - o) - (1 - y) * o) / m)
        for each in slopes(probe, reading, layer, error):
            if each.mistakes and each.mistakes[0][0] != "output f' missing":
                say = each.mistakes[0][1]
                yield guess(cancels, f"a - y is multiplied by f', which cancels ({say})",
                             error * each.value)  # fmt: skip
        for each in slopes(probe, reading, layer, slope):
            if each.mistakes and each.mistakes[0][0] != "output f' missing":
                yield Guess(each.mistakes, slope * each.value)
        if reading.functions[-1] in FUNCTIONS:
            say = f"{reading.functions[-1]} is applied twice: the loss is given a, and wants z"
            again = FUNCTIONS[reading.functions[-1]](o)[0]
            yield guess("activation applied twice", say, times_slope(reading, (again - y) / m))
            yield guess("activation applied twice", say, (again - y) / m)
        hard = np.eye(o.shape[1])[o.argmax(axis=1)] if o.shape[1] > 1 else np.round(o)
        for say, wrong in (("chosen class", hard), ("rounded output", np.round(o))):
            yield guess("predictions rounded", f"the error is that of the {say}", (wrong - y) / m)
        say = "1 is taken from the columns of all the batch's classes, in every row (p[:, y] -= 1)"
        yield guess("index of the rows missing", say, (o - y.max(axis=0)) / m)
        yield guess("1/m in one term only", "y is not divided by m, as a is", o / m - y)
        yield guess("1/m in one term only", "a is not divided by m, as y is", o - y / m)
        for say, wrong in _levelled(o - y):
            yield guess("error averaged over its entries", say, wrong / m)
    if reading.functions[-1] == "softmax":
        yield from _jacobians(o, error if loss == "half_squared_error" else slope)
    chosen = np.eye(o.shape[1])[o.argmax(axis=1)]
    say = "only the chosen class has an error"
    yield guess("error of the chosen class only", say, right * chosen)
    yield from misshapen(right, "delta")
    yield from _labels(probe, reading)
    yield from some_of(right)
    if loss == "half_squared_error" or loss == "binary_cross_entropy":
        say = "the error is that of z, not of a"
        yield guess("z for a in the error", say, (z - y) / m)
        yield guess("z for a in the error", say, times_slope(reading, (z - y) / m))
    else:
        yield guess("z for a in the error", "the error is that of z, not of a", (z - y) / m)


def _squared_errors(probe: Probe, reading: Reading) -> Iterator[Guess]:
    """Wrong errors of a squared loss: with f' and, for those who forgot it too, without."""
    o, y, m = reading.a[-1], probe.y, probe.samples
    hard = np.eye(o.shape[1])[o.argmax(axis=1)]
    wrong = (
        ("sign of y", "the error is a + y, not a - y", o + y),
        ("loss for its derivative", "the squared error itself is sent back", (o - y) ** 2 / 2),
        ("absolute error", "the error has lost its sign", np.abs(o - y)),
        ("absolute error's derivative", "only the sign of a - y is sent back", np.sign(o - y)),
        ("predictions rounded", "the error is that of the rounded output", np.round(o) - y),
        ("predictions rounded", "the error is that of the chosen class", hard - y),
        ("y missing in the error", "the error is a, without y", o),
        ("a missing in the error", "the error is -y, without a", -y),
        ("cross-entropy's derivative", "dL/da is that of a cross-entropy", -y / o),
        ("error cubed", "the error is cubed", (o - y) ** 3),
        ("root of the squared error", "the error is divided by its row's length",
         (o - y) / np.sqrt(((o - y) ** 2).sum(axis=1, keepdims=True))),
        ("relative error", "the error is divided by y", (o - y) / np.where(y == 0, np.nan, y)),
        ("1/m in one term only", "y is not divided by m, as a is", o - m * y),
        ("1/m in one term only", "a is not divided by m, as y is", m * o - y),
        *(("error averaged over its entries", say, e) for say, e in _levelled(o - y)),
    )  # fmt: skip
    for mistake, say, error in wrong:
        yield guess(mistake, say, times_slope(reading, error / m))
        yield Guess(((mistake, say), ("output f' missing", "f'(z) is missing")), error / m)


def _hinge(z: Array, y: Array) -> Array:
    """The derivative by z, (m, n_L), of a hinge loss with margin 1: for each output where several
    may be 1, else of all classes against the true one (Weston & Watkins).
    """
    if (y.sum(axis=1) == 1).all() and y.shape[1] > 1:
        above = 1.0 * ((z - (z * y).sum(axis=1, keepdims=True) + 1 > 0) & (y == 0))
        return np.asarray(above - y * above.sum(axis=1, keepdims=True))
    sign = 2 * y - 1
    return np.asarray(-sign * (sign * z < 1))


def _levelled(error: Array) -> Iterator[tuple[str, Array]]:
    """An error of which only a mean is left, in the place of each entry."""
    names = {1: "each sample has one error, the mean over its outputs",
             0: "each output has one error, the mean over the samples",
             None: "there is one error, the mean over everything"}  # fmt: skip
    for axis, say in names.items():
        yield say, np.broadcast_to(error.mean(axis=axis, keepdims=True), error.shape)


def _jacobians(a: Array, error: Array) -> Iterator[Guess]:
    """dL/da carried through a wrong Jacobian of the softmax."""
    wrong = "wrong Jacobian of the softmax"
    say = "the softmax's Jacobian is summed over {}"
    over_samples = (error * a).sum(axis=0, keepdims=True)
    yield guess(wrong, say.format("the samples, not the outputs"), a * (error - over_samples))
    yield guess(wrong, say.format("samples and outputs"), a * (error - (error * a).sum()))
    whole = (error * a).sum(axis=1, keepdims=True)
    yield guess(wrong, "the signs in the softmax's Jacobian are wrong", a * (error + whole))
    yield guess(wrong, "the diagonal of the softmax's Jacobian is missing", -a * whole)
    plain = error.sum(axis=1, keepdims=True)
    yield guess(wrong, "the softmax's Jacobian lacks an a_j", a * (error - plain))


def _labels(probe: Probe, reading: Reading) -> Iterator[Guess]:
    """y that belongs to another class or to another sample."""
    o, y, m = reading.a[-1], probe.y, probe.samples
    shifts = [
        ("labels shifted", "y is shifted by one class", np.roll(y, 1, axis=1)),
        ("labels shifted", "y is shifted by one class", np.roll(y, -1, axis=1)),
        ("labels shifted", "y has its classes in reverse order", y[:, ::-1]),
        ("labels inverted", "y stands for 1 - y", 1 - y),
        ("labels of other samples", "y is shifted by one sample", np.roll(y, 1, axis=0)),
        ("labels of other samples", "y is shifted by one sample", np.roll(y, -1, axis=0)),
        ("labels of other samples", "y has its samples in reverse order", y[::-1]),
        ("labels scaled to -1 and 1", "y stands for 2y - 1", 2 * y - 1),
    ]
    if y.shape[1] == 1 and m > 1:
        say = "each output is held against every y: (m, 1) - (m,) is (m, m)"
        level = np.full_like(y, y.mean())
        shifts.append(("y of shape (m,) against (m,1)", say, level))
    for mistake, say, wrong in shifts:
        error = (o - wrong) / m
        squared = probe.network.loss == "half_squared_error"
        yield guess(mistake, say, times_slope(reading, error) if squared else error)


def paired_otherwise(probe: Probe, reading: Reading, delta: Array) -> Guess:
    """The error with the rows of y that make it most like a delta that was found, (m, n_L)."""
    o, y, m = reading.a[-1], probe.y, probe.samples
    errors = (o[:, None, :] - y[None, :, :]) / m  # (m, m, n_L): sample i against row j of y
    if probe.network.loss == "half_squared_error":
        errors = np.stack([times_slope(reading, errors[:, j]) for j in range(m)], axis=1)
    miss = np.abs(errors - delta[:, None, :]).max(axis=2)
    if y.shape[1] > 1:  # a direction tells of the row, whatever the factor
        length = np.linalg.norm(errors, axis=2) * np.linalg.norm(delta, axis=1)[:, None]
        with np.errstate(all="ignore"):
            miss = -np.abs((errors * delta[:, None, :]).sum(axis=2)) / length
    rows = np.where(np.isfinite(miss), miss, np.inf).argmin(axis=1)
    say = "x and y are in different orders: y is that of other samples"
    return guess("labels of other samples", say, errors[np.arange(m), rows])
