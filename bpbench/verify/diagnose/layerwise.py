"""What went wrong in one layer, given the delta that came down to it?

The right formulas first; then one wrong delta that explains dW and db together; then mistakes in dW
and db by themselves; then sums of a few terms whose weights are fitted; and where nothing fits, the
delta that was used is taken from dW, so that the layers below can be judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.chains import UNKNOWN, Case, Chain
from bpbench.verify.diagnose.costs import ROUNDING, UNKNOWN_COST
from bpbench.verify.diagnose.evidence import Explanation
from bpbench.verify.diagnose.guesses import hidden_deltas, output_deltas
from bpbench.verify.diagnose.layer import Layer, layer_of
from bpbench.verify.diagnose.mistakes.output import paired_otherwise
from bpbench.verify.diagnose.mistakes.row import Guess, Seen, kind
from bpbench.verify.diagnose.mistakes.sums import DELTAS, fitted
from bpbench.verify.diagnose.options import RIGHT, ZERO, Option, clipped_to, length, options
from bpbench.verify.diagnose.unexplained import pattern

GRADIENT_ZERO = kind(
    "gradient zero",
    "look for a loop that ends too early, or a factor that is 0: an integer division, a mask, "
    "a * 1 - a without parentheses",
)


def explain_layer(case: Case, chain: Chain, index: int) -> list[Chain]:
    """The chain with a layer explained, in every way that is worth following."""
    layer = layer_of(case, chain, index)
    if not case.usable(index):  # its form is wrong, which is a finding
        return [layer.explained([], 0, layer.right)]
    if all(layer.evidence.exact(layer.right)):
        decayed = layer.decayed(chain.scale)
        return [layer.explained(decayed, len(decayed), layer.right)]
    empty = any(not any(a.any() for a in dW) for dW in (layer.whole, layer.evidence.dW))
    if empty and not any(array.any() for array in layer.evidence.db):
        return _zero(layer)
    by = layer.evidence.explain(_guesses(layer))
    found = [*_joint(layer, by["delta"]), *_proportional(layer)]
    if not by["delta"] or (layer.evidence.db and layer.evidence.exact(layer.right)[1]):
        found += _apart(layer, by)
    if min((longer.cost for longer in found), default=np.inf) - chain.cost >= 2:
        found += _sums(layer)
    return found or _unknown(layer)


def _guesses(layer: Layer) -> list[list[Guess]]:
    """What delta may be, in each probe."""
    implied, _ = layer.evidence.implied()
    guesses = [list(output_deltas(c) if c.last else hidden_deltas(c)) for c in layer.contexts]
    if implied is not None:
        clipped = clipped_to("delta", implied, layer.right)
        for c, of_probe, delta, clip in zip(layer.contexts, guesses, implied, clipped, strict=True):
            paired = [paired_otherwise(c, delta)] if c.last and c.of_difference else []
            of_probe += [*paired, *clip]
    return guesses


def _zero(layer: Layer) -> list[Chain]:
    """Nothing was found: delta is zero, or dW and db are, each by itself."""
    zeros = tuple(np.zeros_like(delta) for delta in layer.right)
    both = bool(layer.evidence.db)
    named, what = (GRADIENT_ZERO, "dW and db are") if both else (ZERO["dW"], "dW is")
    seen = [Seen(named.name, f"{what} all zeros")]
    return [
        layer.explained(layer.at(seen, "delta"), 1 if both else 2, zeros),
        layer.explained(layer.at(seen, "dW"), 2 if both else 1, layer.right),
    ]


# ── One wrong delta for dW and db ──────────────────────────────────────────────────────────────


def _joint(layer: Layer, explanations: Sequence[Explanation]) -> Iterator[Chain]:
    """It is handed down as it is, or used in this layer only, or only its factor is. What is wrong
    with dW and db alike, and not with delta, is a mistake more.
    """
    for e in explanations:
        scale = _scale(layer, e.factors)
        decayed = layer.decayed(scale)
        both = (*e.guess, *e.factor)
        down = [*layer.at(both, "delta"), *decayed]
        yield layer.explained(down, e.cost + len(decayed), e.scaled, scale)
        if layer.index == 0:
            continue
        decayed = layer.decayed(e.factors)
        cost = e.cost + len(decayed) + 1
        yield layer.explained([*layer.at(both, "dW"), *decayed], cost, layer.right)
        if e.guess and e.factor:
            mixed = [*layer.at(e.guess, "delta"), *layer.at(e.factor, "dW"), *decayed]
            yield layer.explained(mixed, cost, e.values)


def _scale(layer: Layer, factors: Array) -> Array | None:
    """The factor of the whole gradient, L2 term and all, if there is one: that of delta, unless the
    L2 term here is as it should be.
    """
    k, l2 = layer.chain.decays[layer.index], layer.case.probes[0].l2
    if k is None or not l2 or np.allclose(k, l2, rtol=1e-6):
        return layer.chain.scale
    return factors if layer.chain.scale is None else layer.chain.scale * factors


def _proportional(layer: Layer) -> Iterator[Chain]:
    """The right delta by a factor that is not made of sizes: that of a normalised gradient, or of
    no known rule.
    """
    factors = layer.evidence.proportional(layer.right)
    if factors is not None and not layer.evidence.read(factors, "delta"):
        cost, seen = length(layer, factors)
        deltas = tuple(f * d for f, d in zip(factors, layer.right, strict=True))
        yield layer.explained(layer.at([seen], "delta"), cost, deltas, _scale(layer, factors))


# ── dW and db by themselves ────────────────────────────────────────────────────────────────────


def _apart(layer: Layer, by: dict[str, list[Explanation]]) -> Iterator[Chain]:
    """dW and db have mistakes of their own; at least one of the two can be explained."""
    of_W = options(layer, "dW", by["dW"])
    of_b = options(layer, "db", by["db"]) if layer.evidence.db else [RIGHT]
    if of_W or (of_b and layer.evidence.db):
        for W in of_W or [_unexplained(layer, "dW")]:
            for b in of_b or [_unexplained(layer, "db")]:
                yield from _pair(layer, W, b)


def _pair(layer: Layer, W: Option, b: Option) -> Iterator[Chain]:
    decayed = [] if W.whole else layer.decayed(None)
    if decayed and W.factors is not None:  # the L2 term may have been multiplied with the rest
        decayed = min(decayed, layer.decayed(W.factors), key=len)
    cost = W.cost + b.cost + len(decayed)
    own = [*layer.at(W.own, "dW"), *layer.at(b.own, "db"), *decayed]
    here_W, here_b = layer.at(W.guess, "dW"), layer.at(b.guess, "db")
    if W.delta is not None and W.guess == b.guess:
        cost -= len(W.guess)
        yield layer.explained([*layer.at(W.guess, "delta"), *own], cost, W.delta)
        if layer.index:
            yield layer.explained([*here_W, *own], cost, layer.right)
        return
    yield layer.explained([*here_W, *here_b, *own], cost, layer.right)
    if layer.index and W.delta is not None:
        yield layer.explained([*layer.at(W.guess, "delta"), *here_b, *own], cost, W.delta)
    if layer.index and b.delta is not None:
        yield layer.explained([*layer.at(b.guess, "delta"), *here_W, *own], cost, b.delta)


# ── Sums, and what nothing explains ────────────────────────────────────────────────────────────


def _sums(layer: Layer) -> Iterator[Chain]:
    """Deltas that are a sum of a few terms, with weights that are nobody's guess."""
    if layer.evidence.proportional(layer.right) is not None:
        return  # a factor, not a sum
    decayed = layer.decayed(None)
    for row in DELTAS:
        for seen, _, deltas in fitted(row, layer.contexts, layer.evidence.combined):
            mistakes = [*layer.at([seen], "delta"), *decayed]
            yield layer.explained(mistakes, 1 + len(decayed), deltas)


