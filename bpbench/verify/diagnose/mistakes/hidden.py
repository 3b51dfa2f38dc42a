"""What may delta of a hidden layer be? The wrong ways back, and f' wrongly used."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.mistakes.arrays import NOT_RESET
from bpbench.verify.diagnose.mistakes.context import Context, taken
from bpbench.verify.diagnose.mistakes.row import Row, kind
from bpbench.verify.diagnose.mistakes.slopes import AT_ERROR, UNBRACKETED

AVERAGES: Callable[[Context], tuple[int, int]] = lambda c: (1, c.m)  # noqa: E731
"""Before and after the division by m."""
WRONG_W = kind("wrong W", "use the weights of the layer above")
NO_W = kind("W missing on the way back", "multiply delta by W of the layer above")
PARTLY = kind("error missing in a part of delta", "multiply all of f'(z) by the error: parentheses")
ADDED_B = kind("bias added on the way back", "b has no part in the way back")
COLUMN = kind("bias column dropped at the wrong end", "drop the column that belongs to the ones")


def _others(c: Context) -> Iterator[tuple[str, Array]]:
    for other, V in enumerate(c.probe.W):
        if other != c.above and V.shape == c.W_above.shape:
            yield f"W[{other}]", V
        if other != c.above and V.T.shape == c.W_above.shape:
            yield f"W[{other}] transposed", V.T


def _before_slope(c: Context) -> Iterator[Array]:
    """What f' of the layer above should have multiplied, and what it did multiply."""
    error, slope = c.errors[c.above], c.reading.slope(c.above)
    if error is not None:
        yield error
    if slope is not None:
        yield c.delta_above / slope


def _further_up(c: Context) -> Iterator[tuple[int, Array]]:
    for other in range(c.above + 1, len(c.deltas)):
        for value in (c.deltas[other], c.errors[other]):
            if value is not None and value.shape == c.delta_above.shape:
                yield other, value


def _sums(c: Context) -> Iterator[Array]:
    for value in (c.delta_above, c.errors[c.above]):
        if value is not None:
            yield value.sum(axis=1, keepdims=True)


BACKS = (
    Row(kind("W not transposed", "W's other index must be summed on the way back"), "W[{c.above}] is transposed the wrong way round",
        lambda c: c.delta_above @ c.W_above.T, lambda c: c.delta_above.shape == c.z.shape),
    Row(NO_W, "delta of layer {c.above} comes back without W[{c.above}]",
        lambda c: c.delta_above, lambda c: c.delta_above.shape == c.z.shape),
    Row(WRONG_W, "{v[0]} is used where W[{c.above}] belongs", lambda c, v: c.delta_above @ v[1], each=_others),
    Row(kind("error sent back without f'", "send delta back, which has f' in it"),
        "what comes back from layer {c.above} is its error before f', not its delta", lambda c, v: v @ c.W_above, each=_before_slope),
    Row(kind("delta of another layer", "use the delta of the layer just above"),
        "delta of layer {v[0]} is used where that of layer {c.above} belongs", lambda c, v: v[1] @ c.W_above, each=_further_up),
    Row(NO_W, "delta of layer {c.above} comes back without W[{c.above}]", lambda c, v: v + 0 * c.z, each=_sums),
    Row(kind("averaged over the samples on the way back", "sum over the samples only in dW and db", dW="averaged before the outer product"),
        "delta is averaged over the samples before it goes back",
        lambda c: c.delta_above.mean(axis=0) @ c.W_above + 0 * c.z, lambda c: c.m > 1),
    Row(NOT_RESET, "to the error of each unit those of the units before are added",
        lambda c: np.cumsum(c.delta_above @ c.W_above, axis=1), lambda c: c.n > 1),
    Row(kind("absolute value of W", "use W with its signs"), "|W| is used on the way back", lambda c: c.delta_above @ np.abs(c.W_above)),
    Row(kind("sign of W", "use W itself, not its sign"), "only the sign of W is used on the way back",
        lambda c: c.delta_above @ np.sign(c.W_above)),
    Row(kind("W squared", "use W itself, not its square"), "W^2 is used on the way back", lambda c: c.delta_above @ c.W_above**2),
    Row(ADDED_B, "b is added to the error that comes back", lambda c, v: c.delta_above @ c.W_above + c.b / v, lambda c: c.biased, AVERAGES),
)  # fmt: skip
"""In the place of what comes back from the layer above, (m, n_l)."""


def _parts(c: Context) -> Iterator[tuple[str, Array, Array, int]]:
    """f' in two parts: where the second is, the parts, and what the second is divided by."""
    parts = []
    if c.name in ("leaky_relu", "elu"):
        parts = [("where z is below 0", c.slope * (c.z > 0), c.slope * (c.z <= 0))]
    if c.name in ("silu", "gelu"):
        first, rest = c.over_z, c.slope - c.over_z
        parts = [("in its second term", first, rest), ("in its first term", rest, first)]
    return ((*part, average) for part in parts for average in AVERAGES(c))


def _moved(c: Context) -> Iterator[tuple[str, Array]]:
    """The units moved by one, by code that keeps b as a row of W beside a column of ones in a."""
    ones = (c.delta_above @ c.probe.b[c.above])[:, None]
    zero = np.zeros_like(ones)  # what a(1-a) makes of a column of ones
    yield "last", np.hstack([zero, c.delta[:, :-1]])
    yield "last", np.hstack([ones, c.back[:, :-1]]) * c.slope
    yield "first", np.hstack([c.delta[:, 1:], zero])
    yield "first", np.hstack([c.back[:, 1:], ones]) * c.slope


BARE = "without parentheses: all but the first factor is subtracted"
HIDDEN = (
    Row(kind("f' added, not multiplied", "multiply the error by f'(z), entry by entry"),
        "f'(z) is added to the error", lambda c: c.back + c.slope),
    Row(ADDED_B, "b is added to delta", lambda c: c.delta + c.b, lambda c: c.biased),
    Row(UNBRACKETED, f"the error is multiplied by a * 1 - a {BARE}", lambda c, v: c.back * c.a - c.a / v, taken("sigmoid"), AVERAGES),
    Row(UNBRACKETED, f"the error is multiplied by 1 - a^2 {BARE}", lambda c, v: c.back - c.a * c.a / v, taken("tanh"), AVERAGES),
    Row(AT_ERROR, "f' is taken at the error, and stands in the place of delta", lambda c, v: c.f_prime(v * c.back) / v, each=AVERAGES),
    Row(PARTLY, "f'(z) {v[0]} is not multiplied by the error", lambda c, v: c.back * v[1] + v[2] / v[3], each=_parts),
    Row(COLUMN, "the units are moved by one: the column of ones is kept, and the {v[0]} unit is dropped",
        lambda c, v: v[1], lambda c: c.biased and c.n > 1, _moved),
)  # fmt: skip
"""In the place of delta, (m, n_l)."""
