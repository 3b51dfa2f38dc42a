"""Are a few steps of training right? Their losses and the final parameters, held against the truth.

The truth is trained in a higher precision; beside it go the variance of rounding, step by step, and
a few runs of our own in the dtype under judgement, which show how far correct runs really stray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bpbench.backend import map_arrays
from bpbench.network import MLP, Array, Parameters
from bpbench.optimizers import Optimizer
from bpbench.verify import runs
from bpbench.verify.comparison import compare, limits, misfit, not_finite
from bpbench.verify.drift import Drift
from bpbench.verify.findings import (
    KINK,
    NOISE_LIMITED,
    RIGHT,
    SIGMAS,
    WRONG,
    Finding,
    Report,
    TensorError,
)
from bpbench.verify.tolerance import Place, distance, near_corners
from bpbench.verify.truth import Run, precision_above
from bpbench.verify.variance import Problem, precision, variances

SENSITIVITY = 1e-3
"""A relative error of every step that should be seen, such as a wrong learning rate."""
PARTED = 1e-2
"""Runs whose weights differ by so much have parted: rounding no longer adds up, it explodes."""
TENSOR_SENSITIVITY = 0.04
"""A relative error of one tensor's way that should be seen: half a step of twelve."""


@dataclass(frozen=True)
class Training:
    """What training should give: the truth, and how far rounding may stray from it.

    Attributes:
        losses: (steps,), before each step, in a higher precision.
        W, b: the parameters after the last step.
        sigma: the standard deviations of "losses", "W" and "b".
        kinks: how many times a unit came so near to a relu's corner that rounding decides.
        parted: whether runs that differ by rounding alone came to differ by a hundredth.
    """

    losses: list[Any]
    W: list[Any]
    b: list[Any]
    sigma: dict[Place, Array]
    kinks: int
    parted: bool


