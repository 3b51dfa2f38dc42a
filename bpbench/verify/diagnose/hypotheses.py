"""Which wrong formulas do people write for delta, dW and db? The catalogue, as arrays to compare.

Every function here gives ``Guess``es for one layer of one probe: arrays that a known mistake would
have given, the right one first. Factors (1/m, a sign, a 2) are no guesses of their own: each guess
is fitted with a factor, which is named afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bpbench.network import LEAKY_RELU_SLOPE, Array
from bpbench.verify.diagnose.functions import FUNCTIONS, OF_OUTPUT
from bpbench.verify.diagnose.probe import Probe
from bpbench.verify.diagnose.readings import Reading


@dataclass(frozen=True)
class Guess:
    """One way of computing an array.

    Attributes:
        mistakes: (name, what was seen) each; empty for the right way.
        value: what it gives.
    """

    mistakes: tuple[tuple[str, str], ...]
    value: Array

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """What is the same for the same guess in another probe."""
        return self.mistakes


def _guess(mistake: str, say: str, value: Array) -> Guess:
    return Guess(((mistake, say),), value)


# ── f' ─────────────────────────────────────────────────────────────────────────────────────────


def slopes(probe: Probe, reading: Reading, layer: int, back: Array) -> Iterator[Guess]:
    """What may stand in the place of f'(z), (m, n_l), the right one first.

    Args:
        back: (m, n_l), the error by a that f' multiplies.
    """
    name, z, a = reading.functions[layer], reading.z[layer], reading.a[layer]
    slope = reading.slope(layer)
    last = layer == len(reading.z) - 1
    missing = "output f' missing" if last else "hidden f' missing"
    below = probe.x if layer == 0 else reading.a[layer - 1]
    if slope is not None:
        yield Guess((), slope)
        yield _guess(missing, "f'(z) is missing", np.ones_like(z))
        yield _guess("f'(a)", "f' is given a, not z", _slope(reading, layer, a))
        if name in OF_OUTPUT:
            yield _guess(
                "z(1-z), 1-z^2", "the formula of f' that wants a is given z", OF_OUTPUT[name](z)
            )
        yield _guess("f' twice", "f' is multiplied twice", slope**2)
        yield _guess("f for f'", "f(z) stands in the place of f'(z)", a)
        yield _guess("f f' for f'", "f(z) f'(z) stands in the place of f'(z)", a * slope)
        yield _guess("z for f'", "z stands in the place of f'(z)", z)
        if not (slope == 0).any():
            yield _guess("1/f' for f'", "the error is divided by f'(z)", 1 / slope)
        yield _guess("root of f'", "the root of f'(z) is taken", np.sqrt(np.abs(slope)))
        yield _guess("f' at -z", "f' is taken at -z", _slope(reading, layer, -z))
        if name in ("relu", "leaky_relu", "elu"):
            yield from _masks(name, z, below, back)
        yield _guess("f' at the error", "f' is taken at the error", _slope(reading, layer, back))
        if name in OF_OUTPUT:
            yield _guess(
                "f' at the error", "the formula of f' is given the error", OF_OUTPUT[name](back)
            )
        if probe.b:
            bare = _slope(reading, layer, z - probe.b[layer])
            yield _guess("f' without the bias", "f' is taken at W a, without b", bare)
    else:
        yield _guess(missing, "the softmax's Jacobian is missing", np.ones_like(z))
        yield _guess(
            "diagonal of the softmax Jacobian only",
            "only the diagonal a(1-a) of the softmax's Jacobian is used", a * (1 - a),
        )  # fmt: skip
        yield _guess("f for f'", "a stands in the place of f'", a)
    yield from _neighbours(reading, layer)
    yield from _others(reading, layer)


def _slope(reading: Reading, layer: int, z: Array) -> Array:
    found = reading.slope(layer, z)
    assert found is not None
    return found


def _masks(name: str, z: Array, below: Array, back: Array) -> Iterator[Guess]:
    if name != "elu":
        low = {"relu": 0.0, "leaky_relu": LEAKY_RELU_SLOPE}[name]
        yield _guess("z >= 0", "f' is 1 where z is exactly 0", np.where(z >= 0, 1, low))
        say = "f' is halfway between both sides where z is exactly 0"
        half = np.where(z > 0, 1, np.where(z == 0, (1 + low) / 2, low))
        yield _guess("z >= 0", say, half)
        if low:
            yield _guess(
                "z >= 0",
                "f' is 0 where z is exactly 0",
                np.where(z == 0, 0, np.where(z > 0, 1, low)),
            )
    wrong = "ReLU mask from the wrong place"
    low = LEAKY_RELU_SLOPE if name == "leaky_relu" else 0.0
    yield _guess(wrong, "the mask is that of the error c > 0", np.where(back > 0, 1, low))
    if below.shape == back.shape:
        say = "the mask is that of the layer's input, a_{l-1} > 0"
        yield _guess(wrong, say, np.where(below > 0, 1, low))


def _neighbours(reading: Reading, layer: int) -> Iterator[Guess]:
    """f' of this layer's activation at another layer's z or a, where the shapes allow it."""
    shape = reading.z[layer].shape
    for other in range(len(reading.z)):
        if other == layer or reading.z[other].shape[1] not in (shape[1], 1):
            continue
        say = f"f' is taken at z[{other}], not at z[{layer}]"
        for name in dict.fromkeys((reading.functions[layer], reading.functions[other])):
            slope = FUNCTIONS[name](reading.z[other])[1] if name in FUNCTIONS else None
            if slope is not None:
                yield _guess("f' of another layer", say, np.broadcast_to(slope, shape))


