"""What may delta of a hidden layer be? The wrong ways back, and the wrong derivatives there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.guesses import Guess, guess, misshapen, some_of
from bpbench.verify.diagnose.probe import Probe
from bpbench.verify.diagnose.readings import Reading
from bpbench.verify.diagnose.slopes import slopes


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
        yield guess(
            "W not transposed", f"W[{layer + 1}] is transposed the wrong way round", delta @ W.T
        )
        say = f"delta of layer {layer + 1} comes back without W[{layer + 1}]"
        yield guess("W missing on the way back", say, delta)
    for other, V in enumerate(probe.W):
        if other != layer + 1 and V.shape == W.shape:
            say = f"W[{other}] is used where W[{layer + 1}] belongs"
            yield guess("wrong W", say, delta @ V)
        if other != layer + 1 and V.T.shape == W.shape:
            say = f"W[{other}] transposed is used where W[{layer + 1}] belongs"
            yield guess("wrong W", say, delta @ V.T)
    say = f"what comes back from layer {layer + 1} is its error before f', not its delta"
    slope = reading.slope(layer + 1)
    for error in (errors[layer + 1], None if slope is None else delta / slope):
        if error is not None:  # what f' should have multiplied, and what it did multiply
            yield guess("error sent back without f'", say, error @ W)
    for other in range(layer + 2, len(deltas)):
        for value in (deltas[other], errors[other]):
            if value is not None and value.shape == delta.shape:
                say = f"delta of layer {other} is used where that of layer {layer + 1} belongs"
                yield guess("delta of another layer", say, value @ W)
    say = f"delta of layer {layer + 1} comes back without W[{layer + 1}]"
    for value in (delta, errors[layer + 1]):
        if value is not None:
            spread = np.broadcast_to(value.sum(axis=1, keepdims=True), (m, n))
            yield guess("W missing on the way back", say, np.array(spread))
    say = "delta is averaged over the samples before it goes back"
    mean = np.broadcast_to(delta.mean(axis=0) @ W, (m, n))
    if m > 1:
        yield guess("averaged over the samples on the way back", say, np.array(mean))
    if n > 1:
        say = "to the error of each unit those of the units before are added"
        yield guess("sum not reset in a loop", say, np.cumsum(delta @ W, axis=1))
    yield guess("absolute value of W", "|W| is used on the way back", delta @ np.abs(W))
    yield guess("sign of W", "only the sign of W is used on the way back", delta @ np.sign(W))
    yield guess("W squared", "W^2 is used on the way back", delta @ W**2)
    if probe.b:
        say = "b is added to the error that comes back"
        for average in (1, m):  # after the division by m, or before it
            yield guess("bias added on the way back", say, delta @ W + probe.b[layer] / average)
    for each in misshapen(W, f"W[{layer + 1}]"):
        yield Guess(each.mistakes, delta @ each.value)
    for each in some_of(delta):
        yield Guess(each.mistakes, each.value @ W)


def _unbracketed(probe: Probe, reading: Reading, layer: int, back: Array) -> Iterator[Guess]:
    """The error times a (1 - a), or 1 - a^2, written without the parentheses."""
    name, a, m = reading.functions[layer], reading.a[layer], probe.samples
    if name not in ("sigmoid", "tanh"):
        return
    first, rest = (back * a, a) if name == "sigmoid" else (back, a * a)
    say = "the error is multiplied by " + ("a * 1 - a" if name == "sigmoid" else "1 - a^2")
    say += " without parentheses: all but the first factor is subtracted"
    for average in (1, m):  # before the division by m, or after it
        yield guess("parentheses missing in f'", say, first - rest / average)


def _partly_times_error(probe: Probe, reading: Reading, layer: int, back: Array) -> Iterator[Guess]:
    """delta where a part of f' is not multiplied by the error, or stands in its place."""
    name, z, slope = reading.functions[layer], reading.z[layer], reading.slope(layer)
    m = probe.samples
    assert slope is not None
    parts = []
    if name in ("leaky_relu", "elu"):
        parts.append((slope * (z > 0), slope * (z <= 0), "where z is below 0"))
    elif name in ("silu", "gelu"):
        first = np.where(z == 0, 0.5, reading.a[layer] / np.where(z == 0, 1, z))
        parts.append((first, slope - first, "in its second term"))
        parts.append((slope - first, first, "in its first term"))
    for average in (1, m):
        say = "f' is taken at the error, and stands in the place of delta"
        bent = reading.slope(layer, average * back)
        assert bent is not None
        yield guess("f' at the error", say, bent / average)
    for times, bare, where in parts:
        say = f"f'(z) {where} is not multiplied by the error"
        for average in (1, m):  # before the division by m, or after it
            yield guess("error missing in a part of delta", say, back * times + bare / average)


def _bias_column(
    probe: Probe, layer: int, deltas: Sequence[Array | None], back: Array, slope: Array
) -> Iterator[Guess]:
    """The units moved by one, by code that keeps b as a row of W beside a column of ones in a."""
    delta = deltas[layer + 1]
    if not probe.b or delta is None or back.shape[1] < 2:
        return
    wrong = "bias column dropped at the wrong end"
    say = "the units are moved by one: the column of ones is kept, and the {} unit is dropped"
    ones = (delta @ probe.b[layer + 1])[:, None]
    zero = np.zeros_like(ones)  # what a(1-a) makes of a column of ones
    whole, last, first = back * slope, say.format("last"), say.format("first")
    yield guess(wrong, last, np.hstack([zero, whole[:, :-1]]))
    yield guess(wrong, last, np.hstack([ones, back[:, :-1]]) * slope)
    yield guess(wrong, first, np.hstack([whole[:, 1:], zero]))
    yield guess(wrong, first, np.hstack([back[:, 1:], ones]) * slope)


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
    for each in comes[1:]:
        yield Guess(each.mistakes, each.value * slope)
    yield from some_of(back * slope)
    yield from misshapen(back * slope, "delta")
    yield guess("f' added, not multiplied", "f'(z) is added to the error", back + slope)
    if probe.b:
        say = "b is added to delta"
        yield guess("bias added on the way back", say, back * slope + probe.b[layer])
    yield from _unbracketed(probe, reading, layer, back)
    yield from _partly_times_error(probe, reading, layer, back)
    yield from _bias_column(probe, layer, deltas, back, slope)
    for each in comes[1:]:
        for factor in factors[1:12]:
            yield Guess((*each.mistakes, *factor.mistakes), each.value * factor.value)
