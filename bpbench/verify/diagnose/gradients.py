"""What may dW and db be where delta is right? Wrong inputs, wrong products, wrong sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.functions import FUNCTIONS, OF_OUTPUT
from bpbench.verify.diagnose.guesses import Guess, guess, misshapen
from bpbench.verify.diagnose.probe import Answer, Probe, usable
from bpbench.verify.diagnose.readings import Reading


def inputs(probe: Probe, reading: Reading, layer: int) -> Iterator[Guess]:
    """What may stand in the place of a layer's input in its dW, (m, n_in); the right one first."""
    wrong = "wrong activation in dW"
    width = probe.network.sizes[layer]
    yield Guess((), probe.x if layer == 0 else reading.a[layer - 1])
    if layer:
        z = reading.z[layer - 1]
        right = reading.a[layer - 1]
        yield guess(wrong, f"z[{layer - 1}] is used, not a[{layer - 1}]", z)
        slope = reading.slope(layer - 1)
        if slope is not None:
            yield guess(wrong, f"f'(z[{layer - 1}]) is used, not a[{layer - 1}]", slope)
            say = f"a[{layer - 1}] is multiplied by f'"
            yield guess(wrong, say, right * slope)
        say = f"f is applied to a[{layer - 1}] once more"
        if reading.functions[layer - 1] in FUNCTIONS:
            yield guess(wrong, say, FUNCTIONS[reading.functions[layer - 1]](right)[0])
        if width == probe.x.shape[1]:
            yield guess(wrong, f"x is used, not a[{layer - 1}]", probe.x)
        if probe.b:
            say = f"b[{layer - 1}] is taken from a[{layer - 1}]"
            yield guess(wrong, say, right - probe.b[layer - 1])
    else:
        right = probe.x
    for name, values in (("a", reading.a), ("z", reading.z)):
        for other, value in enumerate(values):
            if other != layer - 1 and value.shape[1] == width:
                own = f"a[{layer - 1}]" if layer else "x"
                yield guess(wrong, f"{name}[{other}] is used, not {own}", value)
    say = "the layer's input is {}"
    yield guess("layer's input changed in dW", say.format("squared"), right**2)
    yield guess(
        "layer's input changed in dW", say.format("only asked for its sign"), np.sign(right)
    )
    yield guess("layer's input changed in dW", say.format("cut to 0 or 1"), 1.0 * (right > 0))
    yield guess("layer's input changed in dW", say.format("taken without its sign"), np.abs(right))
    place = f"a[{layer - 1}]" if layer else "x"
    yield from misshapen(right, place)
    ones = np.ones_like(right)
    yield guess("layer's input missing in dW", "dW is made without the layer's input", ones)
    centred = right - right.mean(axis=0)
    if len(right) > 1:
        yield guess("layer's input changed in dW", say.format("centred over the samples"), centred)


def weight_gradients(delta: Array, below: Array, decay: Array) -> Iterator[Guess]:
    """Wrong ways of making dW, (n_l, n_{l-1}), from the right delta, input and L2 term."""
    dW = delta.T @ below + decay
    if dW.shape[0] == dW.shape[1]:
        yield guess("dW transposed", "dW is the transpose of what it should be", dW.T)
    m, (n_out, n_in) = len(delta), dW.shape
    if m > 1:
        say = "delta and input are averaged over the samples before their product"
        means = np.outer(delta.sum(axis=0), below.mean(axis=0)) + decay
        yield guess("averaged before the outer product", say, means)
        say = "the layer's input, or delta, is centred over the samples"
        centred = delta.T @ (below - below.mean(axis=0)) + decay
        yield guess("layer's input changed in dW", say, centred)
    yield guess("absolute value", "dW has lost its signs", np.abs(dW))
    yield guess("sign of the gradient only", "dW is only the sign of the gradient", np.sign(dW))
    yield guess("gradient squared", "dW is squared, entry by entry", dW**2)
    short = "a loop ends too early"
    rows, columns = np.arange(n_out)[:, None], np.arange(n_in)
    if n_out > 1:
        yield guess(short, "the last row of dW is never filled", dW * (rows < n_out - 1))
        yield guess(short, "the first row of dW is never filled", dW * (rows > 0))
    if n_in > 1:
        yield guess(short, "the last column of dW is never filled", dW * (columns < n_in - 1))
        yield guess(short, "the first column of dW is never filled", dW * (columns > 0))
    yield from misshapen(dW, "dW")
    for digits in range(6):
        say = f"dW is rounded to {digits} decimals"
        yield guess("gradient rounded", say, np.round(dW, digits))
    say = "dW has the units in reverse order"
    yield guess("units in reverse order", say, dW[::-1])
    yield guess("units in reverse order", say, dW[:, ::-1])