def _others(reading: Reading, layer: int) -> Iterator[Guess]:
    """f' of other activations, at z, at a, and by their formulas of a."""
    own, z, a = reading.functions[layer], reading.z[layer], reading.a[layer]
    wrong = "f' of another activation"
    for name, function in FUNCTIONS.items():
        slope = function(z)[1]
        if name in (own, "identity") or slope is None:
            continue
        at_a = function(a)[1]
        assert at_a is not None
        yield _guess(wrong, f"f' is that of {name}", slope)
        yield _guess(wrong, f"f' is that of {name}, taken at a", at_a)
        if name in OF_OUTPUT:
            yield _guess(wrong, f"f' is {name}'s formula of a", OF_OUTPUT[name](a))
            yield _guess(wrong, f"f' is {name}'s formula of a, given z", OF_OUTPUT[name](z))


# ── delta of the output layer ──────────────────────────────────────────────────────────────────


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
    if loss == "half_squared_error":
        yield Guess((), times_slope(reading, error))
        for guess in slopes(probe, reading, layer, error):
            if guess.mistakes:
                yield Guess(guess.mistakes, error * guess.value)
        yield from _squared_errors(probe, reading)
    else:
        yield Guess((), error)
        jacobian = times_slope(reading, error)
        yield _guess(cancels, "a - y is multiplied by f'(z), which cross-entropy cancels", jacobian)
        if reading.functions[-1] == "softmax":
            diagonal = "diagonal of the softmax Jacobian only"
            say = "only the diagonal a(1-a) of the softmax's Jacobian is used"
            yield _guess(diagonal, say, slope * o * (1 - o))
            yield _guess(
                "binary cross-entropy's derivative with softmax",
                "dL/da is that of the binary cross-entropy", error / (o * (1 - o)),
            )  # fmt: skip
            yield _guess(
                "binary cross-entropy's derivative with softmax",
                "dL/da is that of the binary cross-entropy",
                times_slope(reading, error / (o * (1 - o))),
            )
            yield _guess(
                "error of the true class only", "only the true class has an error", error * y
            )
        yield _guess("output f' missing", "dL/da is used as delta, without f'", slope)
        half = "second term of the cross-entropy missing"
        yield _guess(half, "only -y/a is derived, not (1-y)/(1-a)", -y * (1 - o) / m)
        yield _guess(half, "only (1-y)/(1-a) is derived, not -y/a", (1 - y) * o / m)
        yield _guess(half, "only -y/a is derived, and f' is missing", -y / o / m)
        say = "the two terms of the cross-entropy's derivative have the same sign"
        yield _guess("sign inside the cross-entropy", say, (-y * (1 - o) - (1 - y) * o) / m)
        for guess in slopes(probe, reading, layer, error):
            if guess.mistakes and guess.mistakes[0][0] != "output f' missing":
                say = guess.mistakes[0][1]
                yield _guess(cancels, f"a - y is multiplied by f', which cancels ({say})",
                             error * guess.value)  # fmt: skip
        for guess in slopes(probe, reading, layer, slope):
            if guess.mistakes and guess.mistakes[0][0] != "output f' missing":
                yield Guess(guess.mistakes, slope * guess.value)
    yield from _labels(probe, reading)
    yield from _some_of(times_slope(reading, error) if loss == "half_squared_error" else error)
    if loss == "half_squared_error" or loss == "binary_cross_entropy":
        say = "the error is that of z, not of a"
        yield _guess("z for a in the error", say, (z - y) / m)
        yield _guess("z for a in the error", say, times_slope(reading, (z - y) / m))
    else:
        yield _guess("z for a in the error", "the error is that of z, not of a", (z - y) / m)


