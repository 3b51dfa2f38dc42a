"""How may dW, or db, by itself have come about, where delta is known?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.chains import UNKNOWN
from bpbench.verify.diagnose.costs import ARRAYS, LENGTH
from bpbench.verify.diagnose.evidence import Arrays, Explanation, Mistakes
from bpbench.verify.diagnose.fits import fit
from bpbench.verify.diagnose.layer import Layer, wrong_decay
from bpbench.verify.diagnose.mistakes.gradients import BIAS, OTHER_WEIGHTS, SUMMED_AWAY, WEIGHTS
from bpbench.verify.diagnose.mistakes.row import Guess, Seen, guesses, kind
from bpbench.verify.diagnose.mistakes.sums import OWN_DECAY, decayed, fitted
from bpbench.verify.diagnose.unexplained import ROOT, lengths_of

ZERO = {
    "dW": kind("dW zero", "fill it"),
    "db": kind("db zero", "db is the sum of delta over the rows"),
}
CLIPPING = kind("clipping", "switch clipping off to verify")
NORMALISED = kind("gradient normalised", "return the gradient itself, not one of a fixed length")
LOSS_ROOT = kind("root of the loss", "the loss is the mean squared error, not its root")


@dataclass(frozen=True)
class Option:
    """One way in which dW, or db, may have come about.

    Attributes:
        delta, guess: the delta it takes, and what is wrong with that; None for the right one.
        own: what is wrong with the array itself.
        whole: whether that is said of all of it, the L2 term included.
        factors: (P,), what the right array is multiplied by, if by anything.
    """

    cost: float
    delta: Arrays | None = None
    guess: Mistakes = ()
    own: Mistakes = ()
    whole: bool = False
    factors: Array | None = None


RIGHT = Option(0)


def options(layer: Layer, tensor: str, explanations: Sequence[Explanation]) -> list[Option]:
    """The likeliest ways for "dW" or "db".

    Args:
        explanations: the wrong deltas that explain it.
    """
    of_W = tensor == "dW"
    evidence = layer.evidence
    if evidence.exact(layer.right)[not of_W]:
        return [RIGHT]
    if not any(array.any() for array in (layer.whole if of_W else evidence.db)):
        return list(_zero(layer, tensor))
    found = [
        Option(e.cost, e.values if e.guess else None, e.guess, e.factor, factors=e.factors)
        for e in explanations
    ]
    found += _arrays(layer, tensor, evidence.dW if of_W else evidence.db, 0.0)
    if of_W and layer.case.probes[0].l2:
        found += _arrays(layer, tensor, layer.whole, 1.0)  # the L2 term went through it too
    found += _decays(layer, tensor)
    found += _alone_in_length(layer, tensor)
    return sorted(found, key=lambda option: option.cost)[:4]


def _zero(layer: Layer, tensor: str) -> Iterator[Option]:
    """It holds nothing: not even rounding, or what sums to 0 over the units."""
    sums_to_nothing = tensor == "db" and all(
        np.abs(delta.sum(axis=1)).max() < 1e-12 * np.abs(delta).max() for delta in layer.right
    )
    rounding_noise = sums_to_nothing and layer.index in layer.case.rounding_noise
    if not rounding_noise:
        yield Option(1, own=(Seen(ZERO[tensor].name, f"{tensor} is all zeros"),), whole=True)
    if sums_to_nothing:
        say = "db is zero" + (" but for rounding" if rounding_noise else "")
        say += ", as delta's sum over the units is: it may be summed over these"
        yield Option(1, own=(Seen(SUMMED_AWAY.name, say),), whole=True)


def _arrays(layer: Layer, tensor: str, found: Arrays, times: float) -> Iterator[Option]:
    """The wrong ways of making it from the right delta, input and L2 term."""
    tables = (*WEIGHTS, *OTHER_WEIGHTS) if tensor == "dW" else BIAS
    contexts = [c.decayed(times) for c in layer.contexts]
    clipped = clipped_to(tensor, found, [getattr(c, tensor) for c in contexts])
    tried = [[*guesses(tables, c), *clip] for c, clip in zip(contexts, clipped, strict=True)]
    for e in layer.evidence.explain_array(found, tried, tensor):
        yield Option(e.cost + ARRAYS, own=(*e.guess, *e.factor), whole=bool(times))


def clipped_to(
    tensor: str, found: Sequence[Array], right: Sequence[Array]
) -> list[tuple[Guess, ...]]:
    """The right arrays cut off at the largest size that was found; nothing where too few entries
    are larger to tell, or where every probe would have a limit of its own.
    """
    limits = [float(np.abs(array).max(initial=0)) for array in found]
    cut = [
        int((np.abs(array) > 1.000001 * limit).sum())
        for array, limit in zip(right, limits, strict=True)
    ]
    reached = [limit for limit, entries in zip(limits, cut, strict=True) if entries]
    averaged = [k * len(array) for k, array, n in zip(limits, right, cut, strict=True) if n]
    if sum(cut) < 3 or not any(np.allclose(r, r[0], rtol=1e-6) for r in (reached, averaged)):
        return [() for _ in right]
    seen = Seen(CLIPPING.name, f"{tensor}'s entries stop at the same largest size")
    return [
        (Guess((seen,), np.clip(array, -limit, limit)),)
        for array, limit in zip(right, limits, strict=True)
    ]


def _decays(layer: Layer, tensor: str) -> Iterator[Option]:
    """What is right but for a multiple of W, of sign(W), of another layer's W, or of b."""

    def combine(columns: list[list[Array]]) -> tuple[list[Array], bool]:
        return layer.evidence.sum_of(layer.whole if of_W else layer.evidence.db, columns)

    of_W = tensor == "dW"
    near = 1e-3 if of_W else 1e-6
    if of_W and layer.chain.decays[layer.index] is None:  # its span does not tell
        for _, weights, _ in fitted(OWN_DECAY, layer.contexts, combine, near):
            wrong = wrong_decay(layer.case, np.array([w[1] for w in weights]), None)
            yield Option(1, own=tuple(wrong), whole=True)
    for row in decayed(tensor, layer.case.layers):
        for seen, _, _ in fitted(row, layer.contexts, combine, near):
            yield Option(1, own=(seen,), whole=of_W)


