"""By which factor, or as which sum, does a formula explain what was found? By least squares."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from bpbench.network import Array

SKETCH = 48
"""Above so many columns a matrix is compared by this many random combinations of them."""


class Fit(NamedTuple):
    """How well values (K of them) times a factor each explain a target.

    Attributes:
        factor: (K,), the best factor; nan where the value is zero.
        miss: (K,), the largest deviation left, as a share of the target's largest entry.
    """

    factor: Array
    miss: Array


def fit(values: Array, target: Array) -> Fit:
    """Fit each of ``values``, (K, N), to ``target``, (N,), by one factor."""
    size = float(np.abs(target).max(initial=0))
    with np.errstate(all="ignore"):
        factor = (values @ target) / (values * values).sum(axis=1)
        left = np.abs(values * factor[:, None] - target).max(axis=1, initial=0)
        miss = left / size if size else np.full(len(values), np.inf)
    return Fit(factor, np.where(np.isfinite(miss), miss, np.inf))


def joined(pairs: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Values (K, N) and target (N,) of several parts, each as a share of its target's largest
    entry; a part that is zero is explained by nothing.
    """
    sizes = [float(np.abs(target).max(initial=0)) for _, target in pairs]
    if not all(sizes):
        return pairs[0][0], np.zeros(pairs[0][0].shape[1])
    return (
        np.concatenate([v / size for (v, _), size in zip(pairs, sizes, strict=True)], axis=1),
        np.concatenate([t / size for (_, t), size in zip(pairs, sizes, strict=True)]),
    )


def combine(columns: Sequence[Array] | Array, target: Array) -> tuple[Array, float]:
    """The coefficients by which a few columns, (N,) each, best explain a target, and the miss."""
    size = float(np.abs(target).max(initial=0))
    scales = np.array([max(float(np.abs(c).max(initial=0)), 1e-300) for c in columns])
    matrix = np.stack(list(columns), axis=1) / scales
    if not size or len(target) <= len(columns) or not np.isfinite(matrix).all():
        return np.full(len(columns), np.nan), np.inf
    coefficients, *_ = np.linalg.lstsq(matrix, target, rcond=None)
    miss = float(np.abs(matrix @ coefficients - target).max()) / size
    return coefficients / scales, miss


def sketched(matrix: Array) -> Array:
    """A matrix, (N, columns), by fewer columns that tell it apart, where it has many."""
    columns = matrix.shape[1]
    return matrix if columns <= SKETCH else np.asarray(matrix @ _mix(columns))


@cache
def _mix(columns: int) -> Array:
    """Random combinations of columns, always the same, (columns, SKETCH)."""
    mix = np.random.default_rng(columns).standard_normal((columns, SKETCH))
    return np.asarray(mix / np.sqrt(columns))
