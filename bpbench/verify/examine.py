"""Is what someone's function answers right, and what explains it where it is not?

A family is a few probes of one kind: the caller's own sizes, sizes all different, equal neighbours,
or a special place where some mistakes show that show nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpbench.backend import Backpropagation, Gradients
from bpbench.network import MLP
from bpbench.verify.calling import Caller, Reply, each, true_gradients
from bpbench.verify.comparison import name_of
from bpbench.verify.diagnose import Diagnosis, diagnose
from bpbench.verify.diagnose import probe as probes
from bpbench.verify.diagnose.losses import judge_losses
from bpbench.verify.diagnose.probe import Answer, Probe, usable
from bpbench.verify.diagnose.readings import Reading, right
from bpbench.verify.findings import RIGHT, SIGMAS, WRONG, Finding, Report, TensorError
from bpbench.verify.verdict import judge

DIGITS_LOST = {"float64": 1e-13, "float32": 3e-5}
"""A deviation below this share of the largest entry is a matter of accuracy, not of a formula."""

# ── Asking ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Family:
    """Probes of one kind, what came of them, and the verdicts."""

    replies: tuple[Reply, ...]
    reports: tuple[Report, ...]

    @property
    def ran(self) -> bool:
        """Whether every probe gave gradients that can be looked at."""
        return all(reply.answer is not None for reply in self.replies)

    @property
    def whole(self) -> bool:
        """Whether every gradient of every probe can be looked at."""
        return all(reply.whole for reply in self.replies)

    @property
    def wrong(self) -> bool:
        """Whether some gradient is wrong, or has a wrong form."""
        return any(report.verdict == WRONG for report in self.reports)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """How the function misbehaved, each thing once."""
        return once(problem for reply in self.replies for problem in reply.problems)

    @property
    def probes(self) -> list[Probe]:
        """What was asked."""
        return [reply.probe for reply in self.replies]

    @property
    def answers(self) -> list[Answer]:
        """The gradients that can be looked at."""
        return [reply.answer for reply in self.replies if reply.answer is not None]

    @property
    def losses(self) -> list[float] | None:
        """The losses that came with the gradients, if they did."""
        losses = [answer.loss for answer in self.answers if answer.loss is not None]
        return losses if losses and len(losses) == len(self.replies) else None


def ask(caller: Caller, family: Sequence[Probe]) -> Family:
    """Ask a family of probes and judge the answers; the first that fails ends it."""
    replies, reports = [], []
    for probe in family:
        reply = caller.ask(probe)
        replies.append(reply)
        reports.append(_judged(reply, caller.dtype))
        if reply.answer is None:
            break
    return Family(tuple(replies), tuple(reports))


def _judged(reply: Reply, dtype: str) -> Report:
    """The verdict on one answer; arrays that cannot be looked at make it wrong."""
    probe, answer = reply.probe, reply.answer
    subject = str(probe)
    if answer is None:
        return Report(WRONG, subject)
    if reply.whole:
        whole = answer
    else:  # the truth stands in for what cannot be looked at
        whole = each(lambda g, t: g if usable(g) else t, answer, true_gradients(probe))
    cast = each(lambda g: np.asarray(g, dtype), whole)
    nothing: Any = None
    found = Backpropagation(nothing, nothing, nothing, nothing, Gradients(cast.W, cast.b), nothing)
    given = (probe.network, probe.parameters, probe.x, probe.y)
    # a person's formulas are meant to be exact
    report = judge(*given, found, dtype, l2=probe.l2, reduced=False)
    if not reply.whole:
        tensors = tuple(_own_error(tensor, answer) for tensor in report.tensors)
        return replace(report, verdict=WRONG, tensors=tensors)
    if report.verdict == WRONG and max(t.error for t in report.tensors) < DIGITS_LOST[dtype]:
        return replace(report, verdict=RIGHT, findings=())
    return report


def _own_error(tensor: TensorError, answer: Answer) -> TensorError:
    """The error of a tensor, or none where the truth stood in for it."""
    found = (answer.W if tensor.name == "dW" else answer.b)[tensor.layer or 0]
    return tensor if usable(found) else replace(tensor, error=math.nan, sigmas=math.nan)


def once(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings without repetitions of one mistake at one place."""
    kept: dict[tuple[str, int | None, str | None], Finding] = {}
    for finding in findings:
        kept.setdefault((finding.mistake, finding.layer, finding.tensor), finding)
    return tuple(kept.values())


