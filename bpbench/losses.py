"""What is known of each loss? One row each: its outputs and targets, formulas, rounding and probes.

The judge, the probes, the conformance suite and the commands look here, and so does ``MLP``.
Backends never do: what is judged must not be taken from the judge. Every loss is a sum over the
outputs and a mean over the rows; the cross-entropies are computed from logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bpbench.activations import ACTIVATIONS, Activation
from bpbench.arithmetic import Array, Numbers
from bpbench.arithmetic.rounding import ELEMENTARY, Precision, log_form
from bpbench.errors import UsageError, unknown


@dataclass(frozen=True)
class ByOutput:
    """The derivative of a mean loss by a = a[-1], which is then carried through the activation.

    Attributes:
        error: (a, y) -> dL/da, (m, n), in any precision.
        curvature: (a, y) -> by how much dL/da moves with its own a.
        variance: (a, y, variance of a, precision) -> that of dL/da, a's errors included.
    """

    error: Callable[[Numbers, Numbers], Numbers]
    curvature: Callable[[Array, Array], Array | float]
    variance: Callable[[Array, Array, Array, Precision], Array]


@dataclass(frozen=True)
class ByLogits:
    """The derivative of a mean loss by z = z[-1] at once, where loss and output go together.

    Attributes:
        delta: (z, a, y) -> dL/dz, (m, n), in any precision.
        variance: (z, a, y, variance of a, precision) -> that of dL/dz.
        entries, error: (a, y) -> the loss of each output, and dL/da, as they are written down, with
            logarithms and quotients of a: what people start from whose gradient is diagnosed.
    """

    delta: Callable[[Numbers, Numbers, Numbers], Numbers]
    variance: Callable[[Array, Array, Array, Array, Precision], Array]
    entries: Callable[[Array, Array], Array]
    error: Callable[[Array, Array], Array]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One loss.

    Attributes:
        outputs: the output activations that it goes with; None for every one.
        output: the one that is taken where none is named.
        default_of: the outputs whose loss this is where none is named.
        classes: whether a row of y may stand for the number of a class.
        unfit: y -> what is wrong with it as expected outputs, and what is expected; None where
            nothing is wrong.
        draw: (generator, m, n, output) -> expected outputs for a probe, (m, n).
        entries: (z, a, y) -> the loss of each output, (m, n), in any precision.
        variance: (z, a, y, entries, variance of z, that of a, precision) -> that of the entries.
        derivative: by the output, or by the logits at once.
        saturating: the size of z[-1] at which a probability is exactly 0 or 1.
        large: the factor by which y may grow so that the gradient is a large one.
    """

    outputs: tuple[str, ...] | None
    output: str
    default_of: tuple[str, ...]
    classes: bool
    unfit: Callable[[Array], tuple[str, str] | None]
    draw: Callable[[np.random.Generator, int, int, Activation], Array]
    entries: Callable[[Numbers, Numbers, Numbers], Numbers]
    variance: Callable[[Array, Array, Array, Array, Array, Array, Precision], Array]
    derivative: ByOutput | ByLogits
    saturating: float
    large: float

    @property
    def allowed(self) -> tuple[str, ...]:
        """The names of the output activations that it goes with."""
        return tuple(ACTIVATIONS) if self.outputs is None else self.outputs


# ── Expected outputs ───────────────────────────────────────────────────────────────────────────


def _no_probabilities(y: Array) -> tuple[str, str] | None:
    low, high = y.min(), y.max()
    if low >= 0 and high <= 1:
        return None
    return f"goes from {low:g} to {high:g}", "probabilities, from 0 to 1"


def _no_distributions(y: Array) -> tuple[str, str] | None:
    sums = y.sum(axis=1, dtype=np.float64)
    row = int(np.abs(sums - 1).argmax())
    unfit = _no_probabilities(y)
    if unfit is None and abs(sums[row] - 1) > 1e-3:
        unfit = (
            f"has rows that do not sum to 1 (row {row} sums to {sums[row]:g})",
            "one-hot classes or probabilities",
        )
    return unfit


def _such_as_outputs(rng: np.random.Generator, m: int, n: int, output: Activation) -> Array:
    """Between 0 and 1 where the outputs are, rows that sum to 1 where theirs do, else any."""
    if not output.probabilities:
        return rng.standard_normal((m, n))
    return rng.uniform(0, 1, (m, n)) if output.hidden else rng.dirichlet(np.ones(n), m)


def _zeros_and_ones(rng: np.random.Generator, m: int, n: int, output: Activation) -> Array:
    return rng.permutation((np.arange(m * n) % 2).astype(float)).reshape(m, n)


def _one_hot(rng: np.random.Generator, m: int, n: int, output: Activation) -> Array:
    return np.asarray(np.eye(n)[rng.permutation(np.arange(m) % n)])


# ── Half the squared error ─────────────────────────────────────────────────────────────────────


def _difference(a: Numbers, y: Numbers) -> Numbers:
    return (a - y) / float(len(y))


def _difference_variance(a: Array, y: Array, Va: Array, p: Precision) -> Array:
    return np.asarray(Va / len(y) ** 2 + (2 * p.unit * _difference(a, y)) ** 2)


# ── Binary cross-entropy with sigmoid ──────────────────────────────────────────────────────────


def _binary(z: Numbers, a: Numbers, y: Numbers) -> Numbers:
    """y log(1 + e^-z) + (1 - y) log(1 + e^z)."""
    tail = np.log1p(np.exp(-abs(z)))
    return y * np.maximum(-z, 0.0) + (1.0 - y) * np.maximum(z, 0.0) + tail