def _squared_errors(probe: Probe, reading: Reading) -> Iterator[Guess]:
    """Wrong errors of a squared loss: with f' and, for those who forgot it too, without."""
    o, y, m = reading.a[-1], probe.y, probe.samples
    hard = np.eye(o.shape[1])[o.argmax(axis=1)]
    wrong = (
        ("sign of y", "the error is a + y, not a - y", o + y),
        ("loss for its derivative", "the squared error itself is sent back", (o - y) ** 2 / 2),
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
    )  # fmt: skip
    for mistake, say, error in wrong:
        yield _guess(mistake, say, times_slope(reading, error / m))
        yield Guess(((mistake, say), ("output f' missing", "f'(z) is missing")), error / m)


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
    for mistake, say, wrong in shifts:
        error = (o - wrong) / m
        squared = probe.network.loss == "half_squared_error"
        yield _guess(mistake, say, times_slope(reading, error) if squared else error)


def _some_of(delta: Array) -> Iterator[Guess]:
    """The right delta of some samples or units only, or of others."""
    m, n = delta.shape
    if m > 1:
        wrong = "rows overwritten in a loop"
        rows = np.arange(m)[:, None]
        yield _guess(wrong, "only the last sample counts", delta * (rows == m - 1))
        yield _guess(wrong, "only the first sample counts", delta * (rows == 0))
        short = "a loop ends too early"
        yield _guess(short, "the last sample is left out", delta * (rows < m - 1))
        yield _guess(short, "the first sample is left out", delta * (rows > 0))
    if n > 1:
        units = np.arange(n)
        short = "a loop ends too early"
        yield _guess(short, "the last unit is left out", delta * (units < n - 1))
        yield _guess(short, "the first unit is left out", delta * (units > 0))
    if m > 2:
        wrong = "samples mixed up"
        yield _guess(wrong, "delta belongs to the sample before", np.roll(delta, 1, axis=0))
        yield _guess(wrong, "delta belongs to the sample after", np.roll(delta, -1, axis=0))
        yield _guess(wrong, "the samples of delta are in reverse order", delta[::-1])


# ── delta of a hidden layer ────────────────────────────────────────────────────────────────────


