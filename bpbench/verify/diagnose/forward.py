"""Which forward passes does what was found allow? From the input up.

Where a layer has more inputs than there are samples, dW shows which input was used, whatever delta
was; other forward passes are tried where the right one leaves something unexplained.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose import readings
from bpbench.verify.diagnose.chains import UNKNOWN, Case, Chain, Mistake
from bpbench.verify.diagnose.evidence import Arrays, aligned
from bpbench.verify.diagnose.guesses import inputs
from bpbench.verify.diagnose.layer import layer_of
from bpbench.verify.diagnose.mistakes import forward
from bpbench.verify.diagnose.mistakes.context import Context
from bpbench.verify.diagnose.mistakes.row import Seen
from bpbench.verify.diagnose.probe import Answer, Probe, usable
from bpbench.verify.diagnose.readings import Change

Local = tuple[Seen, Arrays]
"""What is wrong with a layer's input in its dW alone, and that input."""
Locals = dict[int, Local]


def starts(case: Case) -> Iterator[Chain]:
    """The forward passes, and the inputs of dW, that what was found allows."""
    states: list[tuple[dict[int, Change], Locals]] = [({}, {})]
    for layer in range(case.layers):
        states = [new for state in states for new in _allow(case, layer, *state)][:6]
    for changed, local in states:
        yield _start(case, changed, local)


def _start(case: Case, changed: Mapping[int, Change], local: Mapping[int, Local]) -> Chain:
    """A chain that explains nothing yet; the same mistake in several layers is one."""
    read = tuple(readings.read(probe, changed) for probe in case.probes)
    used, decays, mistakes = [], [], []
    for layer in range(case.layers):
        arrays = _inputs(case, read, layer)
        if layer in local:
            (name, say), arrays = local[layer]
            mistakes.append(Mistake(name, layer, "dW", say))
        used.append(arrays)
        decays.append(_decay(case, layer, arrays))
    mistakes += [Mistake(*wrong) for wrong in read[0].wrong]
    cost = len({mistake.name for mistake in mistakes})
    return Chain(read, tuple(used), tuple(decays), cost, tuple(mistakes[::-1]))


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
    tried = [
        inputs(Context(probe, reading, layer))
        for probe, reading in zip(case.probes, read, strict=True)
    ]
    keys, values = aligned(tried)
    for k, mistakes in enumerate(keys):
        arrays = tuple(v[k] for v in values)
        if mistakes and _spans(case, layer, arrays):
            found = True
            yield changed, {**local, layer: (mistakes[0], arrays)}
            break
    if not found:
        yield changed, local


def lost_inputs(case: Case, chain: Chain) -> int | None:
    """The lowest layer whose dW was made with no input that is known, by a function whose output is
    not explained either: its forward pass goes wrong below that layer.
    """
    last = case.layers - 1
    unknown = {m.tensor for m in chain.mistakes if m.name == UNKNOWN and m.layer == last}
    if not unknown or (case.probes[0].b and unknown == {"dW"}):  # db tells that delta is right
        return None
    return next(
        (
            layer
            for layer in range(case.layers)
            if _telling(case, layer) and not _spans(case, layer, chain.inputs[layer])
        ),
        None,
    )


def _changes(case: Case, layer: int) -> Iterator[Change]:
    network = case.probes[0].network
    square = all(p.W[layer].shape[0] == p.W[layer].shape[1] for p in case.probes)
    last = layer == case.layers - 1
    return forward.changes(forward.Step(network.activations[layer], network.bias, square, last))


