"""Is one tensor what was asked for, how far is it from the truth, and what would have been seen?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from bpbench.network import Array
from bpbench.verify.findings import (
    NOISE_LIMITED,
    SEEN_SIGMAS,
    SIGMAS,
    VACUOUS,
    Finding,
    TensorError,
)
from bpbench.verify.tolerance import Place, difference, factor_off

REQUIRED_SENSITIVITY = {"float32": 1e-4, "float64": 1e-9}
"""The relative error of a whole tensor that should be seen; else the verdict is noise-limited."""


def name_of(place: Place) -> str:
    """As messages write it: dW[1], loss."""
    return place[0] if place[1] is None else f"{place[0]}[{place[1]}]"


def unfit(place: Place, found: Any, true: Any, sigma: Array, dtype: str) -> Finding | None:
    """What keeps ``found`` from being compared at all: its kind, shape, dtype, or nan or infinity
    where the truth is within the dtype's range.
    """
    tensor, layer = place
    name, shape = name_of(place), true.shape
    try:
        got = np.asarray(found)
        kind = got.dtype.kind
    except (TypeError, ValueError) as error:  # nested lists of unequal lengths
        return Finding("wrong shape", layer, tensor, f"{name} is no array: {error}")
    if got.shape != shape:
        remedy = "; transpose it" if len(shape) > 1 and got.shape == shape[::-1] else ""
        say = f"{name} has shape {got.shape}; expected {shape}{remedy}"
        return Finding("wrong shape", layer, tensor, say)
    if tensor not in ("loss", "losses") and got.dtype != np.dtype(dtype):
        say = f"{name} is {got.dtype}, where {dtype} was claimed"
        return Finding("wrong dtype", layer, tensor, say)
    if kind not in "fiu":
        say = f"{name} has dtype {got.dtype}; expected real numbers"
        return Finding("wrong dtype", layer, tensor, say)
    bad = ~np.isfinite(got) & ~overflowing(true, dtype) & np.isfinite(sigma)
    if not bad.any():
        return None
    say = f"{name} holds nan or infinity in {bad.sum()} of {bad.size} entries"
    return Finding("not finite", layer, tensor, say)


def overflowing(true: Any, dtype: str) -> Array:
    """Where the truth is beyond half of what ``dtype`` holds, so that infinity may be right."""
    size = np.abs(np.asarray(true.astype(np.float64)))
    within: Array = size <= 0.5 * float(np.finfo(dtype).max)
    return ~within


def errors(
    found: Mapping[Place, Any],
    true: Mapping[Place, Any],
    sigma: Mapping[Place, Array],
    dtype: str,
    *,
    moved: Mapping[Place, Any] = MappingProxyType({}),
    factor: Mapping[Place, float] = MappingProxyType({}),
) -> list[TensorError]:
    """The errors of some tensors.

    Args:
        found: any real dtype, finite but where the truth overflows ``dtype``.
        true: in a higher precision.
        sigma: standard deviations of rounding, as found.
        dtype: what was claimed.
        moved: what relative errors are relative to, where that is not the truth itself.
        factor: the standard deviation of the factor by which a whole tensor may be off.
    """
    return [
        _error(place, value, true[place], sigma[place], dtype,
               moved.get(place, true[place]), factor.get(place, math.inf))
        for place, value in found.items()
    ]  # fmt: skip


def _error(
    place: Place, found: Any, true: Any, sigma: Array, dtype: str, moved: Any, factor: float
) -> TensorError:
    ignored = overflowing(true, dtype) | ~np.isfinite(sigma)
    with np.errstate(invalid="ignore"):
        off = np.where(ignored, 0.0, difference(found, true))
        error = np.abs(off)
    size = np.abs(np.asarray(moved.astype(np.float64)))
    largest = float(size[~ignored].max(initial=0))
    worst = float(error.max(initial=0))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        limit = float(np.where(ignored, math.inf, sigma / size).min(initial=math.inf))
        sigmas = float(np.where(ignored, 0.0, error / sigma).max(initial=0))
        if math.isfinite(factor) and not ignored.any():
            common = factor_off(off, np.asarray(true.astype(np.float64)), sigma)[0]
            sigmas, limit = max(sigmas, abs(common) / factor), min(limit, factor)
    share = worst / largest if largest else math.inf if worst else 0.0
    return TensorError(*place, share, sigmas, SEEN_SIGMAS * limit)


def within(tensors: Sequence[TensorError]) -> bool:
    """Whether rounding explains all errors."""
    return all(t.sigmas <= SIGMAS for t in tensors)


def limits(
    tensors: list[TensorError], zero: set[Place], dtype: str, sensitivity: float
) -> list[Finding]:
    """What the errors that were looked for could not have shown.

    Args:
        tensors: as compared.
        zero: those whose truth is zero in ``dtype``.
        dtype: what was claimed.
        sensitivity: the relative error that should be seen.
    """
    found = []
    empty = [t for t in tensors if (t.name, t.layer) in zero]
    if empty:
        say = (
            f"{_listed(empty)} zero in {dtype}: nothing was tested there; "
            "take other parameters or inputs, for which no layer is dead"
        )
        found.append(Finding(VACUOUS, empty[0].layer, empty[0].name, say))
    noisy = [t for t in tensors if t.detection_limit > sensitivity and t not in empty]
    if noisy:
        worst = max(noisy, key=lambda t: t.detection_limit)
        remedy = "; verify in float64 as well" if dtype != "float64" else ""
        say = (
            f"rounding hides errors of {_listed(noisy)} smaller than {sensitivity:g}: in "
            f"{worst.place}, relative errors below {worst.detection_limit:.1e} would not be "
            f"seen{remedy}"
        )
        found.append(Finding(NOISE_LIMITED, worst.layer, worst.name, say))
    return found


def _listed(tensors: list[TensorError]) -> str:
    names = [t.place for t in tensors]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