def backs(
    probe: Probe,
    reading: Reading,
    layer: int,
    deltas: Sequence[Array | None],
    errors: Sequence[Array | None],
) -> Iterator[Guess]:
    """What may come back to a hidden layer from the one above, (m, n_l), the right one first.

    Args:
        deltas: by layer, the delta that each layer above really handed down.
        errors: by layer, what f' was multiplied by there.
    """
    delta, W = deltas[layer + 1], probe.W[layer + 1]
    assert delta is not None
    n = W.shape[1]
    m = len(delta)
    yield Guess((), delta @ W)
    if W.shape[0] == n:
        yield _guess("W not transposed", f"W[{layer + 1}] is used untransposed", delta @ W.T)
        say = f"delta of layer {layer + 1} comes back without W[{layer + 1}]"
        yield _guess("W missing on the way back", say, delta)
    for other, V in enumerate(probe.W):
        if other != layer + 1 and V.shape == W.shape:
            say = f"W[{other}] is used where W[{layer + 1}] belongs"
            yield _guess("wrong W", say, delta @ V)
        if other != layer + 1 and V.T.shape == W.shape:
            say = f"W[{other}] transposed is used where W[{layer + 1}] belongs"
            yield _guess("wrong W", say, delta @ V.T)
    say = f"what comes back from layer {layer + 1} is its error before f', not its delta"
    slope = reading.slope(layer + 1)
    for error in (errors[layer + 1], None if slope is None else delta / slope):
        if error is not None:  # what f' should have multiplied, and what it did multiply
            yield _guess("error sent back without f'", say, error @ W)
    for other in range(layer + 2, len(deltas)):
        for value in (deltas[other], errors[other]):
            if value is not None and value.shape == delta.shape:
                say = f"delta of layer {other} is used where that of layer {layer + 1} belongs"
                yield _guess("delta of another layer", say, value @ W)
    say = f"delta of layer {layer + 1} comes back without W[{layer + 1}]"
    spread = np.broadcast_to(delta.sum(axis=1, keepdims=True), (m, n))
    yield _guess("W missing on the way back", say, np.array(spread))
    say = "delta is averaged over the samples before it goes back"
    mean = np.broadcast_to(delta.mean(axis=0) @ W, (m, n))
    if m > 1:
        yield _guess("averaged over the samples on the way back", say, np.array(mean))
    yield _guess("absolute value of W", "|W| is used on the way back", delta @ np.abs(W))
    yield _guess("sign of W", "only the sign of W is used on the way back", delta @ np.sign(W))
    yield _guess("W squared", "W^2 is used on the way back", delta @ W**2)
    if probe.b:
        say = "b is added to the error that comes back"
        yield _guess("bias added on the way back", say, delta @ W + probe.b[layer])
    for guess in _some_of(delta):
        yield Guess(guess.mistakes, guess.value @ W)


def hidden_deltas(
    probe: Probe,
    reading: Reading,
    layer: int,
    deltas: Sequence[Array | None],
    errors: Sequence[Array | None],
) -> Iterator[Guess]:
    """What delta of a hidden layer may be, (m, n_l), the right one first.

    One step is wrong at a time: what comes back, or f'; then both.
    """
    comes = list(backs(probe, reading, layer, deltas, errors))
    back = comes[0].value
    factors = list(slopes(probe, reading, layer, back))
    slope = factors[0].value
    yield Guess((), back * slope)
    for factor in factors[1:]:
        yield Guess(factor.mistakes, back * factor.value)
    for guess in comes[1:]:
        yield Guess(guess.mistakes, guess.value * slope)
    yield from _some_of(back * slope)
    for guess in comes[1:]:
        for factor in factors[1:12]:
            yield Guess((*guess.mistakes, *factor.mistakes), guess.value * factor.value)


# ── dW and db where delta is right ─────────────────────────────────────────────────────────────


