"""Are a few steps of training right? Losses and final parameters, compared with the truth.

The truth is trained in a higher precision (``simulation``); every loss and every parameter must be
within 8 standard deviations of rounding of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bpbench.errors import unknown
from bpbench.network import MLP, Array, Parameters
from bpbench.optimizers import Optimizer
from bpbench.verify.comparison import REQUIRED_SENSITIVITY as DTYPES
from bpbench.verify.comparison import errors, limits, unfit, within
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
from bpbench.verify.simulation import DIVERGED, Training, places, simulate
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
    found = places(losses, *((), ()) if final is None else (final.W, final.b))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        expected = expected or simulate(*given)
        true = {p: v for p, v in expected.true.items() if final is not None or p[0] == "losses"}
        misfits = _misfits(found, true, expected.sigma, dtype)
        if misfits:
            return Report(WRONG, subject, tuple(misfits))
        before = places(None, start.W, start.b)
        moved = {place: v - before[place] for place, v in true.items() if place[0] != "losses"}
        tensors = errors(found, true, expected.sigma, dtype, moved=moved)
        bounds = _bounds(tensors, expected, dtype)
        if within(tensors):
            verdict = bounds[0].mistake if bounds else RIGHT
            return Report(verdict, subject, tuple(bounds), tuple(tensors))
        if expected.kinks:
            sigma = simulate(*given, corners=True).sigma
            wide = errors(found, true, sigma, dtype, moved=moved)
            if within(wide):
                say = (
                    f"{expected.kinks} times a unit came to lie on the corner of a relu within "
                    "rounding, where either derivative may be taken: train on other rows and judge "
                    "again"
                )
                return Report(KINK, subject, (Finding(KINK, None, None, say),), tuple(wide))
    findings = [_wrong_value(t) for t in tensors if t.sigmas > SIGMAS]
    return Report(WRONG, subject, tuple(findings), tuple(tensors))


def _misfits(
    found: dict[Place, Any], true: dict[Place, Any], sigma: dict[Place, Array], dtype: str
) -> list[Finding]:
    """What keeps the tensors from being compared."""
    findings = []
    for place, value in found.items():
        name = place[0]
        if place in true:
            finding = unfit(place, value, true[place], sigma[place], dtype)
            findings += [finding] if finding else []
        else:
            findings.append(Finding("wrong count", None, name, f"there is one {name} too many"))
    for name, layer in sorted(true.keys() - found.keys(), key=str):
        findings.append(Finding("wrong count", layer, name, f"{name}[{layer}] is missing"))
    return findings


def _bounds(tensors: list[TensorError], expected: Training, dtype: str) -> list[Finding]:
    """What could not have been seen."""
    if expected.parted:
        judged = int(np.isfinite(expected.sigma["losses", None]).sum())
        say = (
            f"correct runs part here: rounding alone makes their weights differ by more than "
            f"{DIVERGED:.0%} from step {judged} on, so only the losses before are judged; take a "
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


def _wrong_value(tensor: TensorError) -> Finding:
    if tensor.name == "losses":
        say = f"the losses are wrong: off by {tensor.error:.1e} of the largest"
    else:
        say = f"{tensor.place} after training is wrong: off by {tensor.error:.1e} of the way it "
        say += "should have gone"
    say += f", {tensor.sigmas:.2g} standard deviations of rounding"
    return Finding("wrong value", tensor.layer, tensor.name, say)
