"""How far may a correct computation in a given dtype stray from the truth?

Standard deviations of rounding, entry by entry: the variances of ``variance``, widened where runs
of our own in that dtype (``runs``) stray further, because their errors are correlated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bpbench.activations import find_activation
from bpbench.arithmetic.rounding import ELEMENTARY, Precision, precision
from bpbench.backend import Backpropagation, map_arrays
from bpbench.network import MLP, Array, Parameters
from bpbench.verify import runs, truth
from bpbench.verify.variance import CORNER_SIGMAS, Problem, variances

STRAYED_FACTOR = 5 / 8
"""A tensor is wrong where it is off as a whole by five times as much as any of our own runs."""

Place = tuple[str, int | None]
"""A tensor's name and layer: ("dW", 0), ("loss", None)."""


def parts(found: Backpropagation[Any]) -> Iterator[tuple[Place, Any]]:
    """Every tensor of a backpropagation that is there, with its place."""
    if found.loss is not None:
        yield ("loss", None), found.loss
    for name in ("z", "a", "delta"):
        for layer, value in enumerate(getattr(found, name) or ()):
            yield (name, layer), value
    for name, values in (("dW", found.gradients.W), ("db", found.gradients.b)):
        for layer, value in enumerate(values or ()):
            yield (name, layer), value
    if found.input_gradient is not None:
        yield ("input_gradient", None), found.input_gradient


@dataclass(frozen=True)
class Tolerance:
    """The truth about one backpropagation, and how far rounding may stray from it.

    Attributes:
        true: in the precision above ``dtype``.
        problem: the same in float64, for ``variances``.
        correlation: by how much the standard deviations of each tensor are to be widened.
        sigma: the standard deviation of rounding in every entry of every tensor.
        factor: the same for the one factor by which each tensor as a whole may be off.
        dtype: what is judged.
    """

    true: Backpropagation[Any]
    problem: Problem
    correlation: dict[Place, float]
    sigma: dict[Place, Array]
    factor: dict[Place, float]
    dtype: str

    @cached_property
    def exact(self) -> dict[Place, Any]:
        """The truth by tensor, in the precision above ``dtype``."""
        return dict(parts(self.true))

    @cached_property
    def rounded(self) -> dict[Place, Array]:
        """The truth by tensor, in float64."""
        return {place: np.asarray(v) for place, v in parts(self.problem.true)}

    def sigmas(
        self, rounding: Precision | None = None, corners: Sequence[Array] | None = None
    ) -> dict[Place, Array]:
        """``sigma`` in another precision, or with units near their corner on either side.

        Args:
            rounding: what is computed in; the dtype's own precision where None.
            corners: (m, n_l) each: units that may be on either side of their corner.
        """
        if rounding is None and corners is None:
            return self.sigma
        rounding = precision(self.dtype) if rounding is None else rounding
        V = variances(self.problem, rounding, corners)
        return {place: np.sqrt(v) * self.correlation[place] for place, v in parts(V)}

    def near_corners(self, sigma: Mapping[Place, Array]) -> list[Array]:
        """(m, n_l) each: the units of a relu so near to their corner that rounding decides."""
        return near_corners(self.problem.network, self.problem.true.z, sigma, self.dtype)


def near_corners(
    network: MLP, z: Sequence[Array], sigma: Mapping[Place, Array], dtype: str
) -> list[Array]:
    """(m, n_l) each: the units of a relu so near to their corner that rounding decides.

    An exact zero that only underflow could move (a dead input, no bias) is not near: its
    derivative is the convention's.

    Args:
        z: (m, n_l) each.
        sigma: their standard deviations, by place.
        dtype: what is computed in.
    """
    near = []
    for layer, (name, value) in enumerate(zip(network.activations, z, strict=True)):
        limit = CORNER_SIGMAS * sigma["z", layer]
        underflow = 1e3 * network.sizes[layer] * precision(dtype).tiny
        close = (np.abs(value) < limit) & ((value != 0) | (limit > underflow))
        smooth = find_activation(name).corner is None
        near.append(np.zeros_like(close) if smooth else close)
    return near


def tolerance(
    network: MLP,
    parameters: Parameters,
    x: Array,
    y: Array | None,
    cotangent: Array | None,
    l2: float,
    dtype: str,
    positive: Sequence[Array] | None = None,
) -> Tolerance:
    """The truth about one backpropagation in ``dtype``, with what it takes to judge one.

    Args:
        network, parameters, x, y, cotangent, l2: rounded to ``dtype`` already.
        dtype: what is judged.
        positive: (m, n_l) each, which side of a relu's corner each unit is on, instead of z > 0.
    """
    true = truth.backpropagate(
        network, parameters, x, y, cotangent=cotangent, l2=l2,
        dtype=truth.precision_above(dtype), positive=positive,
    )  # fmt: skip
    rounded = map_arrays(lambda v: np.asarray(v.astype(np.float64)), true)
    sides = [z > 0 for z in rounded.z] if positive is None else list(positive)
    double = parameters.astype(np.float64)
    problem = Problem(
        network,
        double.W,
        double.b,
        x.astype(np.float64),
        None if y is None else y.astype(np.float64),
        None if cotangent is None else cotangent.astype(np.float64),
        l2,
        rounded,
        sides,
    )
    V = variances(problem, precision(dtype))
    sigma = {place: np.sqrt(v) for place, v in parts(V)}
    exactly = dict(parts(rounded))
    strayed = dict.fromkeys(sigma, 0.0)
    # Constants (1/m, a slope) and elementary functions may be off for all entries alike.
    least = ELEMENTARY * precision(dtype).unit
    factor = {k: max(factor_off(0.0, exactly[k], sigma[k])[1], least) for k in sigma}
    for run in runs.backpropagations(problem, dtype):
        for (place, value), (_, exact) in zip(parts(run), parts(true), strict=True):
            off = difference(value, exact)
            ratio = np.abs(off) / sigma[place]
            strayed[place] = max(strayed[place], float(ratio[np.isfinite(ratio)].max(initial=0)))
            common = abs(factor_off(off, exactly[place], sigma[place])[0])
            factor[place] = max(factor[place], STRAYED_FACTOR * common)
    correlation = {place: max(1.0, most / 2) for place, most in strayed.items()}
    sigma = {place: value * correlation[place] for place, value in sigma.items()}
    return Tolerance(true, problem, correlation, sigma, factor, dtype)


def difference(found: Any, true: Any) -> Array:
    """found - true, taken in the truth's precision, as float64."""
    return np.asarray((np.asarray(found) - true).astype(np.float64))


def distance(found: Any, true: Any) -> Array:
    """|found - true|, taken in the truth's precision, as float64."""
    return np.abs(difference(found, true))


def factor_off(off: Array | float, true: Array, sigma: Array) -> tuple[float, float]:
    """By what share of itself a tensor is off as a whole, and the standard deviation of that.

    The share is the one that fits the errors best, each weighed by its own deviation; it shows a
    common factor that is too near to 1 to show in any single entry.

    Args:
        off: found - true.
        true: the truth.
        sigma: the standard deviations of independent errors.
    """
    weight = np.clip(true / sigma, -1e8, 1e8)
    total = float((true / sigma * weight).sum())
    if not 0 < total < np.inf:
        return 0.0, np.inf
    share = float((off / sigma * weight).sum()) / total
    return share, float(np.sqrt((weight**2).sum())) / total
