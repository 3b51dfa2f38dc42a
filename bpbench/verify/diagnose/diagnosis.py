"""Where is a gradient wrong, and why? From dW and db alone, over several probes.

First the forward pass, from the input up: where a layer has more inputs than there are samples, dW
shows which input was used, whatever delta was. Then delta, dW and db, from the output back
(``search``). What is found is said with how sure it is; where nothing fits, only its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bpbench.network import Array
from bpbench.verify import truth
from bpbench.verify.diagnose import readings
from bpbench.verify.diagnose.chains import Case, Chain, Mistake
from bpbench.verify.diagnose.costs import ALIKE
from bpbench.verify.diagnose.forward import lost_inputs, starts
from bpbench.verify.diagnose.losses import judge_losses
from bpbench.verify.diagnose.mistakes.arrays import FLOAT16, FLOAT32
from bpbench.verify.diagnose.mistakes.factors import STEP
from bpbench.verify.diagnose.mistakes.row import kind
from bpbench.verify.diagnose.probe import Answer, Probe
from bpbench.verify.diagnose.search import explain
from bpbench.verify.diagnose.sentences import findings, forward_lost, places
from bpbench.verify.findings import Finding

TOLERANCE = {"float64": 2e-11, "float32": 3e-5}
"""How exactly a formula must fit, as a share of the largest entry: rounding on our probes is far
smaller, and what another formula gives is far from it.
"""
COARSE = {
    "float64": ((3e-6, FLOAT32.name), (5e-3, FLOAT16.name)),
    "float32": ((5e-3, FLOAT16.name),),
}
RETURNED = kind(
    "parameters returned, not gradients", "return the gradient, not the updated parameters"
)


@dataclass(frozen=True)
class Diagnosis:
    """What explains the gradients that were found.

    Attributes:
        findings: from the output back.
        readings: the forward pass that was taken, for each probe.
        complete: whether everything is explained.
    """

    findings: tuple[Finding, ...]
    readings: tuple[readings.Reading, ...]
    complete: bool
    cost: float


def diagnose(
    probes: Sequence[Probe], answers: Sequence[Answer], dtype: str = "float64"
) -> Diagnosis:
    """Find the fewest mistakes that explain the answers.

    Args:
        probes: two or more, of one depth, better of different sizes and numbers of samples.
        answers: finite gradients of the right shapes, one for each probe.
        dtype: what was claimed.

    Returns:
        findings from the output back, none where nothing is wrong. Where several explanations fit
        equally well, the others are named in the finding and none is certain.
    """
    tolerance = TOLERANCE[dtype]
    clean = tuple(
        _without_rounding_noise(probe, answer, 0.05 * tolerance)
        for probe, answer in zip(probes, answers, strict=True)
    )
    rounding_noise = frozenset(
        layer
        for layer in range(len(answers[0].b))
        if any(
            a.b[layer].any() and not c.b[layer].any() for a, c in zip(answers, clean, strict=True)
        )
    )
    case = Case(tuple(probes), clean, tolerance, COARSE[dtype], rounding_noise)
    with np.errstate(all="ignore"):  # wrong formulas may overflow; what is not finite fits nothing
        begun = list(starts(case))
        if all(map(_holds_parameters, begun)):
            returned = _returned(case)
            if returned.complete:
                return returned
        chains = _with_right_loss(case, explain(case, begun))
    best = chains[0]
    lost = lost_inputs(case, best)
    if lost is not None:
        return Diagnosis((forward_lost(lost),), best.readings, False, best.cost)
    others = [
        chain
        for chain in chains[1:]
        if chain.cost < best.cost + ALIKE and places(chain) != places(best)
    ]
    return Diagnosis(
        tuple(findings(case, best, others)), best.readings, not best.unknown, best.cost
    )


def _without_rounding_noise(probe: Probe, answer: Answer, share: float) -> Answer:
    """The answer with arrays that are zero but for rounding, a share of the truth, made zero."""
    right = truth.backpropagate(
        probe.network, probe.parameters, probe.x, probe.y, l2=probe.l2, dtype="float64"
    ).gradients

    def clean(found: Array, true: Array) -> Array:
        noise = np.abs(found).max(initial=0) < share * np.abs(true).max(initial=0)
        return np.zeros_like(found) if noise else found

    return replace(
        answer,
        W=tuple(map(clean, answer.W, right.W)),
        b=tuple(map(clean, answer.b, right.b)),
    )


def _with_right_loss(case: Case, chains: list[Chain]) -> list[Chain]:
    """The likeliest chains that explain the losses too; all, if none of them does."""
    losses = [answer.loss for answer in case.answers if answer.loss is not None]
    if len(losses) < len(case.probes) or not np.isfinite(losses).all():
        return chains

    def explains(chain: Chain) -> bool:
        return judge_losses(case.probes, chain.readings, losses, 1e3 * case.tolerance) is None

    alike = [chain for chain in chains if chain.cost < chains[0].cost + ALIKE]
    return [chain for chain in alike if explains(chain)] or chains


# ── The step, or the parameters after it, returned for the gradient ────────────────────────────


def _holds_parameters(start: Chain) -> bool:
    """Whether dW holds W itself, wherever that can be told."""
    told = [k for k in start.decays if k is not None]
    return bool(told) and all(np.allclose(k, 1, rtol=1e-6) for k in told)


def _returned(case: Case) -> Diagnosis:
    """The diagnosis of functions that return the parameters after a step."""
    answers = tuple(
        replace(
            answer,
            W=tuple(w - g for w, g in zip(probe.W, answer.W, strict=True)),
            b=tuple(v - g for v, g in zip(probe.b, answer.b, strict=True)),
        )
        for probe, answer in zip(case.probes, case.answers, strict=True)
    )
    moved = replace(case, answers=answers)
    best = explain(moved, list(starts(moved)))[0]
    kept = tuple(m for m in best.mistakes if m.name != STEP.name)
    say = "the parameters after a step are returned, not the gradient"
    mistake = Mistake(RETURNED.name, case.layers - 1, "dW", say)
    chain = replace(best, mistakes=(mistake, *kept))
    return Diagnosis(
        tuple(findings(moved, chain, [])), chain.readings, not chain.unknown, chain.cost + 1
    )