# ── Explaining ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Explained:
    """What explains a family of answers.

    Attributes:
        findings: from the output back.
        complete: whether nothing is left unexplained.
        loss: what is wrong with the losses that came too, or None.
    """

    findings: tuple[Finding, ...]
    complete: bool
    loss: Finding | None


def explain(family: Family, dtype: str, exact: bool = True) -> Explained:
    """What explains a family's gradients and losses.

    Args:
        dtype: how exactly formulas must fit.
        exact: whether an error that no formula explains is to be told of, however small.
    """
    if not family.wrong:
        return Explained((), True, _loss(family, None, dtype))
    told = _with_few_samples(family)
    diagnosis, findings = _diagnosed(told, dtype)
    if exact and not findings:
        findings = _too_small(family)
    loss = _loss(told, diagnosis.readings, dtype)
    return Explained(tuple(findings), diagnosis.complete, loss)


def _loss(family: Family, forward: Sequence[Reading] | None, dtype: str) -> Finding | None:
    """What is wrong with the losses for these forward passes, or for the right ones."""
    if family.losses is None:
        return None
    read = [right(probe) for probe in family.probes] if forward is None else forward
    return judge_losses(family.probes, read, family.losses, 1e-9 if dtype == "float64" else 1e-4)


def _with_few_samples(family: Family) -> Family:
    """The part from which the delta that was used can be told, if something is wrong in it."""
    few = [
        (reply, report)
        for reply, report in zip(family.replies, family.reports, strict=True)
        if reply.probe.samples <= min(reply.probe.network.sizes[:-1])
    ]
    part = Family(*zip(*few, strict=True)) if len(few) > 1 else family
    return part if part.wrong else family


def _diagnosed(family: Family, dtype: str) -> tuple[Diagnosis, list[Finding]]:
    """The diagnosis, or the one that allows for lost precision where that explains more."""
    exact = diagnose(family.probes, family.answers, dtype)
    if dtype == "float64" and not exact.complete:
        coarse = diagnose(family.probes, family.answers, "float32")
        if coarse.complete and coarse.cost + 1 < exact.cost:
            say = (
                "besides, everything is off by as much as rounding to float32 explains: look for a "
                'cast, or check with dtype="float32"'
            )
            why = "only the size of the error tells of it"
            lost = Finding(FLOAT32, None, None, say, "likely", why)
            return coarse, [*coarse.findings, lost]
    return exact, list(exact.findings)


FLOAT32 = "float32 somewhere"


def _too_small(family: Family) -> list[Finding]:
    """Where an error is that no formula explains, for it is too small to tell anything of."""
    for report in family.reports:
        wrong = [t for t in report.tensors if t.sigmas > SIGMAS]
        if report.verdict == WRONG and wrong:
            worst = max(wrong, key=lambda t: (t.layer or 0, t.name == "dW"))
            say = (
                f"{worst.place} is off by {worst.error:.1e} of its largest entry, "
                f"{worst.sigmas:.2g} standard deviations of rounding; nothing known explains it"
            )
            return [Finding("unknown", worst.layer, worst.name, say, "unexplained")]
    return []


def ignored(caller: Caller, reply: Reply) -> list[Finding]:
    """The arguments on which what the function returns does not depend."""
    found = []
    probe = reply.probe
    rng = np.random.default_rng(0)
    y = probes.expected_outputs(probe.network, probe.samples, rng)
    x = [replace(probe, x=probe.x + s * rng.standard_normal(probe.x.shape)) for s in DISTANCES]
    other_y = replace(probe, y=1 - y if np.allclose(y, probe.y) else y)
    changed: list[tuple[str, int | None, list[Probe]]] = [("x", None, x), ("y", None, [other_y])]
    for layer in range(len(probe.W)):
        for kind in ("W", "b") if probe.b else ("W",):
            moved = [_moved(probe, kind, layer, step, rng) for step in DISTANCES]
            changed.append((kind, layer, moved))
    for name, at, others in changed:
        if all(reply.same_as(caller.ask(other)) for other in others):
            say = (
                f"the result does not depend on {name_of((name, at))}: the function uses an "
                "array of its own, or none. Use the argument"
            )
            found.append(Finding("arguments ignored", at, name, say))
    return found


DISTANCES = (0.1, 1.0, 30.0)
"""How far arguments are moved: what is rounded, or the largest of several, changes with large steps
only.
"""


