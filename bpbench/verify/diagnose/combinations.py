"""Is a delta a sum of a few known terms, with weights that are nobody's guess?

Some mistakes have a number in them that cannot be known beforehand: a learning rate, an epsilon,
the coefficients of a wrong derivative. Their terms are fitted together; the same weights must
explain every probe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.chains import Arrays, Case, Chain, Mistake
from bpbench.verify.diagnose.evidence import LayerEvidence
from bpbench.verify.diagnose.output_deltas import loss_slope, output_deltas, times_slope
from bpbench.verify.diagnose.probe import Probe, usable
from bpbench.verify.diagnose.readings import Reading


class Terms(NamedTuple):
    """The terms of a sum for one mistake.

    Attributes:
        columns: (m, n) arrays, for each probe.
        read: the weights -> what they say; None where they are not this mistake.
        shared: how many of the weights, from the first, must be the same in every probe; all
            where None.
    """

    mistake: str
    columns: list[list[Array]]
    read: Callable[[Array], str | None]
    shared: int | None = None


def combinations(
    case: Case,
    chain: Chain,
    layer: int,
    evidence: LayerEvidence,
    right: Arrays,
    errors: Arrays,
    decayed: Sequence[Mistake],
) -> list[Chain]:
    """The chain with ``layer`` explained by a sum, in every way that fits.

    Args:
        right, errors: the right delta, and what f' multiplies in it.
        decayed: what is wrong with the L2 term besides.
    """
    found: list[Chain] = []
    if evidence.proportional(right) is not None:
        return found  # a factor, not a sum
    last = layer == case.layers - 1
    kinds = _output(case, chain, evidence) if last else _hidden(case, chain, layer)
    for terms in [*kinds, *_slopes(case, chain, layer, errors)]:
        weights, explained = evidence.combined(terms.columns)
        if not explained:
            continue
        mean = np.mean(weights, axis=0)
        size = float(np.abs(mean).max())
        if np.abs(np.array(weights) - mean)[:, : terms.shared].max() > 1e-5 * size:
            continue
        say = terms.read(mean)
        if say is None:
            continue
        deltas = tuple(
            np.tensordot(w, np.stack(columns), axes=1)
            for w, columns in zip(weights, terms.columns, strict=True)
        )
        mistake = Mistake(terms.mistake, layer, "delta", say)
        mistakes = [mistake, *decayed]
        found.append(chain.add(layer, mistakes, 1.4 + len(decayed), deltas, errors))
    return found


def _each(
    case: Case, chain: Chain, columns: Callable[[int, Probe, Reading], list[Array]]
) -> list[list[Array]]:
    with np.errstate(all="ignore"):
        return [
            columns(i, probe, reading)
            for i, (probe, reading) in enumerate(zip(case.probes, chain.readings, strict=True))
        ]


# ── A hidden layer: the weights that were used on the way back ─────────────────────────────────


def _hidden(case: Case, chain: Chain, layer: int) -> Iterator[Terms]:
    def updated(i: int, probe: Probe, reading: Reading) -> list[Array]:
        delta = chain.deltas[layer + 1][i]
        slope = reading.slope(layer)
        assert slope is not None
        return [
            (delta @ probe.W[layer + 1]) * slope,
            (delta @ case.answers[i].W[layer + 1]) * slope,
        ]

    def read(weights: Array) -> str | None:
        if abs(weights[0] - 1) > 1e-5:
            return None
        step = -weights[1]
        return (
            f"W[{layer + 1}] had already been moved by {step:.4g} times its gradient when delta "
            "came back through it"
        )

    def updated_by_sample(i: int, probe: Probe, reading: Reading) -> list[Array]:
        delta = chain.deltas[layer + 1][i]
        slope = reading.slope(layer)
        assert slope is not None
        moved = probe.samples * (delta * delta).sum(axis=1, keepdims=True) * reading.a[layer]
        return [(delta @ probe.W[layer + 1]) * slope, moved * slope]

    yield Terms("W already updated", _each(case, chain, updated_by_sample), read)
    if all(usable(answer.W[layer + 1]) for answer in case.answers):
        yield Terms("W already updated", _each(case, chain, updated), read)


# ── The output: labels and epsilons ────────────────────────────────────────────────────────────


def _output(case: Case, chain: Chain, evidence: LayerEvidence) -> Iterator[Terms]:
    squared = case.probes[0].network.loss == "half_squared_error"

    def labels(i: int, probe: Probe, reading: Reading) -> list[Array]:
        o, y, m = reading.a[-1], probe.y, probe.samples
        terms = [o / m, y / m, np.ones_like(o) / o.size]
        return [times_slope(reading, term) for term in terms] if squared else terms

    def read_labels(weights: Array) -> str | None:
        if abs(weights[0] - 1) > 1e-5:
            return None
        return f"the error is a {weights[1]:+.4g} y {weights[2]:+.4g} / n_L, not a - y"

    def read_rescaled(weights: Array) -> str | None:
        if abs(weights[0] - 1) > 1e-5:
            return None
        return "y is rescaled and shifted, in each batch by numbers of its own"

    if case.probes[0].network.output != "softmax" or not squared:
        yield Terms("labels changed", _each(case, chain, labels), read_labels)
        yield Terms("labels changed", _each(case, chain, labels), read_rescaled, shared=1)

    def classes(i: int, probe: Probe, reading: Reading) -> list[Array]:
        right = next(output_deltas(probe, reading)).value
        return [right * probe.y, right * (1 - probe.y)]

    def read_classes(weights: Array) -> str | None:
        return (
            f"the error counts {weights[0]:.4g} times where y is 1, {weights[1]:.4g} where it is 0"
        )

    if case.probes[0].network.loss == "binary_cross_entropy":
        yield Terms("classes weighted", _each(case, chain, classes), read_classes)
    if not squared:
        yield from _epsilons(case, chain, evidence)


def _epsilons(case: Case, chain: Chain, evidence: LayerEvidence) -> Iterator[Terms]:
    """dL/da of a cross-entropy with a small number added where a probability is divided by."""
    both = case.probes[0].network.loss == "binary_cross_entropy"

    def apart(probe: Probe, reading: Reading, e: float, power: int) -> Array:
        """dL/da with e added to each probability (power 1), or how it grows with e (power 2)."""
        o, y = reading.a[-1], probe.y
        slope = y / (o + e) ** power
        if both:
            slope = slope - (1 - y) / (1 - o + e) ** power
        return np.asarray(slope if power == 2 else -slope)

    def together(probe: Probe, reading: Reading, e: float, power: int) -> Array:
        """The same with e added to a (1 - a)."""
        o, y = reading.a[-1], probe.y
        slope = (o - y) / (o * (1 - o) + e) ** power
        return np.asarray(-slope if power == 2 else slope)

    for error in (apart, together) if both else (apart,):
        terms = _with_epsilon(case, chain, evidence, error)
        if terms is not None:
            yield terms


def _with_epsilon(
    case: Case,
    chain: Chain,
    evidence: LayerEvidence,
    error: Callable[[Probe, Reading, float, int], Array],
) -> Terms | None:
    """The terms of one way of adding an epsilon, which Newton's steps find; None where none fits.

    Args:
        error: dL/da of a sample (power 1), or its derivative by epsilon (power 2).
    """

    def columns(e: float) -> list[list[Array]]:
        def of_probe(_: int, probe: Probe, reading: Reading) -> list[Array]:
            return [
                times_slope(reading, error(probe, reading, e, power) / probe.samples)
                for power in (1, 2)
            ]

        return _each(case, chain, of_probe)

    e = 0.0
    for _ in range(12):
        weights, _ = evidence.combined(columns(e))
        mean = np.mean(weights, axis=0)
        if not np.isfinite(mean).all() or not abs(mean[0] - 1) < 0.5:
            return None
        e += float(mean[1] / mean[0])
        if not 0 < e < 0.2:
            return None

    def read(weights: Array) -> str | None:
        if abs(weights[0] - 1) > 1e-5:
            return None
        return f"a probability is divided by with {e:.2g} added to it"

    return Terms("epsilon in the denominator", columns(e), read)


def _term(weight: float, factor: str) -> str:
    """A weight times what it is the weight of: 2 a, a^2, -a, 1."""
    if factor and abs(abs(weight) - 1) < 1e-9:
        return factor if weight > 0 else f"-{factor}"
    return f"{weight:.4g} {factor}".strip()


# ── f' that is some other formula ──────────────────────────────────────────────────────────────


def _slopes(case: Case, chain: Chain, layer: int, errors: Arrays) -> Iterator[Terms]:
    last = layer == case.layers - 1
    if last and case.probes[0].network.loss != "half_squared_error":
        errors = tuple(
            (reading.a[-1] - probe.y) / probe.samples
            for probe, reading in zip(case.probes, chain.readings, strict=True)
        )
    elif last:
        errors = tuple(
            loss_slope(probe, reading)
            for probe, reading in zip(case.probes, chain.readings, strict=True)
        )

    for name, values in (("a", "a"), ("z", "z")):

        def powers(i: int, probe: Probe, reading: Reading, values: str = values) -> list[Array]:
            value = getattr(reading, values)[layer]
            return [errors[i], errors[i] * value, errors[i] * value**2]

        def read(weights: Array, name: str = name) -> str | None:
            size = float(np.abs(weights).max())
            shown = [
                _term(w, ("", name, f"{name}^2")[power])
                for power, w in enumerate(weights)
                if abs(w) > 1e-6 * size
            ]
            return f"what stands in the place of f'(z) is {' + '.join(shown)}".replace("+ -", "- ")

        yield Terms("wrong derivative", _each(case, chain, powers), read)

    def sides(i: int, probe: Probe, reading: Reading) -> list[Array]:
        above = reading.z[layer] > 0
        return [errors[i] * above, errors[i] * ~above, errors[i] * ~above * reading.a[layer]]

    def read_sides(weights: Array) -> str | None:
        bend = f" {weights[2]:+.4g} a" if abs(weights[2]) > 1e-6 else ""
        low = 0.0 if abs(weights[1]) < 1e-9 else weights[1]
        return f"f' is {weights[0]:.4g} above 0 and {low:.4g}{bend} below"

    if chain.readings[0].functions[layer] in ("relu", "leaky_relu", "elu"):
        yield Terms("wrong derivative", _each(case, chain, sides), read_sides)
