"""Which wrong formulas are tried, and in what order? The likelier first: order costs a little."""

from __future__ import annotations

from collections.abc import Iterator

from bpbench.verify.diagnose.functions import OF_OUTPUT
from bpbench.verify.diagnose.mistakes.arrays import SAMPLES, SHAPES
from bpbench.verify.diagnose.mistakes.context import Context, slope_of
from bpbench.verify.diagnose.mistakes.gradients import INPUTS
from bpbench.verify.diagnose.mistakes.hidden import BACKS, HIDDEN
from bpbench.verify.diagnose.mistakes.output import (
    CANCELS,
    ENTROPY,
    ENTROPY_LATE,
    JACOBIANS,
    LABELS,
    LAST,
    errors,
)
from bpbench.verify.diagnose.mistakes.row import Guess, Seen, guesses
from bpbench.verify.diagnose.mistakes.slopes import OF_OTHERS, OF_SOFTMAX, OUTPUT_MISSING, SLOPES

LIKELY_SLOPES = 11
"""So many wrong f' are tried together with a wrong way back."""


def slopes(c: Context) -> Iterator[Guess]:
    """What may stand in the place of f'(z), (m, n_l), the right one first if there is one."""
    if c.entrywise:
        yield Guess((), c.slope)
        meant = c.probe.network.activations[c.layer]
        if c.name != meant:  # the forward pass alone is wrong
            if meant != "softmax" and not (c.last and c.name == "identity"):
                yield Guess((), slope_of(meant, c.z))  # for identity that is z for a in the error
            if meant in OF_OUTPUT:
                yield Guess((), OF_OUTPUT[meant](c.a))
    yield from guesses(SLOPES if c.entrywise else OF_SOFTMAX, c)
    yield from guesses(OF_OTHERS, c)


def output_deltas(c: Context) -> Iterator[Guess]:
    """What delta of the output layer may be, (m, n_L), the right one first."""
    yield Guess((), c.delta)
    if c.squared:
        for number, each in enumerate(slopes(c.at(c.error))):
            if number or each.mistakes:
                yield Guess(each.mistakes, c.error * each.value)
        if c.of_difference:
            yield from errors(c)
    else:
        yield from guesses(ENTROPY, c)
        yield from _bent_entropies(c)
        yield from guesses(ENTROPY_LATE, c)
    yield from guesses(JACOBIANS, c)
    yield from guesses(SHAPES, c.delta, what="delta")
    if c.of_difference:
        for each in guesses(LABELS, c):
            yield Guess(each.mistakes, c.erring((c.o - each.value) / c.m))
    yield from guesses(SAMPLES, c.delta)
    if c.of_difference:
        yield from guesses(LAST, c)


def _bent_entropies(c: Context) -> Iterator[Guess]:
    """A cross-entropy's delta with an f' that cancels, and dL/da with a wrong f'."""
    for each in slopes(c.at(c.error)):
        if each.mistakes and each.mistakes[0].name != OUTPUT_MISSING.name:
            say = f"a - y is multiplied by f', which cancels ({each.mistakes[0].say})"
            yield Guess((Seen(CANCELS.name, say),), c.error * each.value)
    for each in slopes(c):
        if each.mistakes and each.mistakes[0].name != OUTPUT_MISSING.name:
            yield Guess(each.mistakes, c.loss_slope * each.value)


def hidden_deltas(c: Context) -> Iterator[Guess]:
    """What delta of a hidden layer may be, (m, n_l), the right one first: one step is wrong at a
    time, what comes back or f', then both.
    """
    right, *factors = slopes(c)
    yield Guess((), c.delta)
    for factor in factors:
        yield Guess(factor.mistakes, c.back * factor.value)
    backs = [*guesses(BACKS, c)]
    for each in guesses(SHAPES, c.W_above, what=f"W[{c.above}]"):
        backs.append(Guess(each.mistakes, c.delta_above @ each.value))
    for each in guesses(SAMPLES, c.delta_above):
        backs.append(Guess(each.mistakes, each.value @ c.W_above))
    for each in backs:
        yield Guess(each.mistakes, each.value * right.value)
    yield from guesses(SAMPLES, c.delta)
    yield from guesses(SHAPES, c.delta, what="delta")
    yield from guesses(HIDDEN, c)
    for each in backs:
        for factor in factors[:LIKELY_SLOPES]:
            yield Guess((*each.mistakes, *factor.mistakes), each.value * factor.value)


def inputs(c: Context) -> Iterator[Guess]:
    """What may multiply delta in dW, (m, n_{l-1}), the right one first."""
    yield Guess((), c.input)
    yield from guesses(INPUTS, c)