def _unexplained(layer: Layer, tensor: str) -> Option:
    share = layer.evidence.deviation(layer.right)[tensor == "db"]
    cost, seen = _nameless(layer, share, tensor)
    return Option(cost, own=(seen,))


def _nameless(layer: Layer, share: float, tensor: str) -> tuple[float, Seen]:
    """An error that no formula explains: rounding to a lower precision, or unknown."""
    for limit, name in layer.case.coarse:
        if share < limit:
            say = f"{tensor} is off by {share:.1e} of its largest entry, as rounding would be"
            return ROUNDING, Seen(name, say)
    return UNKNOWN_COST, Seen(UNKNOWN, f"{tensor} is off by {share:.2g} of its largest entry")


def _unknown(layer: Layer) -> list[Chain]:
    """The delta that dW implies is what was handed down, or else the right one."""
    implied, agrees = layer.evidence.implied()
    if implied is not None and agrees:
        share = max(layer.evidence.deviation(layer.right))
        cost, seen = _nameless(layer, share, "delta")
        _, here = _nameless(layer, share, "dW")
        if seen.name == UNKNOWN:
            cost, seen = pattern(layer.case, implied, layer.right) or (cost, seen)
        return [
            layer.explained(layer.at([seen], "delta"), cost, implied),
            layer.explained(layer.at([here], "dW"), cost, layer.right),
        ]
    tensors = ("dW", "db") if layer.evidence.db else ("dW",)
    found = {tensor: _unexplained(layer, tensor) for tensor in tensors}
    mistakes = [m for tensor, option in found.items() for m in layer.at(option.own, tensor)]
    cost = max(option.cost for option in found.values())
    handed = [layer.right] if implied is None else [layer.right, implied]
    return [layer.explained(mistakes, cost, delta) for delta in handed]