def judge_training(
    network: MLP,
    parameters: Parameters,
    x: ArrayLike,
    y: ArrayLike,
    order: ArrayLike,
    optimizer: Optimizer,
    losses: ArrayLike,
    final: Parameters | None,
    dtype: str,
    *,
    expected: Training | None = None,
) -> Report:
    """Judge a few steps of training: their losses and the parameters after the last.

    Args:
        network, parameters, x, y, order, optimizer: what was asked of ``Model.train``, from the
            optimizer's initial state.
        losses: (steps,), what it gave.
        final: the parameters afterwards; None where only the losses are to be judged.
        dtype: what was claimed, "float32" or "float64".
        expected: what ``simulate`` gives for the same training, where it has been asked already.

    Returns:
        The report; relative errors of W and b are shares of the way that training took them.
    """
    rows = np.asarray(order)
    subject = f"{len(rows)} steps of {rows.shape[1]} rows by {optimizer}; {network} in {dtype}"
    start = parameters.astype(dtype)
    given = (network, start, np.asarray(x, dtype), np.asarray(y, dtype), rows, optimizer, dtype)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        expected = _of(final, expected or simulate(*given))
        unfit = _unfit(expected, losses, final, dtype)
        if unfit:
            return Report(WRONG, subject, tuple(unfit))
        tensors = _errors(expected, start, losses, final, dtype)
        bounds = _bounds(tensors, expected, dtype)
        if _fit(tensors):
            verdict = bounds[0].mistake if bounds else RIGHT
            return Report(verdict, subject, tuple(bounds), tuple(tensors))
        if expected.kinks:
            wide_sigma = _of(final, simulate(*given, corners=True))
            wide = _errors(wide_sigma, start, losses, final, dtype)
            if _fit(wide):
                say = (
                    f"{expected.kinks} units came to lie on the corner of a relu within rounding; "
                    "either derivative may be taken there: train on other rows and judge again"
                )
                return Report(KINK, subject, (Finding(KINK, None, None, say),), tuple(wide))
    return Report(WRONG, subject, tuple(_findings(tensors)), tuple(tensors))


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
        corners: allow units near a relu's corner to fall on either side.
    """
    p = precision(dtype)
    truth = Run(network, start, x, y, optimizer, precision_above(dtype))
    count = max(3, 2 * runs.count(network, order.shape[1]) // 3)
    own = runs.Trainings(network, start, x, y, optimizer, dtype, count)
    drifts = [Drift(optimizer, np.zeros(v.shape), p) for v in (*start.W, *start.b)]
    wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
    losses: list[Any] = []
    sigmas: list[Any] = []
    strayed: list[list[Array]] = []
    kinks, parted = 0, False
    for rows in order:
        before = [drift.variance for drift in drifts]
        W, b = _double(truth.W), _double(truth.b)
        true = truth.step(rows)
        rounded = map_arrays(lambda v: np.asarray(v.astype(np.float64)), true)
        sides = [z > 0 for z in rounded.z]
        again = own.step(rows, sides)
        losses.append(true.loss)
        strayed.append([distance(loss, true.loss) for loss in again])
        parted = parted or _apart(own.parameters(), truth.W) > PARTED
        if parted:  # what follows is anyone's guess
            sigmas.append(np.inf)
            continue
        problem = Problem(
            network, W, b, wide_x[rows], wide_y[rows], None, optimizer.l2, rounded, sides,
            before[: network.layers], before[network.layers :],
        )  # fmt: skip
        V = variances(problem, p)
        sigma_z: dict[Place, Array] = {("z", i): np.sqrt(v) for i, v in enumerate(V.z)}
        near = near_corners(network, rounded.z, sigma_z, dtype)
        kinks += sum(int(close.sum()) for close in near)
        if corners:
            V = variances(problem, p, near)
        moved = (*_double(truth.W), *_double(truth.b))
        gradients = (*rounded.gradients.W, *rounded.gradients.b)
        Vg = (*V.gradients.W, *V.gradients.b)
        for drift, g, V_one, value in zip(drifts, gradients, Vg, moved, strict=True):
            drift.step(g, V_one, value)
        sigmas.append(np.sqrt(np.asarray(V.loss)))

    sigma: dict[Place, Array] = {("losses", None): _widened(np.array(sigmas), np.array(strayed).T)}
    finals = own.parameters()
    for i, (drift, true_value) in enumerate(zip(drifts, (*truth.W, *truth.b), strict=True)):
        place = ("W", i) if i < network.layers else ("b", i - network.layers)
        allowed = np.full(drift.variance.shape, np.inf) if parted else np.sqrt(drift.variance)
        sigma[place] = _widened(allowed, [distance(final[i], true_value) for final in finals])
    return Training(losses, truth.W, truth.b, sigma, kinks, parted)


def _apart(own: Sequence[Sequence[Array]], W: Sequence[Any]) -> float:
    """How far our runs' weights are from the truth's, as a share of them: the worst layer's."""
    shares = [
        np.linalg.norm(distance(mine, true)) / np.linalg.norm(true.astype(np.float64))
        for run in own
        for mine, true in zip(run, W, strict=False)
    ]
    return float(max(shares)) if np.isfinite(shares).all() else math.inf


def _double(values: Sequence[Any]) -> list[Array]:
    return [v.astype(np.float64) for v in values]


def _widened(sigma: Array, errors: Any) -> Array:
    """``sigma``, widened if errors of our own runs exceed twice of it; infinite where they
    overflowed."""
    ratio = np.stack([np.asarray(error) for error in errors]) / sigma
    finite = np.isfinite(ratio)
    factor = max(1.0, float(ratio[finite].max(initial=0)) / 2)
    return np.where(finite.all(axis=0), sigma * factor, np.inf)


def _of(final: Parameters | None, expected: Training) -> Training:
    """What is expected of what was found: of the losses alone where there is no ``final``."""
    return expected if final is not None else replace(expected, W=[], b=[])


