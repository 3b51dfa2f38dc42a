"""What are the pieces of a compiled step that go entry by entry, or row by row?

Every function here is called by loop.py from compiled code, with pointers and
counts, and puts its instructions there. Loops run over whole registers; a mask keeps the last one
from reading or writing beyond its end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bpbench.backends.numpy_compiled.formulas import ACTIVATIONS, exp, log, log1p, sigmoid
from bpbench.backends.numpy_compiled.vectors import (
    INT32,
    INT64,
    Builder,
    Program,
    Vector,
    piece,
    sum_piece,
)


def _cases(builder: Builder, code: Any, cases: list[Callable[[], None]]) -> None:
    """The case whose number is ``code``."""
    done = builder.append_basic_block("done")
    switch = builder.switch(code, done)
    for number, case in enumerate(cases):
        block = builder.append_basic_block("case")
        switch.add_case(INT64(number), block)
        builder.position_at_end(block)
        case()
        builder.branch(done)
    builder.position_at_end(done)


# ── Activations ────────────────────────────────────────────────────────────────────────────────


@piece
def activate(program: Program, code: Any, z: Any, kept: Any, count: Any) -> None:
    """Turn ``count`` entries of z into a, and fill ``kept`` where the derivative needs it."""

    def case(name: str) -> None:
        for here in program.registers(count):
            a, slope = ACTIVATIONS[name].forward(here.load(z))
            assert (slope is not None) == ACTIVATIONS[name].keeps, name
            here.store(a, z)
            if slope is not None:
                here.store(slope, kept)

    _cases(program.builder, code, [partial(case, name) for name in ACTIVATIONS])


@piece
def times_derivative(
    program: Program, code: Any, error: Any, a: Any, kept: Any, count: Any
) -> None:
    """Turn ``count`` entries of dL/da into dL/dz."""

    def case(name: str) -> None:
        for here in program.registers(count):
            given = here.load(error), here.load(a), here.load(kept)
            here.store(ACTIVATIONS[name].backward(*given), error)

    _cases(program.builder, code, [partial(case, name) for name in ACTIVATIONS])


@piece
def softmax(program: Program, z: Any, count: Any) -> None:
    """Turn one row of z, (count,), into e^(z - max z) over its sum."""
    _, total = _exponentials(program, z, z, count)
    for here in program.registers(count):
        here.store(here.load(z) / total, z)


@piece
def softmax_error(program: Program, error: Any, a: Any, count: Any) -> None:
    """Turn one row of dL/da into a * (error - sum(error * a)), the product with the Jacobian."""
    room = program.filled()
    for here in program.registers(count):
        here.add(here.load(error) * here.load(a), room)
    total = program.splat(program.vector(room).sum())
    for here in program.registers(count):
        given, probability = here.load(error), here.load(a)
        here.store(probability * (given - total), error)


def _exponentials(program: Program, z: Any, e: Any, count: Any) -> tuple[Vector, Vector]:
    """Fill e with e^(z - max z) of a row; the largest z, and the sum of e, in all lanes."""
    low = float("-inf")
    place, total = program.filled(low), program.filled()
    for here in program.registers(count):
        higher = here.load(z, other=low).at_least(program.vector(place))
        program.builder.store(higher.value, place)
    largest = program.splat(program.vector(place).largest())
    for here in program.registers(count):
        found = exp(here.load(z) - largest)
        here.store(found, e)
        here.add(found, total)
    return largest, program.splat(program.vector(total).sum())


# ── Losses and the output's error ──────────────────────────────────────────────────────────────


@sum_piece
def squared_error(program: Program, a: Any, y: Any, delta: Any, scale: Any, count: Any) -> Any:
    """delta = (a - y) * scale; the sum of (a - y)^2."""
    total, factor = program.filled(), program.splat(scale)
    for here in program.registers(count):
        error = here.load(a) - here.load(y)
        here.store(error * factor, delta)
        here.add(error * error, total)
    return program.vector(total).sum()


@sum_piece
def binary_cross_entropy(
    program: Program, z: Any, y: Any, delta: Any, scale: Any, count: Any
) -> Any:
    """delta = (a - y) * scale; the sum of -y log a - (1 - y) log(1 - a), from logits."""
    total, factor = program.filled(), program.splat(scale)
    for here in program.registers(count):
        logit, target = here.load(z), here.load(y)
        here.store((sigmoid(logit) - target) * factor, delta)
        loss = logit.at_least(0.0) - logit * target + log1p(exp(-logit.magnitude()))
        here.add(loss, total)
    return program.vector(total).sum()


@sum_piece
def cross_entropy(
    program: Program, z: Any, y: Any, delta: Any, total: Any, weight: Any, scale: Any, count: Any
) -> Any:
    """For one row: delta = (a * sum(y) - y) * scale; the sum of y (max z - z).

    What is missing to the loss is sum(y) times the logarithm of the sum of e^(z - max z), which
    are left at the pointers ``weight`` and ``total``: logarithms are taken many at a time.
    """
    builder = program.builder
    largest, sums = _exponentials(program, z, delta, count)
    weights, loss = program.filled(), program.filled()
    for here in program.registers(count):
        logit, target = here.load(z), here.load(y)
        here.add(target, weights)
        here.add(target * (largest - logit), loss)
    all_of_y = program.vector(weights).sum()
    factor = program.splat(scale)
    ratio = program.splat(all_of_y) / sums
    for here in program.registers(count):
        e, target = here.load(delta), here.load(y)
        here.store((e * ratio - target) * factor, delta)
    builder.store(builder.extract_element(sums.value, INT32(0)), total)
    builder.store(all_of_y, weight)
    return program.vector(loss).sum()


@sum_piece
def weighted_logarithms(program: Program, x: Any, weight: Any, count: Any) -> Any:
    """The sum of weight * log x."""
    total = program.filled()
    for here in program.registers(count):
        here.add(here.load(weight) * log(here.load(x, other=1.0)), total)
    return program.vector(total).sum()


@sum_piece
def sum_of_squares(program: Program, x: Any, count: Any) -> Any:
    """The sum of x^2."""
    total = program.filled()
    for here in program.registers(count):
        given = here.load(x)
        here.add(given * given, total)
    return program.vector(total).sum()


# ── Optimizers ─────────────────────────────────────────────────────────────────────────────────


def _scaled(P: Vector, g: Vector, *rest: Vector) -> list[Vector]:
    """``g`` comes times -learning_rate, by way of the output's error."""
    return [P + g]


