"""By which factor does a guess explain what was found, and what is that factor?

A guess is fitted to what was found by least squares, probe by probe. A factor is named by what it
is in every probe: the batch size, the number of outputs, a 2, a sign, or any other constant.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bpbench.network import Array

SKETCH = 48
"""Above so many columns a matrix is compared by this many random combinations of them."""


@dataclass(frozen=True)
class Fit:
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


def fit_together(values: Sequence[Array], targets: Sequence[Array]) -> Fit:
    """Fit by one factor what has several parts (dW and db), each weighed by its own size."""
    scaled = [(v, t, float(np.abs(t).max(initial=0))) for v, t in zip(values, targets, strict=True)]
    if any(not size for _, _, size in scaled):
        return Fit(np.full(len(values[0]), np.nan), np.full(len(values[0]), np.inf))
    return fit(
        np.concatenate([v / size for v, _, size in scaled], axis=1),
        np.concatenate([t / size for _, t, size in scaled]),
    )


def combine(columns: Sequence[Array], target: Array) -> tuple[Array, float]:
    """The coefficients by which a few columns, (N,) each, best explain a target, and the miss."""
    size = float(np.abs(target).max(initial=0))
    scales = np.array([max(float(np.abs(c).max(initial=0)), 1e-300) for c in columns])
    matrix = np.stack(columns, axis=1) / scales
    if not size or len(target) <= len(columns) or not np.isfinite(matrix).all():
        return np.full(len(columns), np.nan), np.inf
    coefficients, *_ = np.linalg.lstsq(matrix, target, rcond=None)
    miss = float(np.abs(matrix @ coefficients - target).max()) / size
    return coefficients / scales, miss


def sketch(columns: int) -> Array | None:
    """A fixed random matrix, (columns, SKETCH), that tells matrices apart by fewer columns; None
    where there are few enough already.
    """
    if columns <= SKETCH:
        return None
    mix = np.random.default_rng(columns).standard_normal((columns, SKETCH))
    return np.asarray(mix / np.sqrt(columns))


# ── What is a factor? ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Factor:
    """A reading of the factors found in several probes.

    Attributes:
        cost: how far-fetched it is: 0 for the factor 1.
        mistakes: (name, what was seen) each.
    """

    cost: float
    mistakes: tuple[tuple[str, str], ...]


Quantities = Mapping[str, Array]
"""What a factor may be made of, with its value in each probe: m, n_L, n_out, n_in, n_1, n_above."""

_WORDS = {
    "m": "the number of samples",
    "m - 1": "the number of samples less 1",
    "n_L": "the number of outputs",
    "n_1": "the number of inputs",
    "n_out": "the number of the layer's units",
    "n_in": "the number of the layer's inputs",
    "n_above": "the number of units of the layer above",
}
_CONSTANTS = {1.0: (), -1.0: ("sign",), 2.0: ("half",), 0.5: ("half",),
              -2.0: ("sign", "half"), -0.5: ("sign", "half")}  # fmt: skip


def read_factor(
    factors: Array,
    quantities: Quantities,
    tensor: str,
    tolerance: float,
    learning_rate: bool = True,
) -> list[Factor]:
    """What a factor may be, the simplest reading first; empty where it is no rule at all.

    Args:
        factors: (P,), as found in each probe.
        quantities: (P,) each.
        tensor: "delta", "dW" or "db": the same factor has another name in each.
        tolerance: the relative deviation that the fit allows.
    """
    if not np.isfinite(factors).all() or not factors.all():
        return []
    if _constant(factors, 1.0, tolerance):
        return [Factor(0.0, ())]
    found: list[Factor] = []
    seen: dict[tuple[float, ...], int] = {}
    for powers in _powers(quantities):
        product = np.ones(len(factors))
        for name, power in powers:
            product = product * quantities[name] ** power
        rest = factors / product
        mean = float(rest.mean())
        if not np.allclose(rest, mean, rtol=tolerance, atol=0):
            continue
        near = next((k for k in _CONSTANTS if abs(mean / k - 1) < tolerance), None)
        varies = np.ptp(product) > 0 or len(factors) == 1
        if near is None and powers and not (varies and len(powers) == 1 and powers[0][0] == "m"):
            continue
        if near is None and powers and abs(powers[0][1]) > 1:
            continue
        key = (near or 0.0, *product)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > (2 if len(powers) == 1 else 1):
            continue  # where sizes are equal, one other name will do
        found.append(
            _named(powers, mean if near is None else near, near is not None, tensor, factors)
        )
    found.sort(key=lambda f: f.cost)
    return [f for f in found if f.cost < found[0].cost + 0.25]


def _powers(quantities: Quantities) -> list[tuple[tuple[str, int], ...]]:
    """Products of powers of the quantities, the simplest first; a quantity that is 1 is none."""
    names = [name for name, values in quantities.items() if (values != 1).any()]
    single = [((name, power),) for power in (-1, 1, -2, 2) for name in names]
    double = [
        ((one, p), (other, q))
        for one, other in itertools.combinations(names, 2)
        for p in (-1, 1)
        for q in (-1, 1)
    ]
    return [(), *single, *double]


def _constant(factors: Array, value: float, tolerance: float) -> bool:
    return bool(np.allclose(factors, value, rtol=tolerance, atol=0))


def _named(
    powers: tuple[tuple[str, int], ...], constant: float, simple: bool, tensor: str, factors: Array
) -> Factor:
    mistakes: list[tuple[str, str]] = []
    exponents = dict(powers)
    cost = 0.0
    if simple:
        if "sign" in _CONSTANTS[constant]:
            mistakes.append(("sign", "it has the opposite sign"))
            cost += 1
        if "half" in _CONSTANTS[constant]:
            word = "twice" if abs(constant) == 2 else "half"
            mistakes.append(("half missing or extra", f"it is {word} what it should be"))
            cost += 1
    elif exponents:
        say = f"it is {_listed(factors)} times what it should be: {constant:.4g} m"
        return Factor(1.7, (("hard-coded batch size", say),))
    else:
        say = f"it is {constant:.6g} times what it should be in every probe"
        base = next((b for b in (2, 10) if abs(constant * np.log(b) - 1) < 1e-9), None)
        if base is not None:
            say += f", which is 1 / ln {base}"
            return Factor(1.05, (("logarithm of another base", say),))
        step = tensor == "delta" and abs(constant) < 1
        return Factor(1.1, (("learning rate folded in" if step else "constant factor", say),))
    if len(powers) == 2 and {p for _, p in powers} == {1, -1} and "m" in exponents:
        wrong = next(name for name in exponents if name != "m")
        if exponents["m"] == 1 and wrong == "m - 1":
            say = "it is divided by m - 1, not by m"
            return Factor(cost + 1.0, (*mistakes, ("divided by m - 1", say)))
        if exponents["m"] == 1:
            say = f"it is divided by {_WORDS[wrong]}, not by the number of samples"
            return Factor(cost + 1.1, (*mistakes, ("divided by the wrong axis", say)))
    for name, power in powers:
        mistakes.append(_power_named(name, power, tensor, factors if len(powers) == 1 else None))
        # m and n_L are what a mean is taken over; other sizes are rarer
        cost += (1.0 if name in ("m", "n_L") else 1.2) + 0.3 * (abs(power) - 1)
    return Factor(cost, tuple(mistakes))


def _power_named(name: str, power: int, tensor: str, factors: Array | None) -> tuple[str, str]:
    times = "" if factors is None else f" ({_listed(factors)} times in the probes)"
    if name == "m" and power == 1:
        return "no 1/m", f"it is m times what it should be{times}"
    if name == "m" and power == -1:
        if tensor == "db":
            return "db averaged", f"it is 1/m of what it should be{times}"
        return "1/m twice", f"it is 1/m of what it should be{times}"
    if name == "n_L" and power == -1:
        return "mean over outputs too", f"it is 1/n_L of what it should be{times}"
    exponent = "" if abs(power) == 1 else f"^{abs(power)}"
    verb = "multiplied" if power > 0 else "divided"
    return f"{verb} by a size", f"it is {verb} by {_WORDS[name]}{exponent}{times}"


def _listed(factors: Array) -> str:
    shown = [f"{f:.4g}" for f in dict.fromkeys(np.round(factors, 12).tolist())]
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "")
