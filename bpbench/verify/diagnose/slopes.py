"""What may stand in the place of f'(z)? The derivatives that people write for another's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bpbench.network import LEAKY_RELU_SLOPE, Array
from bpbench.verify.diagnose.functions import FUNCTIONS, OF_OUTPUT
from bpbench.verify.diagnose.guesses import Guess, guess
from bpbench.verify.diagnose.probe import Probe
from bpbench.verify.diagnose.readings import Reading


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
        meant = probe.network.activations[layer]
        if name != meant:  # the forward pass alone is wrong
            own = FUNCTIONS[meant](z)[1]
            if own is not None and not (
                last and name == "identity"
            ):  # that is z for a in the error
                yield Guess((), own)
            yield from (Guess((), OF_OUTPUT[meant](a)),) if meant in OF_OUTPUT else ()
        yield guess(missing, "f'(z) is missing", np.ones_like(z))
        yield guess("f'(a)", "f' is given a, not z", _slope(reading, layer, a))
        if name in OF_OUTPUT:
            yield guess(
                "z(1-z), 1-z^2", "the formula of f' that wants a is given z", OF_OUTPUT[name](z)
            )
        yield guess("f' twice", "f' is multiplied twice", slope**2)
        yield guess("f for f'", "f(z) stands in the place of f'(z)", a)
        yield guess("f f' for f'", "f(z) f'(z) stands in the place of f'(z)", a * slope)
        yield guess("z for f'", "z stands in the place of f'(z)", z)
        if not (slope == 0).any():
            yield guess("1/f' for f'", "the error is divided by f'(z)", 1 / slope)
        if name not in ("relu", "leaky_relu"):  # there it would be another slope
            yield guess("root of f'", "the root of f'(z) is taken", np.sqrt(np.abs(slope)))
        if name in ("relu", "leaky_relu", "elu"):
            yield from _masks(name, z, below, back)
        yield guess("f' at -z", "f' is taken at -z", _slope(reading, layer, -z))
        if len(z) > 1:
            say = "f' is taken at the mean of z over the samples"
            yield guess("f' at the mean of z", say, _slope(reading, layer, z.mean(axis=0) + 0 * z))
        say = "f' is 1 where |z| is below 1, and 0 elsewhere"
        yield guess("straight-through estimate of f'", say, 1.0 * (np.abs(z) <= 1))
        yield from _partly(name, z, a)
        m = probe.samples  # after the division by m, or before it; a - y, or y - a
        for error in (back, m * back, -back, -m * back):
            say = "f' is taken at the error"
            yield guess("f' at the error", say, _slope(reading, layer, error))
            if name in OF_OUTPUT:
                say = "the formula of f' is given the error"
                yield guess("f' at the error", say, OF_OUTPUT[name](error))
            if name == "sigmoid":
                yield guess("f' at the error", "1 - the error stands for a (1 - a)", 1 - error)
        if name == "sigmoid":
            say = "f' is s(z) s(1 - z), not s(z) (1 - s(z))"
            yield guess("wrong derivative", say, a * _both("sigmoid", 1 - z)[0])
        if probe.b:
            bare = _slope(reading, layer, z - probe.b[layer])
            yield guess("f' without the bias", "f' is taken at W a, without b", bare)
    else:
        yield guess(missing, "the softmax's Jacobian is missing", np.ones_like(z))
        yield guess(
            "diagonal of the softmax Jacobian only",
            "only the diagonal a(1-a) of the softmax's Jacobian is used", a * (1 - a),
        )  # fmt: skip
        yield guess("f for f'", "a stands in the place of f'", a)
    yield from _neighbours(reading, layer)
    yield from _others(reading, layer)


def _slope(reading: Reading, layer: int, z: Array) -> Array:
    found = reading.slope(layer, z)
    assert found is not None
    return found


def _masks(name: str, z: Array, below: Array, back: Array) -> Iterator[Guess]:
    if name != "elu":
        low = {"relu": 0.0, "leaky_relu": LEAKY_RELU_SLOPE}[name]
        yield guess("z >= 0", "f' is 1 where z is exactly 0", np.where(z >= 0, 1, low))
        say = "f' is halfway between both sides where z is exactly 0"
        half = np.where(z > 0, 1, np.where(z == 0, (1 + low) / 2, low))
        yield guess("z >= 0", say, half)
        if low:
            yield guess(
                "z >= 0",
                "f' is 0 where z is exactly 0",
                np.where(z == 0, 0, np.where(z > 0, 1, low)),
            )
    yield guess("ReLU mask inverted", "the mask is 1 where z < 0", 1.0 * (z < 0))
    wrong = "ReLU mask from the wrong place"
    low = LEAKY_RELU_SLOPE if name == "leaky_relu" else 0.0
    yield guess(wrong, "the mask is that of the error c > 0", np.where(back > 0, 1, low))
    if below.shape == back.shape:
        say = "the mask is that of the layer's input, a_{l-1} > 0"
        yield guess(wrong, say, np.where(below > 0, 1, low))


def _partly(name: str, z: Array, a: Array) -> Iterator[Guess]:
    """Derivatives of which a part is missing: a term of the product rule, or the mask."""
    half = "product rule: a term of f' missing"
    if name == "silu":
        s, rate = _both("sigmoid", z)
        yield guess(half, "f' is s(z), without z s'(z)", s)
        yield guess(half, "f' is z s'(z), without s(z)", z * rate)
        say = "f' is 1 + e^-z + z e^-z / (1 + e^-z)^2, whose first terms lack the denominator"
        yield guess("parentheses missing in f'", say, 1 + np.exp(-z) + z * rate)
        wrong = "a for z, or z for a, in f'"
        yield guess(wrong, "f' is s(z) + a s'(z), not s(z) + z s'(z)", s + a * rate)
        yield guess(wrong, "f' is z + s(z) (1 - z), not a + s(z) (1 - a)", z + s * (1 - z))
    if name == "gelu":
        cdf = np.where(z == 0, 0.5, a / np.where(z == 0, 1, z))
        slope = _both("gelu", z)[1]
        yield guess(half, "f' is the distribution function, without z times its density", cdf)
        yield guess(
            half, "f' is z times the density, without the distribution function", slope - cdf
        )
    if name == "elu":
        mask = "mask of f' missing"
        yield guess(mask, "f' is e^z also above 0", np.exp(np.minimum(z, 50)))
        yield guess(mask, "f' is a + 1 also above 0", a + 1)
    yield guess("f(z)/z for f'", "f(z)/z stands in the place of f'(z)", a / np.where(z == 0, 1, z))


def _both(name: str, z: Array) -> tuple[Array, Array]:
    value, slope = FUNCTIONS[name](z)
    assert slope is not None
    return value, slope


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
                yield guess("f' of another layer", say, np.broadcast_to(slope, shape))


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
        yield guess(wrong, f"f' is that of {name}", slope)
        yield guess(wrong, f"f' is that of {name}, taken at a", at_a)
        if name in OF_OUTPUT:
            yield guess(wrong, f"f' is {name}'s formula of a", OF_OUTPUT[name](a))
            yield guess(wrong, f"f' is {name}'s formula of a, given z", OF_OUTPUT[name](z))
