"""What may dW and db be where delta is right? Wrong inputs, wrong products, wrong sums."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.functions import FUNCTIONS, OF_OUTPUT
from bpbench.verify.diagnose.mistakes import arrays
from bpbench.verify.diagnose.mistakes.context import Context, applied
from bpbench.verify.diagnose.mistakes.row import Row, kind
from bpbench.verify.diagnose.probe import usable

INPUT = kind("wrong activation in dW", "use the layer's input a_{l-1}")
CHANGED = kind("layer's input changed in dW", "multiply delta by the layer's input as it is")
SUMMED_AWRY = kind(
    "db summed over the wrong axis", "sum delta over the samples, one number for each unit"
)
AT_B = kind("f' at b", "db is the sum of delta, which has f'(z) in it")


def _same_width(c: Context) -> Iterator[tuple[str, Array]]:
    for name, values in (("a", c.reading.a), ("z", c.reading.z)):
        for other, value in enumerate(values):
            if other != c.under and value.shape[1] == c.input.shape[1]:
                yield f"{name}[{other}]", value


INPUTS = (
    Row(INPUT, "z[{c.under}] is used, not a[{c.under}]", lambda c: c.reading.z[c.under], lambda c: c.layer),
    Row(INPUT, "f'(z[{c.under}]) is used, not a[{c.under}]", lambda c: c.reading.slope(c.under), lambda c: c.layer),
    Row(INPUT, "a[{c.under}] is multiplied by f'", lambda c: c.input * c.reading.slope(c.under), lambda c: c.layer),
    Row(INPUT, "f is applied to a[{c.under}] once more", lambda c: applied(c.reading.functions[c.under], c.input),
        lambda c: c.layer and c.reading.functions[c.under] in FUNCTIONS),
    Row(INPUT, "x is used, not a[{c.under}]", lambda c: c.x, lambda c: c.layer and c.x.shape == c.input.shape),
    Row(INPUT, "b[{c.under}] is taken from a[{c.under}]", lambda c: c.input - c.probe.b[c.under], lambda c: c.layer and c.biased),
    Row(INPUT, "{v[0]} is used, not {c.given}", lambda c, v: v[1], each=_same_width),
    Row(CHANGED, "the layer's input is squared", lambda c: c.input**2),
    Row(CHANGED, "the layer's input is only asked for its sign", lambda c: np.sign(c.input)),
    Row(CHANGED, "the layer's input is cut to 0 or 1", lambda c: 1.0 * (c.input > 0)),
    Row(CHANGED, "the layer's input is taken without its sign", lambda c: np.abs(c.input)),
    Row(arrays.RESHAPED, "{c.given} is reshaped, not transposed", lambda c: c.input.T.reshape(c.input.shape)),
    Row(arrays.RESHAPED, "{c.given} is reshaped, not transposed", lambda c: c.input.reshape(c.input.shape[::-1]).T),
    Row(kind("layer's input missing in dW", "multiply delta by the layer's input"),
        "dW is made without the layer's input", lambda c: np.ones_like(c.input)),
    Row(CHANGED, "the layer's input is centred over the samples", lambda c: c.input - c.input.mean(axis=0), lambda c: c.m > 1),
)  # fmt: skip
"""In the place of the layer's input in dW, (m, n_{l-1})."""


WEIGHTS = (
    Row(kind("dW transposed", "swap the two sides of the outer product"), "dW is the transpose of what it should be", lambda c: c.dW.T,
        lambda c: c.dW.shape[0] == c.dW.shape[1]),
    Row(kind("averaged before the outer product", "multiply sample by sample, then average"),
        "delta and input are averaged over the samples before their product",
        lambda c: np.outer(c.db, c.below.mean(axis=0)) + c.decay, lambda c: c.m > 1),
    Row(CHANGED, "the layer's input, or delta, is centred over the samples",
        lambda c: c.delta.T @ (c.below - c.below.mean(axis=0)) + c.decay, lambda c: c.m > 1),
    Row(arrays.ABSOLUTE, "dW has lost its signs", lambda c: np.abs(c.dW)),
    Row(arrays.SIGN_ONLY, "dW is only the sign of the gradient", lambda c: np.sign(c.dW)),
    Row(arrays.SQUARE, "dW is squared, entry by entry", lambda c: c.dW**2),
    Row(arrays.SHORT, "the {v} row of dW is never filled",
        lambda c, v: arrays.kept(c.dW, arrays.ENDS[v]), lambda c: c.n > 1, lambda _: arrays.ENDS),
    Row(arrays.SHORT, "the {v} column of dW is never filled", lambda c, v: arrays.kept(c.dW, arrays.ALL, arrays.ENDS[v]),
        lambda c: c.below.shape[1] > 1, lambda _: arrays.ENDS),
    Row(arrays.RESHAPED, "dW is reshaped, not transposed", lambda c: c.dW.T.reshape(c.dW.shape)),
    Row(arrays.RESHAPED, "dW is reshaped, not transposed", lambda c: c.dW.reshape(c.dW.shape[::-1]).T),
    Row(arrays.ROUNDED_OFF, "dW is rounded to {v} decimals", lambda c, v: np.round(c.dW, v), each=lambda _: range(6)),
    Row(arrays.REVERSED, "dW has the units in reverse order", lambda c: c.dW[::-1]),
    Row(arrays.REVERSED, "dW has the units in reverse order", lambda c: c.dW[:, ::-1]),
)  # fmt: skip
"""In the place of dW, (n_l, n_{l-1}), its L2 term and all."""


