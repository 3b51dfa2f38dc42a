"""Where is a gradient wrong, and why? From dW and db alone, over several probes.

First the forward pass, from the input up: where a layer has more inputs than there are samples, dW
shows which input was used, whatever delta was. Then delta, dW and db, from the output back
(``chains``). What is found is said with how sure it is; where nothing fits, only its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bpbench.network import Array
from bpbench.verify import truth
from bpbench.verify.diagnose import readings
from bpbench.verify.diagnose.catalogue import remedy
from bpbench.verify.diagnose.chains import UNKNOWN, Arrays, Case, Chain, Mistake, follow
from bpbench.verify.diagnose.evidence import aligned
from bpbench.verify.diagnose.gradients import inputs as inputs_of
from bpbench.verify.diagnose.layerwise import evidence_of, explain_layer, right_delta
from bpbench.verify.diagnose.probe import Answer, Probe, batch_of, usable
from bpbench.verify.diagnose.readings import Change
from bpbench.verify.findings import Finding

TOLERANCE = {"float64": 2e-11, "float32": 3e-5}
"""How exactly a formula must fit, as a share of the largest entry: rounding on our probes is far
smaller, and what another formula gives is far from it.
"""
COARSE = {
    "float64": ((3e-6, "float32 somewhere"), (5e-3, "float16 somewhere")),
    "float32": ((5e-3, "float16 somewhere"),),
}
ALIKE = 0.25
"""Explanations whose costs differ by less are both named."""


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
        _without_dust(probe, answer, 0.05 * tolerance)
        for probe, answer in zip(probes, answers, strict=True)
    )
    case = Case(tuple(probes), clean, tolerance, COARSE[dtype])
    with np.errstate(all="ignore"):  # wrong formulas may overflow; what is not finite fits nothing
        starts = list(_starts(case))
        if all(map(_holds_parameters, starts)):
            returned = _returned(case)
            if returned.complete:
                return returned
        chains = _explain(case, starts)
    best = chains[0]
    others = [
        chain
        for chain in chains[1:]
        if chain.cost < best.cost + ALIKE and _places(chain) != _places(best)
    ]
    return Diagnosis(
        tuple(_findings(case, best, others)), best.readings, not best.unknown, best.cost
    )


def _without_dust(probe: Probe, answer: Answer, share: float) -> Answer:
    """The answer with arrays that are zero but for rounding, a share of the truth, made zero."""
    right = truth.backpropagate(
        probe.network, probe.parameters, probe.x, probe.y, l2=probe.l2, dtype="float64"
    ).gradients

    def clean(found: Array, true: Array) -> Array:
        dust = np.abs(found).max(initial=0) < share * np.abs(true).max(initial=0)
        return np.zeros_like(found) if dust else found

    return replace(
        answer,
        W=tuple(map(clean, answer.W, right.W)),
        b=tuple(map(clean, answer.b, right.b)),
    )


def _places(chain: Chain) -> set[tuple[str, int, str]]:
    return {(m.name, m.layer, m.tensor) for m in chain.mistakes}


def _explain(case: Case, starts: Sequence[Chain]) -> list[Chain]:
    chains = follow(case, starts, explain_layer)
    if chains[0].cost > 1.35:
        bound = chains[0].cost
        wrong_output = [s for start in starts for s in _changed_output(case, start)]
        chains += follow(case, wrong_output, explain_layer, bound)
    if min(c.cost for c in chains) > 2.5:
        bound = min(c.cost for c in chains)
        chains += follow(case, list(_changed_hidden(case)), _only_factors, bound)
        chains += _changed_inputs(case, bound)
    return sorted(chains, key=lambda c: c.cost)


Local = tuple[tuple[str, str], Arrays]
"""What is wrong with a layer's input in its dW alone, and that input."""
Locals = dict[int, Local]

# ── The forward pass, from the input up ────────────────────────────────────────────────────────


def _starts(case: Case) -> Iterator[Chain]:
    """The forward passes, and the inputs of dW, that what was found allows."""
    states: list[tuple[dict[int, Change], Locals]] = [({}, {})]
    for layer in range(case.layers):
        states = [new for state in states for new in _allow(case, layer, *state)][:6]
    for changed, local in states:
        yield _start(case, changed, local)