def _found(losses: Any, final: Parameters | None) -> list[tuple[Place, Any]]:
    return _named(losses, *((), ()) if final is None else (final.W, final.b))


def _named(losses: Any, W: Sequence[Any], b: Sequence[Any]) -> list[tuple[Place, Any]]:
    pairs: list[tuple[Place, Any]] = [(("losses", None), losses)]
    pairs += [(("W", layer), v) for layer, v in enumerate(W)]
    return pairs + [(("b", layer), v) for layer, v in enumerate(b)]


def _stacked(losses: list[Any]) -> Any:
    """The truth's losses as one array, in longdouble or, of DoubleDouble, as near as float64."""
    plain = [v if isinstance(v, np.generic | np.ndarray) else v.astype(np.float64) for v in losses]
    return np.array(plain)


def _unfit(expected: Training, losses: Any, final: Parameters | None, dtype: str) -> list[Finding]:
    found = _found(losses, final)
    true = dict(_named(_stacked(expected.losses), expected.W, expected.b))
    unfit = []
    for place, value in found:
        if place not in true:
            unfit.append(
                Finding("wrong count", None, place[0], f"there is one {place[0]} too many")
            )
            continue
        finding = misfit(place, value, np.shape(true[place]), dtype) or not_finite(
            place, value, true[place], expected.sigma[place], dtype
        )
        unfit += [finding] if finding else []
    missing = set(true) - {place for place, _ in found}
    for name, layer in sorted(missing, key=str):
        unfit.append(Finding("wrong count", layer, name, f"{name}[{layer}] is missing"))
    return unfit


def _errors(
    expected: Training, start: Parameters, losses: Any, final: Parameters | None, dtype: str
) -> list[TensorError]:
    true = _named(_stacked(expected.losses), expected.W, expected.b)
    found = _found(np.asarray(losses), final)
    first = [None] if final is None else [None, *start.W, *start.b]
    return [
        compare(place, got, exact, expected.sigma[place], dtype,
                None if before is None else exact - before)
        for (place, exact), (_, got), before in zip(true, found, first, strict=True)
    ]  # fmt: skip


def _bounds(tensors: list[TensorError], expected: Training, dtype: str) -> list[Finding]:
    """What could not have been seen."""
    if expected.parted:
        judged = int(np.isfinite(expected.sigma["losses", None]).sum())
        say = (
            f"correct runs part here: rounding alone makes their weights differ by more than "
            f"{PARTED:.0%} from step {judged} on, so only the losses before are judged; take a "
            "smaller learning rate or other initial parameters"
        )
        return [Finding(NOISE_LIMITED, None, None, say)]
    still = {(t.name, t.layer) for t in tensors if np.isinf(t.detectable) and t.error == 0}
    bounds = limits(tensors, still, dtype, TENSOR_SENSITIVITY)
    best = min(tensors, key=lambda t: t.detectable)
    if not bounds and best.detectable > SENSITIVITY:
        say = (
            f"rounding hides relative errors of the steps below {best.detectable:.1e} "
            f"(seen in {best.place}); train on with a larger learning rate or in float64"
        )
        bounds.append(Finding(NOISE_LIMITED, best.layer, best.name, say))
    return bounds


def _fit(tensors: Sequence[TensorError]) -> bool:
    return all(t.sigmas <= SIGMAS for t in tensors)


def _findings(tensors: Sequence[TensorError]) -> list[Finding]:
    wrong = [t for t in tensors if t.sigmas > SIGMAS]
    return [
        Finding(
            "wrong value", t.layer, t.name,
            f"{t.place} after training is wrong: off by {t.error:.1e} of the way it should have "
            f"gone, {t.sigmas:.2g} standard deviations of rounding"
            if t.name != "losses" else
            f"the losses are wrong: off by {t.error:.1e} of the largest, {t.sigmas:.2g} standard "
            "deviations of rounding",
        )
        for t in wrong
    ]  # fmt: skip
