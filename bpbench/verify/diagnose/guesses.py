"""What is a guess? An array that a known mistake would have given, and its name.

Factors (1/m, a sign, a 2) are no guesses of their own: each guess is fitted with a factor, which is
named afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bpbench.network import Array


@dataclass(frozen=True)
class Guess:
    """One way of computing an array.

    Attributes:
        mistakes: (name, what was seen) each; empty for the right way.
        value: what it gives.
    """

    mistakes: tuple[tuple[str, str], ...]
    value: Array


def guess(mistake: str, say: str, value: Array) -> Guess:
    """A guess with one mistake."""
    return Guess(((mistake, say),), value)


def some_of(delta: Array) -> Iterator[Guess]:
    """The right delta of some samples or units only, or of others."""
    m, n = delta.shape
    yield guess("absolute value", "delta has lost its signs", np.abs(delta))
    if m > 1:
        wrong = "rows overwritten in a loop"
        rows = np.arange(m)[:, None]
        yield guess(wrong, "only the last sample counts", delta * (rows == m - 1))
        yield guess(wrong, "only the first sample counts", delta * (rows == 0))
        say = "to each sample's delta those of the samples before are added"
        yield guess("sum not reset in a loop", say, np.cumsum(delta, axis=0))
        short = "a loop ends too early"
        yield guess(short, "the last sample is left out", delta * (rows < m - 1))
        yield guess(short, "the first sample is left out", delta * (rows > 0))
    if n > 1:
        units = np.arange(n)
        short = "a loop ends too early"
        yield guess(short, "the last unit is left out", delta * (units < n - 1))
        yield guess(short, "the first unit is left out", delta * (units > 0))
    if m > 2:
        wrong = "samples mixed up"
        yield guess(wrong, "delta belongs to the sample before", np.roll(delta, 1, axis=0))
        yield guess(wrong, "delta belongs to the sample after", np.roll(delta, -1, axis=0))
        yield guess(wrong, "the samples of delta are in reverse order", delta[::-1])


def misshapen(array: Array, what: str) -> Iterator[Guess]:
    """An array that was reshaped where it should have been transposed, from either side."""
    wrong = "reshape where a transpose belongs"
    say = f"{what} is reshaped, not transposed"
    yield guess(wrong, say, array.T.reshape(array.shape))
    yield guess(wrong, say, array.reshape(array.shape[::-1]).T)


def clipped_to(tensor: str, found: Sequence[Array], right: Sequence[Array]) -> list[Guess] | None:
    """The right arrays cut off at the largest size that was found; None where too few entries are
    larger to tell, or where every probe would have a limit of its own.
    """
    limits = [float(np.abs(array).max(initial=0)) for array in found]
    cut = [
        int((np.abs(array) > 1.000001 * limit).sum())
        for array, limit in zip(right, limits, strict=True)
    ]
    reached = [limit for limit, entries in zip(limits, cut, strict=True) if entries]
    averaged = [limit * len(array) for limit, array in zip(limits, right, strict=True)]
    averaged = [limit for limit, entries in zip(averaged, cut, strict=True) if entries]
    if sum(cut) < 3 or not any(np.allclose(r, r[0], rtol=1e-6) for r in (reached, averaged)):
        return None
    key = (("clipping", f"{tensor}'s entries stop at the same largest size"),)
    return [
        Guess(key, np.clip(array, -limit, limit))
        for array, limit in zip(right, limits, strict=True)
    ]