def _binary_variance(
    z: Array, a: Array, y: Array, entries: Array, Vz: Array, Va: Array, p: Precision
) -> Array:
    return np.asarray((a - y) ** 2 * Vz + p.unit**2 * ((ELEMENTARY * entries) ** 2 + z**2))


def _binary_delta(z: Numbers, a: Numbers, y: Numbers) -> Numbers:
    e = np.exp(-abs(z))  # a - y = a (1 - y) - (1 - a) y, which does not cancel at y = 1
    error = np.where(z >= 0, 1.0 - y - e * y, e * (1.0 - y) - y)
    return error / (e + 1.0) / float(len(y))


def _binary_delta_variance(z: Array, a: Array, y: Array, Va: Array, p: Precision) -> Array:
    V = _labels_variance(a, y, Va, p)  # from logits, by whichever formula
    V = V + (log_form(z, p) * (1 - y) * a) ** 2 + (log_form(-z, p) * y * (1 - a)) ** 2
    return np.asarray(V / len(y) ** 2)


def _labels_variance(a: Array, y: Array, Va: Array, p: Precision) -> Array:
    """Of a - y."""
    return np.asarray(Va + (2 * p.unit * (a - y)) ** 2 + (2 * p.unit * _soft(a, y)) ** 2)


def _soft(a: Array, y: Array) -> Array:
    """Labels of 0 and 1 are exact factors; others are rounded, even where a - y is small."""
    return np.where((y == 0) | (y == 1), 0.0, y + a)


# ── Cross-entropy with softmax ─────────────────────────────────────────────────────────────────


def _entropy(z: Numbers, a: Numbers, y: Numbers) -> Numbers:
    r = z - z.max(axis=1, keepdims=True)
    return y * (np.log(np.exp(r).sum(axis=1, keepdims=True)) - r)


def _entropy_variance(
    z: Array, a: Array, y: Array, entries: Array, Vz: Array, Va: Array, p: Precision
) -> Array:
    top = z.max(axis=1, keepdims=True)
    r = z - top
    log_sum = np.log(np.exp(r).sum(axis=1, keepdims=True))
    rounding = (y * p.unit) ** 2 * (r**2 + 2 * (ELEMENTARY * log_sum) ** 2 + top**2)
    return np.asarray((a - y) ** 2 * Vz + rounding)


def _entropy_delta(z: Numbers, a: Numbers, y: Numbers) -> Numbers:
    return (a * y.sum(axis=1, keepdims=True) - y) / float(len(y))


def _entropy_delta_variance(z: Array, a: Array, y: Array, Va: Array, p: Precision) -> Array:
    soft = _soft(a, y).max(axis=1, keepdims=True) > 0
    V = _labels_variance(a, y, Va, p) + (2 * p.unit * a * soft) ** 2
    return np.asarray(V / len(y) ** 2)


# ── The rows ───────────────────────────────────────────────────────────────────────────────────

LOSSES: dict[str, Loss] = {
    "half_squared_error": Loss(
        outputs=None, output="sigmoid", default_of=(), classes=False,
        unfit=lambda y: None, draw=_such_as_outputs,
        entries=lambda z, a, y: 0.5 * ((a - y) * (a - y)),
        variance=lambda z, a, y, entries, Vz, Va, p: (a - y) ** 2 * (Va + (p.unit * (a - y)) ** 2),
        derivative=ByOutput(_difference, lambda a, y: 1 / len(y), _difference_variance),
        saturating=800.0, large=1000.0,
    ),
    "binary_cross_entropy": Loss(
        outputs=("sigmoid",), output="sigmoid", default_of=(), classes=False,
        unfit=_no_probabilities, draw=_zeros_and_ones, entries=_binary, variance=_binary_variance,
        derivative=ByLogits(
            _binary_delta, _binary_delta_variance,
            entries=lambda a, y: -(y * np.log(a) + (1 - y) * np.log(1 - a)),
            error=lambda a, y: (a - y) / (a * (1 - a)) / len(y),
        ),
        saturating=60.0, large=1.0,
    ),
    "cross_entropy": Loss(
        outputs=("softmax",), output="softmax", default_of=("softmax",), classes=True,
        unfit=_no_distributions, draw=_one_hot, entries=_entropy, variance=_entropy_variance,
        derivative=ByLogits(
            _entropy_delta, _entropy_delta_variance,
            entries=lambda a, y: -np.where(y > 0, y * np.log(a), 0),
            error=lambda a, y: -y / a / len(y),
        ),
        saturating=800.0, large=1.0,
    ),
}  # fmt: skip


def find_loss(name: str) -> Loss:
    """The row of a loss; raises UsageError where there is none."""
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    return LOSSES[name]


def check_targets(loss: str, y: Array, where: str = "") -> None:
    """Raise UsageError, which begins with ``where``, unless a loss allows y, (m, n)."""
    unfit = find_loss(loss).unfit(y)
    if unfit is not None:
        raise UsageError(f"{where}y {unfit[0]}; loss {loss!r} expects {unfit[1]}")


def completed(output: str | None, loss: str | None, otherwise: str) -> tuple[str, str]:
    """The output activation and the loss that are meant where one of them or both are None.

    Args:
        otherwise: the loss where both are None.
    """
    if loss is None and output is not None:
        own = (name for name, row in LOSSES.items() if output in row.default_of)
        loss = next(own, "half_squared_error")
    loss = otherwise if loss is None else loss
    return (find_loss(loss).output if output is None else output), loss
