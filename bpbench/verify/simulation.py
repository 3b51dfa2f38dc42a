"""What should a few steps of training give, and how far may rounding stray from it?

Beside the truth go the variance of rounding, from step to step, and a few runs of our own in the
dtype under judgement, which show how far correct runs really stray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpbench.arithmetic.rounding import precision
from bpbench.backend import Backpropagation, map_arrays
from bpbench.network import MLP, Array, Parameters
from bpbench.optimizers import SGD, Adam, Optimizer, RMSProp, entry_for
from bpbench.verify import runs
from bpbench.verify.error_propagation import ErrorPropagation
from bpbench.verify.tolerance import Place, distance, near_corners
from bpbench.verify.truth import Run, precision_above
from bpbench.verify.variance import Problem, variances

MARGINS: dict[type[Optimizer], float] = {SGD: 4.0, RMSProp: 4.0, Adam: 2.0}
"""Errors of steps by one formula and the same constants go to the same side, and so add up to more
than variances do; less of a margin is needed for Adam, where ``ErrorPropagation`` adds them up
already."""
DIVERGED = 1e-2
"""Runs whose weights differ by so much have parted: rounding no longer adds up, it explodes."""


@dataclass(frozen=True)
class Training:
    """What training should give: the truth, and how far rounding may stray from it.

    Attributes:
        true: "losses", (steps,), before each step, and "W" and "b" after the last, in a higher
            precision.
        sigma: the standard deviations of rounding in them.
        changes: (steps,), by how much each step changes the loss of its own batch, about.
        kinks: how many times a unit came so near to a relu's corner that rounding decides.
        parted: whether runs that differ by rounding alone came to differ by a hundredth.
    """

    true: dict[Place, Any]
    sigma: dict[Place, Array]
    changes: Array
    kinks: int
    parted: bool


def places(losses: Any, W: Sequence[Any], b: Sequence[Any]) -> dict[Place, Any]:
    """What is known of a training run, by tensor."""
    pairs: list[tuple[Place, Any]] = [(("losses", None), losses)]
    pairs += [(("W", layer), v) for layer, v in enumerate(W)]
    return dict(pairs + [(("b", layer), v) for layer, v in enumerate(b)])


def simulate(
    network: MLP,
    start: Parameters,
    x: Array,
    y: Array,
    order: Array,
    optimizer: Optimizer,
    dtype: str,
    *,
    corners: bool = False,
) -> Training:
    """Train the truth and a few runs of our own, and carry the variance of rounding along.

    Args:
        network, start, x, y, order, optimizer: rounded to ``dtype`` already.
        dtype: what is judged.
        corners: allow units near a relu's corner to fall on either side, as our own runs then do.
    """
    batch = order.shape[1]
    simulation = _Simulation(network, start, x, y, batch, optimizer, dtype, corners)
    with runs.few_threads(network, batch):
        for rows in order:
            simulation.step(rows)
    return simulation.result()


class _Simulation:
    """The truth, its rounding and our own runs, where they stand after some steps."""

    def __init__(
        self,
        network: MLP,
        start: Parameters,
        x: Array,
        y: Array,
        batch: int,
        optimizer: Optimizer,
        dtype: str,
        corners: bool,
    ) -> None:
        self.network, self.optimizer, self.dtype, self.corners = network, optimizer, dtype, corners
        self.precision = precision(dtype)
        self.truth = Run(network, start, x, y, optimizer, precision_above(dtype))
        count = max(3, 2 * runs.count(network, batch) // 3)
        self.own = runs.trainings(network, start, x, y, optimizer, dtype, count)
        arrays = (*start.W, *start.b)
        self.propagations = [
            ErrorPropagation(optimizer, np.zeros(v.shape), self.precision) for v in arrays
        ]
        self.parameter_sigmas = [np.zeros(v.shape) for v in arrays]
        self.x, self.y = x.astype(np.float64), y.astype(np.float64)
        self.losses: list[Any] = []
        self.sigmas: list[Any] = []
        self.strayed: list[list[Array]] = []
        self.changes: list[float] = []
        self.kinks, self.parted = 0, False

    def step(self, rows: Array) -> None:
        """Train all of them one step on some rows."""
        then = _double([*self.truth.W, *self.truth.b])
        true = self.truth.step(rows)
        exactly = [*self.truth.W, *self.truth.b]
        now = _double(exactly)
        rounded = map_arrays(lambda v: np.asarray(v.astype(np.float64)), true)
        gradients = [*rounded.gradients.W, *rounded.gradients.b]
        moves = zip(gradients, now, then, strict=True)
        self.changes.append(sum(float((g * (after - before)).sum()) for g, after, before in moves))
        self.losses.append(true.loss)
        sides = None if self.corners else [z > 0 for z in rounded.z]
        losses, values = [], []
        for shuffle, run in self.own:
            found = run.step(rows, None if sides is None else shuffle.layers(sides))
            losses.append(distance(found.loss, true.loss))
            mine = shuffle.back.arrays(run.W, run.b)
            values.append((*mine.W, *mine.b))
        self.strayed.append(losses)
        strayed = [
            [distance(v, exact) for v in of_runs]
            for *of_runs, exact in zip(*values, exactly, strict=True)
        ]
        layers = self.network.layers
        self.parted = self.parted or _apart(strayed[:layers], now[:layers]) > DIVERGED
        if self.parted:  # what follows is anyone's guess
            self.sigmas.append(np.inf)
            self.parameter_sigmas = [np.full(v.shape, np.inf) for v in now]
            return
        V = self._variances(then, rows, rounded)
        self.sigmas.append(np.sqrt(np.asarray(V.loss)))
        errors = (*V.gradients.W, *V.gradients.b)
        for propagation, g, Vg, value in zip(
            self.propagations, gradients, errors, now, strict=True
        ):
            propagation.step(g, Vg, value)
        carried = [np.sqrt(propagation.variance) for propagation in self.propagations]
        self.parameter_sigmas = [_widened(*pair) for pair in zip(carried, strayed, strict=True)]

    def _variances(
        self, values: list[Array], rows: Array, true: Backpropagation[Array]
    ) -> Backpropagation[Array]:
        """The variances of one step's backpropagation, from parameters that err already."""
        carried = [sigma**2 for sigma in self.parameter_sigmas]
        layers = self.network.layers
        problem = Problem(
            self.network, values[:layers], values[layers:], self.x[rows], self.y[rows], None,
            self.optimizer.l2, true, [z > 0 for z in true.z], carried[:layers], carried[layers:],
        )  # fmt: skip
        V = variances(problem, self.precision)
        sigma: dict[Place, Array] = {("z", i): np.sqrt(v) for i, v in enumerate(V.z)}
        near = near_corners(self.network, true.z, sigma, self.dtype)
        self.kinks += sum(int(close.sum()) for close in near)
        return variances(problem, self.precision, near) if self.corners else V

    def result(self) -> Training:
        """What has come of it."""
        margin = entry_for(self.optimizer, MARGINS, "the tolerance of training")
        allowed = margin * _widened(np.array(self.sigmas), np.array(self.strayed).T)
        widened = [margin * sigma for sigma in self.parameter_sigmas]
        layers = self.network.layers
        losses = np.array(
            [v if isinstance(v, np.generic) else v.astype(float) for v in self.losses]
        )
        return Training(
            places(losses, self.truth.W, self.truth.b),
            places(allowed, widened[:layers], widened[layers:]),
            np.array(self.changes),
            self.kinks,
            self.parted,
        )


def _apart(strayed: Sequence[Sequence[Array]], W: Sequence[Array]) -> float:
    """How far our runs' weights are from the truth's, as a share of them: the worst layer's."""
    shares = [
        float(np.linalg.norm(error)) / max(float(np.linalg.norm(true)), 1e-300)
        for errors, true in zip(strayed, W, strict=True)
        for error in errors
    ]
    return max(shares) if np.isfinite(shares).all() else math.inf


def _double(values: Sequence[Any]) -> list[Array]:
    return [v.astype(np.float64) for v in values]


def _widened(sigma: Array, errors: Any) -> Array:
    """``sigma``, widened if errors of our own runs exceed twice of it; infinite where they
    overflowed."""
    strayed = np.stack([np.asarray(error) for error in errors])
    ratio = np.where(strayed == 0, 0.0, strayed / sigma)
    finite = np.isfinite(ratio)
    factor = max(1.0, float(ratio[finite].max(initial=0)) / 2)
    return np.where(finite.all(axis=0), sigma * factor, np.inf)