def _start(case: Case, changed: Mapping[int, Change], local: Mapping[int, Local]) -> Chain:
    read = tuple(readings.read(probe, changed) for probe in case.probes)
    inputs, decays, mistakes = [], [], []
    for layer in range(case.layers):
        if layer in local:
            (name, say), arrays = local[layer]
            mistakes.append(Mistake(name, layer, "dW", say))
        else:
            arrays = _inputs(case, read, layer)
        inputs.append(arrays)
        decays.append(_decay(case, layer, arrays))
    mistakes += [Mistake(*wrong) for wrong in read[0].wrong]
    again = len(mistakes) - len({m.name for m in mistakes})
    return Chain(
        read, tuple(inputs), tuple(decays), len(mistakes) - 0.3 * again, tuple(mistakes[::-1])
    )


def _inputs(case: Case, read: Sequence[readings.Reading], layer: int) -> Arrays:
    return tuple(
        probe.x if layer == 0 else reading.a[layer - 1]
        for probe, reading in zip(case.probes, read, strict=True)
    )


def _allow(
    case: Case, layer: int, changed: dict[int, Change], local: Locals
) -> Iterator[tuple[dict[int, Change], Locals]]:
    """The ways to go on with a forward pass such that a layer's dW lies in its inputs' span."""
    read = [readings.read(probe, changed) for probe in case.probes]
    if not _telling(case, layer) or _spans(case, layer, _inputs(case, read, layer)):
        yield changed, local
        return
    found = False
    if layer:
        for change in _changes(case, layer - 1):
            trial = {**changed, layer - 1: change}
            retold = [readings.read(probe, trial) for probe in case.probes]
            if _spans(case, layer, _inputs(case, retold, layer)):
                found = True
                yield trial, local
    guesses = [
        list(inputs_of(probe, reading, layer))
        for probe, reading in zip(case.probes, read, strict=True)
    ]
    keys, values = aligned(guesses)
    for k, mistakes in enumerate(keys):
        arrays = tuple(v[k] for v in values)
        if mistakes and _spans(case, layer, arrays):
            found = True
            yield changed, {**local, layer: (mistakes[0], arrays)}
            break
    if not found:
        yield changed, local


def _changes(case: Case, layer: int) -> Iterator[Change]:
    network = case.probes[0].network
    square = all(p.W[layer].shape[0] == p.W[layer].shape[1] for p in case.probes)
    last = layer == case.layers - 1
    yield from readings.changes(network.activations[layer], network.bias, square, last)


def _telling(case: Case, layer: int) -> bool:
    """Whether a layer's dW tells of its inputs at all: whether some probe has fewer samples."""
    return all(usable(answer.W[layer]) for answer in case.answers) and any(
        probe.samples < probe.network.sizes[layer] for probe in case.probes
    )


def _spans(case: Case, layer: int, inputs: Sequence[Array]) -> bool:
    """Whether every dW of a layer is inputs' rows combined, and a multiple of W."""
    return all(
        _left_over(probe, answer, layer, below)[2] <= 50 * case.tolerance
        for probe, answer, below in zip(case.probes, case.answers, inputs, strict=True)
    )


def _left_over(
    probe: Probe, answer: Answer, layer: int, below: Array
) -> tuple[float, float, float]:
    """What dW holds beside its inputs' span: the multiple of W, how far that may be off, and the
    share of dW that is neither.
    """
    dW, W = answer.W[layer], probe.W[layer]
    size = float(np.abs(dW).max(initial=0))
    if below.shape[0] >= below.shape[1] or not size or not np.isfinite(below).all():
        return probe.l2, 0.0, 0.0 if np.isfinite(below).all() else np.inf
    rows = np.linalg.qr(below.T)[0]  # (n_in, m), an orthonormal basis of the samples
    left = dW - (dW @ rows) @ rows.T
    part = W - (W @ rows) @ rows.T
    k = float((left * part).sum() / (part * part).sum()) if left.size > 1 else 0.0
    rest = float(np.abs(left - k * part).max())
    return k, (rest + 1e-13 * size) / float(np.abs(part).max()), rest / size