def _momentum(P: Vector, g: Vector, m: Vector, v: Vector, *n: Vector) -> list[Vector]:
    rate, momentum = n[:2]
    v = momentum.times_plus(v, g)
    return [P - rate * v, m, v]


def _nesterov(P: Vector, g: Vector, m: Vector, v: Vector, *n: Vector) -> list[Vector]:
    rate, momentum = n[:2]
    v = momentum.times_plus(v, g)
    return [P - rate * momentum.times_plus(v, g), m, v]


def _rmsprop(P: Vector, g: Vector, m: Vector, v: Vector, *n: Vector) -> list[Vector]:
    rate, _, decay, rest, epsilon = n[:5]
    v = decay.times_plus(v, rest * (g * g))
    return [P - rate * g / (v.root() + epsilon), m, v]


def _adam(P: Vector, g: Vector, m: Vector, v: Vector, *n: Vector) -> list[Vector]:
    """``rate`` holds learning_rate / (1 - beta1^t), ``correction`` 1 / (1 - beta2^t)."""
    rate, beta1, beta2, rest2, epsilon, rest1, correction = n
    m = beta1.times_plus(m, rest1 * g)
    v = beta2.times_plus(v, rest2 * (g * g))
    return [P - rate * m / ((v * correction).root() + epsilon), m, v]


UPDATES: dict[str, Callable[..., list[Vector]]] = {
    "scaled": _scaled,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "RMSProp": _rmsprop,
    "Adam": _adam,
}
"""(P, g, m, v, numbers) -> the new (P, m, v): the formulas of bpbench/optimizers.py."""


@piece
def update(
    program: Program, code: Any, P: Any, G: Any, m: Any, v: Any, count: Any, l2: Any, numbers: Any
) -> None:
    """Move ``count`` parameters by their gradient G, to which l2 * P is added.

    Args:
        numbers: at a pointer: rate, first, second, 1 - second, epsilon, 1 - first, correction,
            where first and second are momentum, decay or Adam's betas.
    """
    builder = program.builder
    factors = [
        program.splat(builder.load(builder.gep(numbers, [INT64(number)]))) for number in range(7)
    ]
    weight = program.splat(l2)

    def case(name: str) -> None:
        arrays = (P,) if name == "scaled" else (P, m, v)
        for here in program.registers(count):
            values = [here.load(array) for array in arrays]
            g = weight.times_plus(values[0], here.load(G))
            found = UPDATES[name](values[0], g, *values[1:], *factors)
            for array, value in zip(arrays, found, strict=True):
                here.store(value, array)

    _cases(builder, code, [partial(case, name) for name in UPDATES])