def _telling(case: Case, layer: int) -> bool:
    """Whether a layer's dW tells of its inputs at all: whether some probe has fewer samples."""
    return case.usable(layer) and any(
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
    if not part.any():  # W of nothing but zeros tells of no decay
        return probe.l2, 0.0, float(np.abs(left).max()) / size
    k = float((left * part).sum() / (part * part).sum()) if left.size > 1 else 0.0
    rest = float(np.abs(left - k * part).max())
    return k, (rest + 1e-13 * size) / float(np.abs(part).max()), rest / size


def _decay(case: Case, layer: int, inputs: Arrays) -> Array | None:
    """The multiple of W in a layer's dW, (P,); None where it cannot be told."""
    if not all(p.samples < p.network.sizes[layer] for p in case.probes):
        return None
    if not case.usable(layer):
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


def changed_output(case: Case, start: Chain) -> Iterator[Chain]:
    """The start with another forward step of the output layer."""
    last = case.layers - 1
    names = {wrong[1]: wrong for wrong in start.readings[0].wrong}
    for change in [*_changes(case, last), *_scaled(case, start)]:
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


def _scaled(case: Case, start: Chain) -> Iterator[Change]:
    """z of an output with a cross-entropy, times the factor that delta = (a - y) / m tells of."""
    last = case.layers - 1
    if not _telling(case, last):
        return
    layer = layer_of(case, start, last)
    implied, _ = layer.evidence.implied()
    if implied is None or layer.contexts[0].squared:
        return
    factors = []
    for c, delta in zip(layer.contexts, implied, strict=True):
        a, z = c.y + c.m * delta, c.z
        if c.probe.network.output == "softmax":
            found, z = np.log(a), z - z.mean(axis=1, keepdims=True)
            found = found - found.mean(axis=1, keepdims=True)
        else:
            found = np.log(a) - np.log1p(-a)
        factors.append(float((found * z).sum() / (z * z).sum()))
    k = factors[0]
    if np.isfinite(factors).all() and np.allclose(factors, k, rtol=1e-7) and abs(k - 1) > 1e-6:
        say = f"{case.probes[0].network.output} is given {k:.6g} z"
        yield replace(forward.scaling("z", k), say=say)


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


def changed_hidden(case: Case) -> Iterator[Chain]:
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


def scaled_hidden(case: Case) -> Iterator[Chain]:
    """Forward passes in which a, z or W of one layer or of all has the factor that the output's db
    tells of.
    """
    hidden, last = range(case.layers - 1), case.layers - 1
    groups = [(layer,) for layer in hidden] + ([tuple(hidden)] if len(hidden) > 1 else [])
    biased = case.probes[0].network.bias  # without biases z tells the same as W
    asked = [*itertools.product(groups, "azW" if biased else "az")]
    asked += [(layers, "W") for layers in ((last,), tuple(range(case.layers))) if biased]
    for layers, what in asked:
        k = _fitted(case, layers, what)
        if k is not None:
            yield _start(case, dict.fromkeys(layers, forward.scaling(what, k)), {})


def _fitted(case: Case, layers: Sequence[int], what: str) -> float | None:
    """The factor with which the right formulas give the output's db in every probe; None where
    there is none, or no db.
    """
    last = case.layers - 1
    found = [answer.b[last] for answer in case.answers if answer.b]
    if not found or not all(map(usable, found)):
        return None

    def miss(k: float) -> Array:
        changed = dict.fromkeys(layers, forward.scaling(what, k))
        read = [readings.read(probe, changed) for probe in case.probes]
        pairs = zip(case.probes, read, strict=True)
        sums = [Context(probe, reading, last).db for probe, reading in pairs]
        return np.concatenate([s - f for s, f in zip(sums, found, strict=True)])

    best = min((0.1, 0.3, 0.6, 0.9, 1.2, 1.7, 3.0), key=lambda k: float((miss(k) ** 2).sum()))
    for _ in range(12):  # Gauss and Newton's steps
        left = miss(best)
        slope = (miss(best * (1 + 1e-6)) - left) / (best * 1e-6)
        best -= float(slope @ left) / max(float(slope @ slope), 1e-300)
    size = max(float(np.abs(f).max(initial=0)) for f in found)
    if not np.abs(miss(best)).max() <= 1e2 * case.tolerance * size or abs(best - 1) < 1e-6:
        return None
    return float(f"{best:.9g}")
