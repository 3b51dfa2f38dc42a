"""Which functions may a layer apply? bpbench's activations, and those that people take for them."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from bpbench.activations import ACTIVATIONS, Activation
from bpbench.arithmetic import Array
from bpbench.errors import unknown

Function = Callable[[Array], tuple[Array, Array | None]]
"""z -> f(z) and f'(z); None where f does not work entry by entry."""


def _leaky(slope: float) -> Function:
    return lambda z: (np.where(z > 0, z, slope * z), np.where(z > 0, 1.0, slope))


def _gelu_by_tanh(z: Array) -> tuple[Array, Array]:
    k = np.sqrt(2 / np.pi)
    t = np.tanh(k * (z + 0.044715 * z**3))
    return z * (1 + t) / 2, (1 + t) / 2 + z * (1 - t * t) * k * (1 + 3 * 0.044715 * z**2) / 2


def _softmax_over(axis: int | None) -> Function:
    def function(z: Array) -> tuple[Array, None]:
        e = np.exp(z - z.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True), None

    return function


def _scaled_tanh(z: Array) -> tuple[Array, Array]:
    t = np.tanh(2 * z / 3)
    return 1.7159 * t, 1.7159 * 2 / 3 * (1 - t * t)


def _elu(alpha: float, scale: float = 1.0) -> Function:
    def function(z: Array) -> tuple[Array, Array]:
        low = np.expm1(np.minimum(z, 0))
        a = scale * np.where(z > 0, z, alpha * low)
        return a, scale * np.where(z > 0, 1, alpha * (low + 1))

    return function


def _clipped(slope: float, middle: float, high: float) -> Function:
    """slope z + middle, cut off at 0 and ``high``."""

    def function(z: Array) -> tuple[Array, Array]:
        line = slope * z + middle
        return np.clip(line, 0, high), np.where((line > 0) & (line < high), slope, 0.0)

    return function


def _gelu_by_sigmoid(z: Array) -> tuple[Array, Array]:
    s = 1 / (1 + np.exp(-1.702 * z))
    return z * s, s + 1.702 * z * s * (1 - s)


def _softsign(z: Array) -> tuple[Array, Array]:
    return z / (1 + np.abs(z)), 1 / (1 + np.abs(z)) ** 2


class _OfRows(Mapping[str, Any]):
    """One fact of each activation, as the rows have it now; rows without it are left out."""

    def __init__(self, fact: Callable[[Activation], Any]) -> None:
        self.fact = fact

    def __getitem__(self, name: str) -> Any:
        value = self.fact(ACTIVATIONS[name])
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name, row in ACTIVATIONS.items() if self.fact(row) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


_TAKEN_FOR_THEM: dict[str, Function] = {
    "gelu by its tanh form": _gelu_by_tanh,
    "leaky_relu of slope 0.1": _leaky(0.1),
    "leaky_relu of slope 0.2": _leaky(0.2),
    "leaky_relu of slope 0.3": _leaky(0.3),
    "leaky_relu of slope 0.001": _leaky(0.001),
    "gelu by sigmoid(1.702 z)": _gelu_by_sigmoid,
    "elu of alpha 0.1": _elu(0.1),
    "elu of alpha 0.5": _elu(0.5),
    "elu of alpha 2": _elu(2.0),
    "selu": _elu(1.6732632423543772, 1.0507009873554805),
    "relu6": _clipped(1.0, 0.0, 6.0),
    "hard sigmoid": _clipped(0.2, 0.5, 1.0),
    "1.7159 tanh(2z/3)": _scaled_tanh,
    "softsign": _softsign,
}
FUNCTIONS: Mapping[str, Function] = ChainMap(
    _TAKEN_FOR_THEM, cast(dict[str, Function], _OfRows(lambda row: row.careful))
)
"""The activations of bpbench, and then others that people take for them."""

OF_OUTPUT: Mapping[str, Callable[[Array], Array]] = _OfRows(lambda row: row.slope_of_output)
"""f' written as a formula of a = f(z), which goes wrong when it is given z."""


def function_of(name: str) -> Function:
    """The function behind a name: one of FUNCTIONS, a softmax over a wrong axis, or f twice."""
    if name.endswith(" twice"):
        return _twice(FUNCTIONS[name.removesuffix(" twice")])
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    over = {"softmax over the samples": 0, "softmax over everything": None}
    if name not in over:
        raise unknown("activation", name, [*FUNCTIONS, *over])
    return _softmax_over(over[name])


def _twice(f: Function) -> Function:
    def function(z: Array) -> tuple[Array, Array | None]:
        inner, inner_slope = f(z)
        outer, outer_slope = f(inner)
        assert inner_slope is not None
        assert outer_slope is not None
        return outer, outer_slope * inner_slope

    return function