def _copies(c: Context, tensor: str) -> Iterator[tuple[int, Array]]:
    arrays = getattr(c.answer, tensor)
    for other, array in enumerate(arrays):
        if other != c.layer and array.shape == arrays[c.layer].shape and usable(array):
            yield other, array


def _other_deltas(c: Context) -> Iterator[tuple[int, Array]]:
    """The deltas of as many units, by layer, that other layers' dW tell of."""
    for other, (dW, below) in enumerate(zip(c.answer.W, c.inputs, strict=True)):
        few = len(dW) == c.n and len(below) <= below.shape[1]
        if other != c.layer and few and usable(dW) and np.isfinite(below).all():
            yield other, np.linalg.lstsq(below.T, dW.T, rcond=None)[0]


OTHER_WEIGHTS = (
    Row(kind("dW of another layer", "return each layer's own"), "dW[{v[0]}] is returned as dW[{c.layer}] too",
        lambda c, v: v[1], each=lambda c: _copies(c, "W")),
    Row(kind("delta of another layer in dW", "use this layer's own delta"), "dW[{c.layer}] is made with delta[{v[0]}]",
        lambda c, v: v[1].T @ c.below, each=_other_deltas),
)  # fmt: skip
"""In the place of dW, what another layer's gives."""

SUMMED_AWAY = kind(
    "db summed over everything", "sum delta over the samples only (axis=0 where rows are samples)"
)
BIAS = (
    Row(SUMMED_AWAY, "db is one number, summed over samples and units", lambda c: np.full(c.n, c.delta.sum()), lambda c: c.n > 1),
    Row(SUMMED_AWRY, "db is summed over the units, not over the samples", lambda c: c.delta.sum(axis=1), lambda c: c.m == c.n),
    Row(SUMMED_AWRY, "db is summed over the units, not over the samples, and made to fit",
        lambda c: np.resize(c.delta.sum(axis=1), c.n), lambda c: c.m != c.n),
    Row(arrays.ABSOLUTE, "db is summed without its signs", lambda c: np.abs(c.delta).sum(axis=0)),
    Row(arrays.ABSOLUTE, "db has lost its signs", lambda c: np.abs(c.db)),
    Row(arrays.SIGN_ONLY, "db is only the sign of the gradient", lambda c: np.sign(c.db)),
    Row(arrays.SQUARE, "db is squared", lambda c: c.db**2),
    Row(kind("db of the largest sample", "sum delta over the rows"), "db is the largest delta, not the sum", lambda c: c.delta.max(axis=0)),
    Row(arrays.ROUNDED_OFF, "db is rounded to {v} decimals", lambda c, v: np.round(c.db, v), each=lambda _: range(6)),
    Row(kind("db times b", "db is the sum of delta: b has no part in it"), "db is multiplied by b", lambda c: c.db * c.b),
    Row(AT_B, "f' is taken at b, not at z ({v}'s formula of a)",
        lambda c, v: c.back.sum(axis=0) * OF_OUTPUT[v](c.b), each=lambda _: ("sigmoid", "tanh")),
    Row(AT_B, "f' is taken at b, not at z ({v}'s formula of a)", lambda c, v: c.db * OF_OUTPUT[v](c.b), each=lambda _: ("sigmoid", "tanh")),
    Row(kind("db from dW", "sum delta over the samples, not dW over its inputs"),
        "db is the sum of dW's rows", lambda c: (c.delta.T @ c.below).sum(axis=1)),
    Row(kind("db of another array", "db is the sum of the layer's delta"), "db is the sum of the layer's {v}, not of its delta",
        lambda c, v: getattr(c, v).sum(axis=0), each=lambda _: ("a", "z")),
    Row(arrays.REVERSED, "db has the units in reverse order", lambda c: c.db[::-1]),
    Row(kind("db of another layer", "sum this layer's own delta"), "db[{v[0]}] is returned as db[{c.layer}] too",
        lambda c, v: v[1], each=lambda c: _copies(c, "b")),
)  # fmt: skip
"""In the place of db, (n_l,)."""
