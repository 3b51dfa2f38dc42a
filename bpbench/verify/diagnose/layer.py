"""What is known of one layer that is to be explained?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.chains import Case, Chain, Mistake
from bpbench.verify.diagnose.evidence import Arrays, LayerEvidence
from bpbench.verify.diagnose.mistakes.context import Context
from bpbench.verify.diagnose.mistakes.row import Seen
from bpbench.verify.diagnose.mistakes.sums import named_decay
from bpbench.verify.diagnose.probe import usable


@dataclass(frozen=True)
class Layer:
    """One layer below what a chain explains.

    Attributes:
        contexts: what formulas may use, in each probe.
        right, errors: the right delta for what came down, and what f' multiplies in it.
        evidence: what was found, less its weight decay.
    """

    case: Case
    chain: Chain
    index: int
    contexts: Sequence[Context]
    right: Arrays
    errors: Arrays
    evidence: LayerEvidence

    @property
    def whole(self) -> Arrays:
        """dW as it was found, its L2 term and all."""
        return tuple(answer.W[self.index] for answer in self.case.answers)

    def at(self, mistakes: Iterable[Seen], tensor: str) -> list[Mistake]:
        """Mistakes at a tensor of this layer, by the names that they have there."""
        named = (mistake.by(tensor) for mistake in mistakes)
        return [Mistake(name, self.index, tensor, say) for name, say in named]

    def explained(
        self, mistakes: Sequence[Mistake], cost: float, delta: Arrays, scale: Array | None = None
    ) -> Chain:
        """The chain with this layer explained."""
        return self.chain.add(self.index, mistakes, cost, delta, self.errors, scale)

    def decayed(self, scale: Array | None) -> list[Mistake]:
        """What is wrong with the multiple of W in dW, for a gradient that has a factor else."""
        k = self.chain.decays[self.index]
        return [] if k is None else self.at(wrong_decay(self.case, k, scale), "dW")


def layer_of(case: Case, chain: Chain, index: int) -> Layer:
    """What is known of a layer, given what a chain handed down to it."""
    contexts = chain.contexts(case, index)
    right, errors = (tuple(getattr(c, name) for c in contexts) for name in ("delta", "back"))
    decay = chain.decays[index]
    dW = []
    for i, (probe, answer) in enumerate(zip(case.probes, case.answers, strict=True)):
        k = probe.l2 if decay is None else float(decay[i])
        found = answer.W[index]
        rest = found - k * probe.W[index] if k else found
        noise = 1e-13 * float(np.abs(found).max(initial=0))
        dW.append(rest if np.abs(rest).max(initial=0) > noise else np.zeros_like(rest))
    db = tuple(answer.b[index] for answer in case.answers if answer.b)
    if not all(map(usable, db)):
        db = ()  # its form is wrong, which is a finding
    sizes = case.quantities(index)
    evidence = LayerEvidence(tuple(dW), db, chain.inputs[index], sizes, case.tolerance)
    return Layer(case, chain, index, contexts, right, errors, evidence)


def wrong_decay(case: Case, k: Array, scale: Array | None) -> list[Seen]:
    """What is wrong with dW that holds W ``k`` times, (P,)."""
    l2 = np.array([probe.l2 for probe in case.probes])
    near = max(1e3 * case.tolerance, 1e-7)
    for meant in (l2, l2 if scale is None else l2 * scale):
        if np.allclose(k, meant, rtol=near, atol=near * 1e-3):
            return []
    return [named_decay(k, l2, np.array([probe.samples for probe in case.probes]))]
