"""What are the pieces of a compiled step that go entry by entry, or row by row?

Every function here is called by loop.py from compiled code, with pointers and
counts, and puts its instructions there. Loops run over whole registers; a mask keeps the last one
from reading or writing beyond its end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from bpbench.backends.numpy_compiled.formulas import ACTIVATIONS, exp, log, log1p, sigmoid
from bpbench.backends.numpy_compiled.vectors import (
    INT32,
    INT64,
    Builder,
    Float,
    Vector,
    float_of,
    intrinsic,
    load,
    registers,
    splat,
    store,
    zeros,
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


def _summed(builder: Builder, total: Any, part: Vector, mask: Any) -> None:
    """Add the lanes of the mask to a vector in memory."""
    zero = part.like(part.operand(0.0))
    builder.store((part.where(mask, zero) + part.like(builder.load(total))).value, total)


# ── Activations ────────────────────────────────────────────────────────────────────────────────


@intrinsic
def activate(context: Any, code: Any, z: Any, kept: Any, count: Any) -> Any:
    """Turn ``count`` entries of z into a, and fill ``kept`` where the derivative needs it."""

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        code, z, kept, count = arguments
        kind = float_of(signature.args[1])

        def case(name: str) -> None:
            with registers(builder, kind, count) as (start, mask):
                place = builder.gep(z, [start])
                a, slope = ACTIVATIONS[name].forward(load(builder, kind, place, mask))
                assert (slope is not None) == ACTIVATIONS[name].keeps, name
                store(builder, a, place, mask)
                if slope is not None:
                    store(builder, slope, builder.gep(kept, [start]), mask)

        _cases(builder, code, [partial(case, name) for name in ACTIVATIONS])
        return context.get_dummy_value()

    return types.void(types.intp, z, kept, types.intp), generate


@intrinsic
def times_derivative(context: Any, code: Any, error: Any, a: Any, kept: Any, count: Any) -> Any:
    """Turn ``count`` entries of dL/da into dL/dz."""

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        code, error, a, kept, count = arguments
        kind = float_of(signature.args[1])

        def case(name: str) -> None:
            with registers(builder, kind, count) as (start, mask):
                place = builder.gep(error, [start])
                given = [load(builder, kind, place, mask)] + [
                    load(builder, kind, builder.gep(array, [start]), mask) for array in (a, kept)
                ]
                store(builder, ACTIVATIONS[name].backward(*given), place, mask)

        _cases(builder, code, [partial(case, name) for name in ACTIVATIONS])
        return context.get_dummy_value()

    return types.void(types.intp, error, a, kept, types.intp), generate


@intrinsic
def softmax(context: Any, z: Any, count: Any) -> Any:
    """Turn one row of z, (count,), into e^(z - max z) over its sum."""

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        z, count = arguments
        kind = float_of(signature.args[0])
        _, total = _exponentials(builder, kind, z, z, count)
        with registers(builder, kind, count) as (start, mask):
            place = builder.gep(z, [start])
            store(builder, load(builder, kind, place, mask) / total, place, mask)
        return context.get_dummy_value()

    return types.void(z, types.intp), generate


@intrinsic
def softmax_error(context: Any, error: Any, a: Any, count: Any) -> Any:
    """Turn one row of dL/da into a * (error - sum(error * a)), the product with the Jacobian."""

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        error, a, count = arguments
        kind = float_of(signature.args[0])
        place = zeros(builder, kind)
        with registers(builder, kind, count) as (start, mask):
            given = load(builder, kind, builder.gep(error, [start]), mask)
            _summed(builder, place, given * load(builder, kind, builder.gep(a, [start]), mask),
                    mask)  # fmt: skip
        total = splat(builder, kind, Vector(builder, kind, builder.load(place)).sum())
        with registers(builder, kind, count) as (start, mask):
            given = load(builder, kind, builder.gep(error, [start]), mask)
            probability = load(builder, kind, builder.gep(a, [start]), mask)
            found = probability * (given - total)
            store(builder, found, builder.gep(error, [start]), mask)
        return context.get_dummy_value()

    return types.void(error, a, types.intp), generate


def _exponentials(
    builder: Builder, kind: Float, z: Any, e: Any, count: Any
) -> tuple[Vector, Vector]:
    """Fill e with e^(z - max z) of a row; the largest z, and the sum of e, in all lanes."""
    shape = ir.VectorType(kind.type, kind.lanes)
    low = ir.Constant(shape, [float("-inf")] * kind.lanes)
    place, total = cgutils.alloca_once(builder, shape), zeros(builder, kind)
    builder.store(low, place)
    with registers(builder, kind, count) as (start, mask):
        given = load(builder, kind, builder.gep(z, [start]), mask, float("-inf"))
        builder.store(given.at_least(Vector(builder, kind, builder.load(place))).value, place)
    largest = splat(builder, kind, Vector(builder, kind, builder.load(place)).largest())
    with registers(builder, kind, count) as (start, mask):
        given = load(builder, kind, builder.gep(z, [start]), mask)
        found = exp(given - largest)
        store(builder, found, builder.gep(e, [start]), mask)
        _summed(builder, total, found, mask)
    return largest, splat(builder, kind, Vector(builder, kind, builder.load(total)).sum())


# ── Losses and the output's error ──────────────────────────────────────────────────────────────


@intrinsic
def squared_error(context: Any, a: Any, y: Any, delta: Any, scale: Any, count: Any) -> Any:
    """delta = (a - y) * scale; the sum of (a - y)^2."""

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        a, y, delta, scale, count = arguments
        kind = float_of(signature.args[0])
        total, factor = zeros(builder, kind), splat(builder, kind, scale)
        with registers(builder, kind, count) as (start, mask):
            one, other = (
                load(builder, kind, builder.gep(array, [start]), mask) for array in (a, y)
            )
            error = one - other
            store(builder, error * factor, builder.gep(delta, [start]), mask)
            _summed(builder, total, error * error, mask)
        return Vector(builder, kind, builder.load(total)).sum()

    return a.dtype(a, y, delta, a.dtype, types.intp), generate


@intrinsic
def binary_cross_entropy(context: Any, z: Any, y: Any, delta: Any, scale: Any, count: Any) -> Any:
    """delta = (a - y) * scale; the sum of -y log a - (1 - y) log(1 - a), from logits."""

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        z, y, delta, scale, count = arguments
        kind = float_of(signature.args[0])
        total, factor = zeros(builder, kind), splat(builder, kind, scale)
        with registers(builder, kind, count) as (start, mask):
            logit, target = (
                load(builder, kind, builder.gep(array, [start]), mask) for array in (z, y)
            )
            error = (sigmoid(logit) - target) * factor
            store(builder, error, builder.gep(delta, [start]), mask)
            loss = logit.at_least(0.0) - logit * target + log1p(exp(-logit.magnitude()))
            _summed(builder, total, loss, mask)
        return Vector(builder, kind, builder.load(total)).sum()

    return z.dtype(z, y, delta, z.dtype, types.intp), generate


@intrinsic
def cross_entropy(
    context: Any, z: Any, y: Any, delta: Any, total: Any, weight: Any, scale: Any, count: Any
) -> Any:
    """For one row: delta = (a * sum(y) - y) * scale; the sum of y (max z - z).

    What is missing to the loss is sum(y) times the logarithm of the sum of e^(z - max z), which
    are left at the pointers ``weight`` and ``total``: logarithms are taken many at a time.
    """

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        z, y, delta, total, weight, scale, count = arguments
        kind = float_of(signature.args[0])
        largest, sums = _exponentials(builder, kind, z, delta, count)
        weights, loss = zeros(builder, kind), zeros(builder, kind)
        with registers(builder, kind, count) as (start, mask):
            logit, target = (
                load(builder, kind, builder.gep(array, [start]), mask) for array in (z, y)
            )
            _summed(builder, weights, target, mask)
            _summed(builder, loss, target * (largest - logit), mask)
        all_of_y = Vector(builder, kind, builder.load(weights)).sum()
        factor = splat(builder, kind, scale)
        ratio = splat(builder, kind, all_of_y) / sums
        with registers(builder, kind, count) as (start, mask):
            place = builder.gep(delta, [start])
            e = load(builder, kind, place, mask)
            target = load(builder, kind, builder.gep(y, [start]), mask)
            store(builder, (e * ratio - target) * factor, place, mask)
        builder.store(builder.extract_element(sums.value, INT32(0)), total)
        builder.store(all_of_y, weight)
        return Vector(builder, kind, builder.load(loss)).sum()

    return z.dtype(z, y, delta, total, weight, z.dtype, types.intp), generate


@intrinsic
def weighted_logarithms(context: Any, x: Any, weight: Any, count: Any) -> Any:
    """The sum of weight * log x."""

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        x, weight, count = arguments
        kind = float_of(signature.args[0])
        total = zeros(builder, kind)
        with registers(builder, kind, count) as (start, mask):
            given = load(builder, kind, builder.gep(x, [start]), mask, 1.0)
            factor = load(builder, kind, builder.gep(weight, [start]), mask)
            _summed(builder, total, factor * log(given), mask)
        return Vector(builder, kind, builder.load(total)).sum()

    return x.dtype(x, weight, types.intp), generate


@intrinsic
def sum_of_squares(context: Any, x: Any, count: Any) -> Any:
    """The sum of x^2."""

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        x, count = arguments
        kind = float_of(signature.args[0])
        total = zeros(builder, kind)
        with registers(builder, kind, count) as (start, mask):
            given = load(builder, kind, builder.gep(x, [start]), mask)
            _summed(builder, total, given * given, mask)
        return Vector(builder, kind, builder.load(total)).sum()

    return x.dtype(x, types.intp), generate


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


@intrinsic
def update(
    context: Any, code: Any, P: Any, G: Any, m: Any, v: Any, count: Any, l2: Any, numbers: Any
) -> Any:
    """Move ``count`` parameters by their gradient G, to which l2 * P is added.

    Args:
        numbers: at a pointer: rate, first, second, 1 - second, epsilon, 1 - first, correction,
            where first and second are momentum, decay or Adam's betas.
    """

    def generate(context: Any, builder: Builder, signature: Any, arguments: Any) -> Any:
        code, P, G, m, v, count, l2, numbers = arguments
        kind = float_of(signature.args[1])
        factors = [
            splat(builder, kind, builder.load(builder.gep(numbers, [INT64(number)])))
            for number in range(7)
        ]
        weight = splat(builder, kind, l2)

        def case(name: str) -> None:
            with registers(builder, kind, count) as (start, mask):
                places = [builder.gep(array, [start]) for array in (P, m, v)]
                if name == "scaled":
                    places = places[:1]
                values = [load(builder, kind, place, mask) for place in places]
                g = load(builder, kind, builder.gep(G, [start]), mask)
                g = weight.times_plus(values[0], g)
                found = UPDATES[name](values[0], g, *values[1:], *factors)
                for place, value in zip(places, found, strict=True):
                    store(builder, value, place, mask)

        _cases(builder, code, [partial(case, name) for name in UPDATES])
        return context.get_dummy_value()

    signature = types.void(types.intp, P, G, m, v, types.intp, P.dtype, P)
    return signature, generate
