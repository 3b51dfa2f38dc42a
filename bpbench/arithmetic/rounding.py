"""What does rounding add to a result? Precisions, and the variance of what they round off.

Sources: Higham & Mary 2019, "A new approach to probabilistic rounding error analysis"; Ipsen & Zhou
2020, "Probabilistic error analysis for inner products".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bpbench.arithmetic import Array

ELEMENTARY = 4.0
"""Units of roundoff by which implementations of exp, tanh, erf and their kin differ."""


@dataclass(frozen=True)
class Precision:
    """What a dtype rounds to.

    Attributes:
        name: as messages call it.
        unit: the unit roundoff u, half the distance from 1 to the next number.
        tiny: what underflow may take off each result; never below 1e-150, whose square must not
            underflow here.
        operand: the unit roundoff to which the operands of products are rounded first.
        largest: the largest number that it holds.
    """

    name: str
    unit: float
    tiny: float
    operand: float = 0.0
    largest: float = float(np.finfo(np.float32).max)


def precision(dtype: str) -> Precision:
    """The precision of a NumPy dtype."""
    info = np.finfo(dtype)
    tiny, largest = max(float(info.tiny), 1e-150), float(info.max)
    return Precision(dtype, float(info.eps) / 2, tiny, largest=largest)


REDUCED = (
    Precision("products in TF32 or float16", 2.0**-24, 2.0**-126, 2.0**-11),
    Precision("products in bfloat16", 2.0**-24, 2.0**-126, 2.0**-8),
    Precision("float16 throughout", 2.0**-11, 2.0**-24, 2.0**-11),
    Precision("bfloat16 throughout", 2.0**-8, 2.0**-126, 2.0**-8),
)
"""What accelerators compute in where float32 is asked for."""


def dot_variance(terms: int, value: Array, squares: Array, p: Precision) -> Array:
    """The variance that computing a dot product adds.

    Args:
        terms: how many products are added.
        value: the dot product.
        squares: the sum of the squared products.
        p: what it is computed in.
    """
    own = p.unit**2 * terms / 9 * value**2 + (terms * p.tiny) ** 2
    return own + share(terms, p) * squares


def share(terms: int, p: Precision) -> float:
    """The part of ``dot_variance`` that multiplies the sum of squared products."""
    return p.unit**2 / 3 * (terms / 2 + 1) + 2 / 3 * p.operand**2


def log_form(z: Array, p: Precision) -> Array:
    """The relative error of sigmoid(z) when it is computed as e^(z - log(1 + e^z)).

    The difference errs by u |z|, but where z dwarfs log(1 + e^-z) it is just 0 and errs by that.
    """
    lost = np.where(z < 0, -z, np.minimum(z, np.exp(-np.maximum(z, 0)) / p.unit))
    return np.asarray((ELEMENTARY + lost) * p.unit)
