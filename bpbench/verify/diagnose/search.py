"""Which few mistakes, taken together, explain all that was found? From the output back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from bpbench.verify.diagnose.chains import Case, Chain, Mistake
from bpbench.verify.diagnose.costs import ALIKE
from bpbench.verify.diagnose.forward import changed_hidden, changed_output, scaled_hidden, starts
from bpbench.verify.diagnose.layer import layer_of
from bpbench.verify.diagnose.layerwise import explain_layer
from bpbench.verify.diagnose.mistakes.arrays import FLOAT32
from bpbench.verify.diagnose.mistakes.forward import X
from bpbench.verify.diagnose.mistakes.slopes import ANOTHER
from bpbench.verify.diagnose.mistakes.sums import DELTAS

MAY_BE_FORWARD = {ANOTHER.name, *(row.kind.name for row in DELTAS)}
KEEP = 8
"""So many chains are followed from each layer to the one below."""


def explain(case: Case, begun: Sequence[Chain]) -> list[Chain]:
    """Chains that explain a case, the best first: the right forward pass, or what dW shows of it;
    where that takes several mistakes, other outputs; where it takes more, other forward passes.
    Where all is right but for the rounding of float32, nothing else is tried.

    Args:
        begun: chains that explain no layer yet.
    """
    chains = _follow(case, begun)
    if all(mistake.name == FLOAT32.name for mistake in chains[0].mistakes):
        return chains
    if chains[0].cost > 1 + ALIKE or _may_be_forward(case, chains[0]):
        outputs = [s for start in begun for s in changed_output(case, start)]
        chains += _follow(case, outputs, _known_output, chains[0].cost + ALIKE)
    bound = min(c.cost for c in chains)
    if bound >= 2 + ALIKE:
        guessed = [*changed_hidden(case), *scaled_hidden(case)]
        chains += _follow(case, guessed, _only_factors, bound)
        chains += _changed_inputs(case, bound)
    return sorted(chains, key=lambda c: c.cost)


def _may_be_forward(case: Case, chain: Chain) -> bool:
    """Whether a wrong f' of the output, or a sum there, may be that of an activation that was
    really applied: a relu on a linear output gives the same delta either way.
    """
    last = case.layers - 1
    return any(m.layer == last and m.name in MAY_BE_FORWARD for m in chain.mistakes)


Explain = Callable[[Case, Chain, int], list[Chain]]


def _follow(
    case: Case, begun: Sequence[Chain], explain: Explain = explain_layer, below: float = np.inf
) -> list[Chain]:
    """Complete chains, the best first.

    Args:
        explain: a chain with one more layer explained, in every way that is worth following.
        below: chains that cost as much are given up.
    """
    chains = list(begun)
    for layer in range(case.layers - 1, -1, -1):
        longer = [new for chain in chains for new in explain(case, chain, layer)]
        chains = _best([chain for chain in longer if chain.cost < below])
    return chains


def _best(chains: list[Chain]) -> list[Chain]:
    """The cheapest chains; those that differ in nothing that matters below, once."""
    kept: dict[tuple[object, ...], Chain] = {}
    for chain in sorted(chains, key=lambda c: c.cost):
        handed = chain.deltas[min(chain.deltas)]
        kept.setdefault((chain.mistakes, tuple(float(d.sum()) for d in handed)), chain)
    return list(kept.values())[:KEEP]


def _known_output(case: Case, chain: Chain, layer: int) -> list[Chain]:
    """``explain_layer`` for a guessed output: given up where the output stays unknown."""
    longer = explain_layer(case, chain, layer)
    return [new for new in longer if not new.unknown] if layer == case.layers - 1 else longer


def _only_factors(case: Case, chain: Chain, layer: int) -> list[Chain]:
    """``explain_layer`` for a guessed forward pass: given up where neither dW nor db of the output
    is right but for a factor, or where something stays unknown.
    """
    if layer == case.layers - 1 and case.usable(layer):
        known = layer_of(case, chain, layer)
        evidence = known.evidence
        if evidence.proportional(known.right) is None and not any(evidence.exact(known.right)):
            return []
    return [longer for longer in explain_layer(case, chain, layer) if not longer.unknown]


def _changed_inputs(case: Case, bound: float) -> Iterator[Chain]:
    """Chains for a function that computes with inputs of its own making."""
    for row in X:
        probes = tuple(replace(probe, x=row.formula(probe.x)) for probe in case.probes)
        moved = replace(case, probes=probes)
        mistake = Mistake(row.kind.name, 0, "x", row.say)
        for start in starts(moved):
            begun = replace(start, cost=start.cost + 1, mistakes=(mistake, *start.mistakes))
            yield from _follow(moved, [begun], _only_factors, bound)