def _moved(probe: Probe, kind: str, layer: int, step: float, rng: np.random.Generator) -> Probe:
    """The probe with W or b of one layer changed."""
    arrays = list(getattr(probe, kind))
    arrays[layer] = arrays[layer] + step * rng.standard_normal(arrays[layer].shape)
    moved: Any = {kind: tuple(arrays)}
    return replace(probe, **moved)


# ── Special places ─────────────────────────────────────────────────────────────────────────────


def special(caller: Caller, family: Family, network: MLP) -> list[Finding]:
    """What shows only in special places: exact zeros, saturated outputs, large gradients."""
    found: list[Finding] = []
    if {"relu", "leaky_relu"} & set(network.activations):
        zero = ask(caller, [probes.at_zero(probe) for probe in family.probes])
        found += _only_there(zero, family, caller.dtype, "where a unit is exactly 0", ("z >= 0",))
    if not family.wrong and not caller.layout.single:
        squares = (ask(caller, pair) for pair in probes.square(family.probes[0]))
        wrong = next((pair for pair in squares if pair.wrong), None)
        if wrong is not None:
            count = wrong.replies[0].probe.samples
            where = f"where there are as many samples as a layer has units, {count}"
            found += _only_there(wrong, family, caller.dtype, where, ())
    large = ask(caller, [probes.large(probe) for probe in family.probes])
    if not family.wrong or _cut_off(large):
        cut = ("clipping", "gradient normalised")
        there = _only_there(large, family, caller.dtype, "where the gradient is large", cut)
        if _cut_off(large):  # a gradient that is cut everywhere looks as if made of signs
            there = [f if f.mistake in cut else _doubted(f) for f in there]
        found += there
    if network.loss != "half_squared_error":
        edge = ask(caller, [probes.saturated(probe) for probe in family.probes])
        found += _saturation(edge, network, family.wrong)
    return found


def _only_there(
    special: Family, family: Family, dtype: str, where: str, names: Sequence[str]
) -> list[Finding]:
    """What is wrong in a special place: what shows only there, or anything if all is right else."""
    if not special.ran or (special.whole and not _far(special)):
        return []
    findings = explain(special, dtype).findings
    if family.wrong:
        return [finding for finding in findings if finding.mistake in names]
    return [f if f.mistake in names else replace(f, where=where) for f in findings]


def _doubted(finding: Finding) -> Finding:
    """The same finding beside another possible cause, where it has one at all."""
    if finding.certainty == "unexplained":
        return finding
    return replace(finding, certainty="possible", why="", alternatives=("clipping",))


def _cut_off(family: Family) -> bool:
    """Whether several entries of some gradient have the very same size, and none a larger one."""
    sizes = [np.abs(array) for answer in family.answers for array in (*answer.W, *answer.b)]
    return any((size == size.max(initial=0)).sum() > 1 for size in sizes if size.any())


def _saturation(family: Family, network: MLP, known: bool) -> list[Finding]:
    """What happens where an output's probability is exactly 0 or 1.

    Args:
        known: whether the gradients are wrong elsewhere too, so that only nan is news.
    """
    last = network.layers - 1
    broken = any(p.mistake in ("not finite", "raises") for p in family.problems)
    if broken:
        what = "gradients are nan"
    elif family.ran and _far(family) and not known:
        what = "gradients are wrong"
    elif not all(map(np.isfinite, family.losses or ())):
        what = "the loss is nan or infinite (its gradients are right)"
    else:
        return []
    say = (
        f"layer {last} (the output): where a probability is exactly 0 or 1, {what}; this shows "
        f"nowhere else. {_stable(network, broken)}"
    )
    tensor = "loss" if what.startswith("the loss") else "delta"
    return [Finding(LOG_OF_SATURATED, last, tensor, say)]


LOG_OF_SATURATED = "log of a saturated probability"


def _stable(network: MLP, broken: bool) -> str:
    """What to compute instead of a probability's logarithm, or of a softmax that overflows."""
    if network.output == "softmax" and broken:
        return (
            "Take the largest z of each sample from z before exp, and a - y for delta, which "
            "divides by nothing"
        )
    if network.output == "softmax":
        return "Use log-softmax, or the logits' form, whose delta is a - y"
    return "Use the logits' form, whose delta is a - y"


def _far(family: Family) -> bool:
    """Whether a gradient is wrong by more than any loss of digits."""
    return any(
        t.error > 1e-3 and t.sigmas > SIGMAS for report in family.reports for t in report.tensors
    )