def _decay(case: Case, layer: int, inputs: Arrays) -> Array | None:
    """The multiple of W in a layer's dW, (P,); None where it cannot be told."""
    if not all(p.samples < p.network.sizes[layer] for p in case.probes):
        return None
    if not all(usable(answer.W[layer]) for answer in case.answers):
        return None
    found = [
        _left_over(probe, answer, layer, below)
        for probe, answer, below in zip(case.probes, case.answers, inputs, strict=True)
    ]
    if any(miss > 50 * case.tolerance for _, _, miss in found):
        return None
    l2 = case.probes[0].l2
    if l2 and any(off > 1e-3 * max(l2, abs(k)) for k, off, _ in found):
        return None
    return np.array([k if abs(k) > 30 * off else 0.0 for k, off, _ in found])


def _changed_output(case: Case, start: Chain) -> Iterator[Chain]:
    """The start with another forward step of the output layer."""
    last = case.layers - 1
    names = {wrong[1]: wrong for wrong in start.readings[0].wrong}
    for change in _changes(case, last):
        read = tuple(
            _with_last(probe, reading, change)
            for probe, reading in zip(case.probes, start.readings, strict=True)
        )
        if last in names or not all(np.isfinite(reading.a[-1]).all() for reading in read):
            continue
        mistake = Mistake(change.mistake, last, change.tensor, change.say)
        yield replace(
            start, readings=read, cost=start.cost + 1, mistakes=(mistake, *start.mistakes)
        )


def _with_last(probe: Probe, reading: readings.Reading, change: Change) -> readings.Reading:
    """A reading with the output layer's step changed."""
    below = reading.a[-2] if len(reading.a) > 1 else probe.x
    z, a, name = readings.step(probe, len(reading.a) - 1, below, change)
    return replace(
        reading,
        z=(*reading.z[:-1], z),
        a=(*reading.a[:-1], a),
        functions=(*reading.functions[:-1], name),
    )


def _changed_hidden(case: Case) -> Iterator[Chain]:
    """Forward passes with one kind of change, in one hidden layer or in all."""
    hidden = range(case.layers - 1)
    for layer in hidden:
        for change in _changes(case, layer):
            yield _start(case, {layer: change}, {})
    if len(hidden) > 1:
        for change in _changes(case, 0):
            if not change.transpose:
                yield _start(case, dict.fromkeys(hidden, change), {})
    network = case.probes[0].network
    if network.bias:
        for change in _changes(case, case.layers - 1):
            if change.tensor == "z" and change.function is None and not change.transpose:
                yield _start(case, dict.fromkeys(range(case.layers), change), {})


def _changed_inputs(case: Case, bound: float) -> Iterator[Chain]:
    """Chains for a function that computes with inputs of its own making."""
    for say, change in INPUTS.items():
        probes = tuple(replace(probe, x=change(probe.x)) for probe in case.probes)
        moved = replace(case, probes=probes)
        mistake = Mistake("inputs changed", 0, "x", say)
        for start in _starts(moved):
            begun = replace(start, cost=start.cost + 1, mistakes=(mistake, *start.mistakes))
            yield from follow(moved, [begun], _only_factors, bound)


INPUTS: Mapping[str, Callable[[Array], Array]] = {
    "x is divided by 255": lambda x: x / 255,
    "x is divided by its largest entry": lambda x: x / x.max(),
    "x is divided by its largest size": lambda x: x / np.abs(x).max(),
    "x is centred over the samples": lambda x: x - x.mean(axis=0),
    "x is centred over everything": lambda x: x - x.mean(),
    "x is standardised over the samples": lambda x: (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-300),
    "x is standardised over everything": lambda x: (x - x.mean()) / (x.std() + 1e-300),
    "each sample of x has length 1": lambda x: x / np.linalg.norm(x, axis=1, keepdims=True),
    "x has lost its signs": np.abs,
    "the features of x come in reverse order": lambda x: x[:, ::-1].copy(),
}
"""What people do to x on the way in."""


