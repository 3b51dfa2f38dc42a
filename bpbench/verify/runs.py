"""How far do correct computations in a dtype really stray? A few runs of our own tell.

Variances take rounding errors for independent. Where they are not (weights that are all positive,
units that are all saturated), every correct computation strays further, and so do these runs: plain
backpropagation in the dtype under judgement, with inputs, hidden units and rows in another order,
and with the formulas that frameworks use as well as with the careful ones of ``truth``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bpbench.activations import Formula, find_activation
from bpbench.arithmetic import Array
from bpbench.arithmetic.rounding import precision
from bpbench.backend import Backpropagation, Gradients
from bpbench.network import MLP, Parameters
from bpbench.optimizers import Optimizer
from bpbench.verify import truth
from bpbench.verify.variance import Problem


def plain(name: str) -> Formula:
    """The formula of an activation as frameworks compute it, cancellation and all."""
    return find_activation(name).plain


IMPLEMENTATION = 0.5
"""The share of the standard deviation allowed to activations by which ours are made to err."""
COMMON = 0.2
"""The part of that by which all entries err to one side, as polynomials in libraries do."""


def formulas(run: int, rng: np.random.Generator, dtype: str) -> Callable[[str], Formula]:
    """Plain and careful formulas by turns, each value off by as much as libraries differ."""
    p = precision(dtype)
    chosen = plain if run % 2 == 0 else truth.careful

    def erring(name: str) -> Formula:
        formula, rounding = chosen(name), find_activation(name).rounding
        if rounding is None:
            return formula

        def evaluate(z: Array) -> tuple[Array, Array]:
            a, slope = formula(z)
            wide = [v.astype(np.float64) for v in (z, a, slope)]
            errs = rounding(wide[0], wide[1], wide[2], p)
            return off(a, errs.value), off(slope, errs.slope)

        return evaluate

    def off(values: Array, sigma: Array | float) -> Array:
        errors = rng.standard_normal(values.shape) + COMMON * rng.standard_normal()
        return np.asarray(values + IMPLEMENTATION * sigma * errors, values.dtype)

    return erring


SMALL = 2e7
"""Multiplications of a forward pass up to which a run costs next to nothing."""


def count(network: MLP, rows: int) -> int:
    """How many runs: as few as do where they are costly, for then each has many entries to show."""
    multiplications = _multiplications(network, rows)
    return 12 if multiplications < SMALL else 8 if multiplications < 2e8 else 6


def few_threads(network: MLP, rows: int) -> AbstractContextManager[object]:
    """One BLAS thread while products are small: more only wait for one another."""
    if _multiplications(network, rows) >= SMALL:
        return nullcontext()
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


def _multiplications(network: MLP, rows: int) -> int:
    """Of one forward pass."""
    return rows * sum(n * m for n, m in itertools.pairwise(network.sizes))


class Shuffle:
    """An order of the inputs, hidden units and outputs, and the way ``back`` from it."""

    def __init__(self, units: list[Array], back: Shuffle | None = None) -> None:
        self.units = units
        self.back: Shuffle = back or Shuffle([np.argsort(order) for order in units], self)

    def arrays(self, W: Sequence[Array], b: Sequence[Array]) -> Parameters:
        """Arrays of the shapes of W and b, their rows and columns put in that order."""
        pairs = zip(W, self.units[1:], self.units[:-1], strict=True)
        return Parameters(
            tuple(w[np.ix_(out, below)] for w, out, below in pairs),
            tuple(v[out] for v, out in zip(b, self.units[1:], strict=False)),
        )

    def layers(self, values: Sequence[Array]) -> list[Array]:
        """One (m, n_l) array per layer, its columns put in that order."""
        return [v[:, units] for v, units in zip(values, self.units[1:], strict=True)]


def shuffled(network: MLP, rng: np.random.Generator) -> Shuffle:
    """The outputs of the network stay where they are."""
    return Shuffle([*map(rng.permutation, network.sizes[:-1]), np.arange(network.sizes[-1])])


def backpropagations(problem: Problem, dtype: str) -> Iterator[Backpropagation[Any]]:
    """Correct backpropagations in ``dtype``, each in another order of units and rows; all take the
    problem's sides of corners.
    """
    x, y, cotangent = problem.x, problem.y, problem.cotangent
    for run in range(count(problem.network, len(x))):
        rng = np.random.default_rng(run)
        shuffle = shuffled(problem.network, rng)
        rows = rng.permutation(len(x))
        back = np.argsort(rows)
        given = shuffle.arrays(problem.W, problem.b).astype(dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            one = truth.passes(
                problem.network,
                given.W,
                given.b,
                x[np.ix_(rows, shuffle.units[0])].astype(dtype),
                None if y is None else y[rows].astype(dtype),
                None if cotangent is None else cotangent[rows].astype(dtype),
                problem.l2,
                formulas=formulas(run, rng, dtype),
                positive=[v[rows] for v in shuffle.layers(problem.positive)],
            )
        own = shuffle.back.arrays(one.gradients.W, one.gradients.b)
        layers = {
            name: tuple(v[back] for v in shuffle.back.layers(getattr(one, name)))
            for name in ("z", "a", "delta")
        }
        given_back = one.input_gradient[np.ix_(back, shuffle.back.units[0])]
        yield Backpropagation(
            one.loss, **layers, gradients=Gradients(own.W, own.b), input_gradient=given_back
        )


def trainings(
    network: MLP,
    start: Parameters,
    x: Array,
    y: Array,
    optimizer: Optimizer,
    dtype: str,
    runs: int,
) -> list[tuple[Shuffle, truth.Run]]:
    """A few correct training runs in ``dtype``, each in another order of inputs and units.

    Args:
        network, start, x, y, optimizer: as in ``truth.Run``, rounded to ``dtype``.
        runs: how many.
    """
    own = []
    for number in range(runs):
        rng = np.random.default_rng(number)
        shuffle = shuffled(network, rng)
        given = shuffle.arrays(start.W, start.b), x[:, shuffle.units[0]], y, optimizer, dtype
        own.append((shuffle, truth.Run(network, *given, formulas=formulas(number, rng, dtype))))
    return own