def inputs(probe: Probe, reading: Reading, layer: int) -> Iterator[Guess]:
    """What may stand in the place of a layer's input in its dW, (m, n_in); the right one first."""
    wrong = "wrong activation in dW"
    width = probe.network.sizes[layer]
    yield Guess((), probe.x if layer == 0 else reading.a[layer - 1])
    if layer:
        z = reading.z[layer - 1]
        right = reading.a[layer - 1]
        yield _guess(wrong, f"z[{layer - 1}] is used, not a[{layer - 1}]", z)
        slope = reading.slope(layer - 1)
        if slope is not None:
            yield _guess(wrong, f"f'(z[{layer - 1}]) is used, not a[{layer - 1}]", slope)
            say = f"a[{layer - 1}] is multiplied by f'"
            yield _guess(wrong, say, right * slope)
        say = f"f is applied to a[{layer - 1}] once more"
        if reading.functions[layer - 1] in FUNCTIONS:
            yield _guess(wrong, say, FUNCTIONS[reading.functions[layer - 1]](right)[0])
        if width == probe.x.shape[1]:
            yield _guess(wrong, f"x is used, not a[{layer - 1}]", probe.x)
        if probe.b:
            say = f"b[{layer - 1}] is taken from a[{layer - 1}]"
            yield _guess(wrong, say, right - probe.b[layer - 1])
    else:
        right = probe.x
    for name, values in (("a", reading.a), ("z", reading.z)):
        for other, value in enumerate(values):
            if other != layer - 1 and value.shape[1] == width:
                place = f"a[{layer - 1}]" if layer else "x"
                yield _guess(wrong, f"{name}[{other}] is used, not {place}", value)
    say = "the layer's input is {}"
    yield _guess("layer's input changed in dW", say.format("squared"), right**2)
    yield _guess(
        "layer's input changed in dW", say.format("only asked for its sign"), np.sign(right)
    )
    yield _guess("layer's input changed in dW", say.format("cut to 0 or 1"), 1.0 * (right > 0))
    yield _guess("layer's input changed in dW", say.format("taken without its sign"), np.abs(right))
    ones = np.ones_like(right)
    yield _guess("layer's input missing in dW", "dW is made without the layer's input", ones)
    centred = right - right.mean(axis=0)
    if len(right) > 1:
        yield _guess("layer's input changed in dW", say.format("centred over the samples"), centred)


def weight_gradients(delta: Array, below: Array, decay: Array) -> Iterator[Guess]:
    """Wrong ways of making dW, (n_l, n_{l-1}), from the right delta, input and L2 term."""
    dW = delta.T @ below + decay
    if dW.shape[0] == dW.shape[1]:
        yield _guess("dW transposed", "dW is the transpose of what it should be", dW.T)
    m, (n_out, n_in) = len(delta), dW.shape
    if m > 1:
        say = "delta and input are averaged over the samples before their product"
        means = np.outer(delta.sum(axis=0), below.mean(axis=0)) + decay
        yield _guess("averaged before the outer product", say, means)
    yield _guess("absolute value", "dW has lost its signs", np.abs(dW))
    yield _guess("sign of the gradient only", "dW is only the sign of the gradient", np.sign(dW))
    yield _guess("gradient squared", "dW is squared, entry by entry", dW**2)
    short = "a loop ends too early"
    rows, columns = np.arange(n_out)[:, None], np.arange(n_in)
    if n_out > 1:
        yield _guess(short, "the last row of dW is never filled", dW * (rows < n_out - 1))
        yield _guess(short, "the first row of dW is never filled", dW * (rows > 0))
    if n_in > 1:
        yield _guess(short, "the last column of dW is never filled", dW * (columns < n_in - 1))
        yield _guess(short, "the first column of dW is never filled", dW * (columns > 0))
    say = "dW has the units in reverse order"
    yield _guess("units in reverse order", say, dW[::-1])
    yield _guess("units in reverse order", say, dW[:, ::-1])


def bias_gradients(delta: Array, below: Array, b: Array) -> Iterator[Guess]:
    """Wrong ways of making db, (n_l,), from the right delta."""
    m, n = delta.shape
    if n > 1:
        say = "db is one number, summed over samples and units"
        yield _guess("db summed over everything", say, np.full(n, delta.sum()))
    if m == n:
        say = "db is summed over the units, not over the samples"
        yield _guess("db summed over the wrong axis", say, delta.sum(axis=1))
    yield _guess("absolute value", "db is summed without its signs", np.abs(delta).sum(axis=0))
    yield _guess("absolute value", "db has lost its signs", np.abs(delta.sum(axis=0)))
    say = "db is only the sign of the gradient"
    yield _guess("sign of the gradient only", say, np.sign(delta.sum(axis=0)))
    yield _guess("gradient squared", "db is squared", delta.sum(axis=0) ** 2)
    yield _guess(
        "db of the largest sample", "db is the largest delta, not the sum", delta.max(axis=0)
    )
    say = "db is multiplied by b"
    yield _guess("db times b", say, delta.sum(axis=0) * b)
    say = "db is the sum of dW's rows"
    yield _guess("db from dW", say, (delta.T @ below).sum(axis=1))
    yield _guess("units in reverse order", "db has the units in reverse order", delta.sum(0)[::-1])