def bias_gradients(
    delta: Array, error: Array, below: Array, b: Array, z: Array, a: Array
) -> Iterator[Guess]:
    """Wrong ways of making db, (n_l,), from the right delta; z and a are the layer's own.

    Args:
        error: (m, n_l), what f' multiplies in delta.
    """
    m, n = delta.shape
    if n > 1:
        say = "db is one number, summed over samples and units"
        yield guess("db summed over everything", say, np.full(n, delta.sum()))
    say = "db is summed over the units, not over the samples"
    say += "" if m == n else ", and made to fit"
    yield guess("db summed over the wrong axis", say, np.resize(delta.sum(axis=1), n))
    yield guess("absolute value", "db is summed without its signs", np.abs(delta).sum(axis=0))
    yield guess("absolute value", "db has lost its signs", np.abs(delta.sum(axis=0)))
    say = "db is only the sign of the gradient"
    yield guess("sign of the gradient only", say, np.sign(delta.sum(axis=0)))
    yield guess("gradient squared", "db is squared", delta.sum(axis=0) ** 2)
    yield guess(
        "db of the largest sample", "db is the largest delta, not the sum", delta.max(axis=0)
    )
    for digits in range(6):
        say = f"db is rounded to {digits} decimals"
        yield guess("gradient rounded", say, np.round(delta.sum(axis=0), digits))
    say = "db is multiplied by b"
    yield guess("db times b", say, delta.sum(axis=0) * b)
    for name in ("sigmoid", "tanh"):
        say = f"f' is taken at b, not at z ({name}'s formula of a)"
        slope = OF_OUTPUT[name](b)
        yield guess("f' at b", say, error.sum(axis=0) * slope)
        yield guess("f' at b", say, delta.sum(axis=0) * slope)
    say = "db is the sum of dW's rows"
    yield guess("db from dW", say, (delta.T @ below).sum(axis=1))
    for name, value in (("a", a), ("z", z)):
        say = f"db is the sum of the layer's {name}, not of its delta"
        yield guess("db of another array", say, value.sum(axis=0))
    yield guess("units in reverse order", "db has the units in reverse order", delta.sum(0)[::-1])


def of_other_layers(
    answer: Answer, inputs: Sequence[Array], layer: int, tensor: str
) -> Iterator[Guess]:
    """dW or db of a layer, copied from another one, or made with another one's delta.

    Args:
        inputs: by layer, (m, n_in), what multiplies delta in dW.
    """
    arrays = answer.W if tensor == "dW" else answer.b
    for other, array in enumerate(arrays):
        if other != layer and array.shape == arrays[layer].shape and usable(array):
            say = f"{tensor}[{other}] is returned as {tensor}[{layer}] too"
            yield guess(f"{tensor} of another layer", say, array)
    if tensor == "db":
        return
    units = len(arrays[layer])
    for other, (dW, below) in enumerate(zip(arrays, inputs, strict=True)):
        few = len(dW) == units and len(below) <= below.shape[1]
        if other != layer and few and usable(dW) and np.isfinite(below).all():
            delta = np.linalg.lstsq(below.T, dW.T, rcond=None)[0]
            say = f"dW[{layer}] is made with delta[{other}]"
            yield guess("delta of another layer in dW", say, delta.T @ inputs[layer])