def _alone_in_length(layer: Layer, tensor: str) -> Iterator[Option]:
    """It has the right direction, but not the right length."""
    found = layer.evidence.dW if tensor == "dW" else layer.evidence.db
    right = [getattr(c, tensor) for c in layer.contexts]
    if any(array.size < 2 for array in found):
        return
    fits = [fit(r.reshape(1, -1), f.ravel()) for r, f in zip(right, found, strict=True)]
    factors = np.array([f.factor[0] for f in fits])
    fitting = all(f.miss[0] <= layer.case.tolerance for f in fits)
    if fitting and not layer.evidence.read(factors, tensor):
        cost, seen = length(layer, factors)
        yield Option(cost, own=(seen,))


def length(layer: Layer, factors: Array) -> tuple[float, Seen]:
    """What a right direction of a wrong length is: a gradient of a fixed length, or unknown."""
    shown = ", ".join(f"{f:.4g}" for f in factors)
    say = f"it has the right direction, but {shown} times the right length"
    for rule, lengths in lengths_of(layer.case, layer.evidence, layer.right).items():
        rest = factors * lengths
        if np.allclose(rest, rest[0], rtol=max(1e2 * layer.case.tolerance, 1e-8)):
            name = (LOSS_ROOT if rule == ROOT else NORMALISED).name
            return 1, Seen(name, f"{say}: {rest[0]:.4g} over {rule}")
    return LENGTH, Seen(UNKNOWN, say)