def _only_factors(case: Case, chain: Chain, layer: int) -> list[Chain]:
    """``explain_layer`` for a guessed forward pass: given up where neither dW nor db of the output
    is right but for a factor, or where something stays unknown.
    """
    if layer == case.layers - 1 and all(usable(a.W[layer]) for a in case.answers):
        right, _ = right_delta(case, chain, layer)
        evidence = evidence_of(case, chain, layer)
        if evidence.proportional(right) is None and not any(evidence.exact(right)):
            return []
    return [longer for longer in explain_layer(case, chain, layer) if not longer.unknown]


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
    best = _explain(moved, list(_starts(moved)))[0]
    kept = tuple(m for m in best.mistakes if m.name != "learning rate folded in")
    say = "the parameters after a step are returned, not the gradient"
    mistake = Mistake("parameters returned, not gradients", case.layers - 1, "dW", say)
    chain = replace(best, mistakes=(mistake, *kept))
    return Diagnosis(
        tuple(_findings(moved, chain, [])), chain.readings, not chain.unknown, chain.cost + 1
    )


# ── From mistakes to sentences ─────────────────────────────────────────────────────────────────


def _findings(case: Case, best: Chain, others: Sequence[Chain]) -> Iterator[Finding]:
    theirs = [_places(chain) for chain in others]
    seen: set[tuple[str, int, str]] = set()
    for mistake in best.mistakes:
        place = (mistake.name, mistake.layer, mistake.tensor)
        if place in seen:
            continue
        seen.add(place)
        sure = mistake.name != UNKNOWN and all(place in other for other in theirs)
        sure = sure and not mistake.name.startswith("float")
        yield Finding(
            mistake.name, mistake.layer, mistake.tensor, _say(case, best, mistake, sure, others),
            sure,
        )  # fmt: skip


def _say(case: Case, chain: Chain, mistake: Mistake, sure: bool, others: Sequence[Chain]) -> str:
    last = case.layers - 1
    where = f"layer {mistake.layer}" + (" (the output)" if mistake.layer == last and last else "")
    place = f"{mistake.tensor}[{mistake.layer}]"
    if mistake.say.startswith("it is "):
        text = f"{where}: {place} {mistake.say[3:]}"
        text += (
            ", and every gradient with it"
            if mistake.layer == last > 0 and mistake.tensor == "delta"
            else ""
        )
    else:
        text = f"{where}, {place}: {mistake.say}"
    advice = remedy(mistake.name)
    if mistake.name == UNKNOWN:
        return f"{text}; nothing known explains it{_ratios(case, chain, mistake)}"
    if mistake.name.startswith("float"):
        return f"{text}: {advice}. Likely, not certain"
    text += f". {advice[0].upper()}{advice[1:]}" if advice else ""
    if sure:
        return f"{text}. Certain: it gives these very numbers on {batch_of(case.probes)}"
    alternatives = {
        f"{m.name} ({m.say})"
        for other in others
        for m in other.mistakes
        if (m.name, m.layer, m.tensor) not in _places(chain)
    }
    return f"{text}. Possible; as possible: {'; or '.join(sorted(alternatives))}"


def _ratios(case: Case, chain: Chain, mistake: Mistake) -> str:
    """How what was found compares with what is right, entry by entry."""
    layer = mistake.layer
    found, right = [], []
    for i, answer in enumerate(case.answers):
        if not usable(answer.W[layer]):
            return ""
        delta = _expected(case, chain, layer, i)
        below = chain.inputs[layer][i]
        if mistake.tensor == "db":
            found.append(answer.b[layer].ravel())
            right.append(delta.sum(axis=0))
        else:
            found.append(answer.W[layer].ravel())
            right.append((delta.T @ below + case.probes[i].l2 * case.probes[i].W[layer]).ravel())
    f, r = np.concatenate(found), np.concatenate(right)
    clear = np.abs(r) > 1e-9 * np.abs(r).max(initial=0)
    if not clear.any():
        return ""
    low, quarter, middle, three, high = np.quantile(f[clear] / r[clear], (0, 0.25, 0.5, 0.75, 1))
    return (
        f". Found / right, entry by entry: from {low:.3g} to {high:.3g}, half of them between "
        f"{quarter:.3g} and {three:.3g}, median {middle:.3g}"
    )


def _expected(case: Case, chain: Chain, layer: int, i: int) -> Array:
    return right_delta(case, chain, layer)[0][i]
