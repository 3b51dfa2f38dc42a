"""Are a few steps of training right? Their losses and the final parameters, held against the truth.

The truth is trained in a higher precision (``simulation``); every loss and every parameter must be
within 8 standard deviations of rounding of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bpbench.errors import unknown
from bpbench.network import MLP, Parameters
from bpbench.optimizers import Optimizer
from bpbench.verify.comparison import REQUIRED_SENSITIVITY as DTYPES
from bpbench.verify.comparison import compare, limits, misfit, not_finite
from bpbench.verify.findings import (
    KINK,
    NOISE_LIMITED,
    RIGHT,
    SEEN_SIGMAS,
    SIGMAS,
    WRONG,
    Finding,
    Report,
    TensorError,
)
from bpbench.verify.simulation import PARTED, Training, simulate
from bpbench.verify.tolerance import Place

SENSITIVITY = 1e-3
"""A relative error of every step that should be seen, such as a wrong learning rate."""
TENSOR_SENSITIVITY = 0.04
"""A relative error of one tensor's way that should be seen: half a step of twelve."""


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

    Raises:
        UsageError: another dtype.
    """
    if dtype not in DTYPES:
        raise unknown("judge_training: dtype", dtype, DTYPES)
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
                    f"{expected.kinks} times a unit came to lie on the corner of a relu within "
                    "rounding, where either derivative may be taken: train on other rows and judge "
                    "again"
                )
                return Report(KINK, subject, (Finding(KINK, None, None, say),), tuple(wide))
    return Report(WRONG, subject, tuple(_findings(tensors)), tuple(tensors))


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
                moved=None if before is None else exact - before)
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
    still = {(t.name, t.layer) for t in tensors if np.isinf(t.detection_limit) and t.error == 0}
    bounds = limits(tensors, still, dtype, TENSOR_SENSITIVITY)
    if bounds:
        return bounds
    best = min(tensors[1:] or tensors, key=lambda t: t.detection_limit)
    if best.detection_limit > SENSITIVITY:
        say = (
            f"rounding hides relative errors of the steps below {best.detection_limit:.1e} "
            f"(seen in {best.place}); train on with a larger learning rate or in float64"
        )
        bounds.append(Finding(NOISE_LIMITED, best.layer, best.name, say))
    if (np.abs(expected.changes) < SEEN_SIGMAS * expected.sigma["losses", None]).all():
        say = (
            "the losses change so little from step to step that rounding hides whether they are "
            "those before or after it; train on with a larger learning rate or in float64"
        )
        bounds.append(Finding(NOISE_LIMITED, None, "losses", say))
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
