"""What may go wrong with any array: samples or units left out, mixed up, or reshaped?"""

from __future__ import annotations

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.mistakes.row import Row, kind

ABSOLUTE = kind("absolute value", "keep the sign")
LAST_SAMPLE = kind(
    "rows overwritten in a loop", "add up the samples (+=), do not overwrite (=)",
    db="db of one sample",
)  # fmt: skip
kind("db of one sample", "sum delta over the rows")
NOT_RESET = kind("sum not reset in a loop", "set the sum to zero inside the loop, before each turn")
SHORT = kind("a loop ends too early", "check where the loop starts and ends")
MIXED = kind("samples mixed up", "keep the rows of every array in the same order")
REVERSED = kind("units in reverse order", "keep the units in the order of W's rows")
RESHAPED = kind(
    "reshape where a transpose belongs",
    "use .T: reshape keeps the order of the entries in memory",
)
ROUNDED_OFF = kind("gradient rounded", "do not round")
FLOAT32 = kind(
    "float32 somewhere",
    "look for a cast, a float32 constant or array, or for differences in the place of derivatives",
)
FLOAT16 = kind(
    "float16 somewhere",
    "look for a cast to half precision, for numbers that are rounded, or for differences in the "
    "place of derivatives",
)
SIGN_ONLY = kind("sign of the gradient only", "return the gradient itself, not its sign")
SQUARE = kind("gradient squared", "return the gradient itself, not its square")


def kept(d: Array, rows: slice, columns: slice = slice(None)) -> Array:
    """An array with zeros but for some rows and columns."""
    kept = np.zeros_like(d)
    kept[rows, columns] = d[rows, columns]
    return kept


ALL = slice(None)
ENDS = {"last": slice(None, -1), "first": slice(1, None)}
SAMPLES = (
    Row(ABSOLUTE, "delta has lost its signs", np.abs),
    Row(LAST_SAMPLE, "only the last sample counts", lambda d: kept(d, slice(-1, None)), lambda d: len(d) > 1),
    Row(LAST_SAMPLE, "only the first sample counts", lambda d: kept(d, slice(1)), lambda d: len(d) > 1),
    Row(NOT_RESET, "to each sample's delta those of the samples before are added", lambda d: np.cumsum(d, axis=0), lambda d: len(d) > 1),
    Row(SHORT, "the {v} sample is left out", lambda d, v: kept(d, ENDS[v]), lambda d: len(d) > 1, lambda _: ENDS),
    Row(SHORT, "the {v} unit is left out", lambda d, v: kept(d, ALL, ENDS[v]), lambda d: d.shape[1] > 1, lambda _: ENDS),
    Row(MIXED, "delta belongs to the sample before", lambda d: np.roll(d, 1, axis=0), lambda d: len(d) > 2),
    Row(MIXED, "delta belongs to the sample after", lambda d: np.roll(d, -1, axis=0), lambda d: len(d) > 2),
    Row(MIXED, "the samples of delta are in reverse order", lambda d: d[::-1], lambda d: len(d) > 2),
)  # fmt: skip
"""In the place of a delta, (m, n)."""
SHAPES = (
    Row(RESHAPED, "{what} is reshaped, not transposed", lambda d: d.T.reshape(d.shape)),
    Row(RESHAPED, "{what} is reshaped, not transposed", lambda d: d.reshape(d.shape[::-1]).T),
)
"""In the place of any matrix: reshaped where it should have been transposed, from either side."""
