"""How may a forward pass have been computed? The right way, and the wrong ways that are known.

Gradients alone are looked at, so a wrong forward pass shows in what multiplies delta: if a layer
has more inputs than there are samples, the rows of its dW lie in the span of the inputs it used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.functions import function_of
from bpbench.verify.diagnose.probe import Probe


@dataclass(frozen=True)
class Reading:
    """One forward pass.

    Attributes:
        z, a: (m, n_l) each.
        functions: the name in FUNCTIONS of each layer's activation, as it was taken.
        wrong: the mistakes that it holds: (name, layer, tensor, what was seen).
    """

    z: tuple[Array, ...]
    a: tuple[Array, ...]
    functions: tuple[str, ...]
    wrong: tuple[tuple[str, int, str, str], ...] = ()

    def slope(self, layer: int, z: Array | None = None) -> Array | None:
        """f'(z) of a layer, (m, n_l); None for softmax."""
        return function_of(self.functions[layer])(self.z[layer] if z is None else z)[1]


@dataclass(frozen=True)
class Change:
    """A wrong step of a forward pass: z is ``sign`` times a norm of W a ``weight`` times and b
    ``bias`` times, and a is ``scale`` times a function of it.

    Attributes:
        tensor: "z" or "a", where it goes wrong.
        mistake, say: its name, and what is seen of it.
    """

    tensor: str
    bias: float = 1.0
    function: str | None = None
    transpose: bool = False
    sign: float = 1.0
    norm: str | None = None
    scale: float = 1.0
    weight: float = 1.0
    mistake: str = ""
    say: str = ""


NORMS: Mapping[str, Callable[[Array], Array]] = {
    "centred over the samples": lambda z: z - z.mean(axis=0),
    "standardised over the samples": lambda z: (z - z.mean(axis=0)) / (z.std(axis=0) + 1e-300),
    "centred over the units": lambda z: z - z.mean(axis=1, keepdims=True),
    "standardised over the units": lambda z: (
        (z - z.mean(axis=1, keepdims=True)) / (z.std(axis=1, keepdims=True) + 1e-300)
    ),
}
"""What is left of a batch or layer normalisation."""


def right(probe: Probe) -> Reading:
    """The forward pass of the probe's network, in float64."""
    return read(probe, {})


def read(probe: Probe, changed: Mapping[int, Change]) -> Reading:
    """The forward pass with some layers' steps changed."""
    z: list[Array] = []
    a: list[Array] = []
    names: list[str] = []
    below = probe.x
    for layer in range(probe.network.layers):
        total, below, name = step(probe, layer, below, changed.get(layer))
        z.append(total)
        a.append(below)
        names.append(name)
    wrong = tuple(
        (change.mistake, layer, change.tensor, change.say) for layer, change in changed.items()
    )
    return Reading(tuple(z), tuple(a), tuple(names), wrong)


def step(probe: Probe, layer: int, below: Array, change: Change | None) -> tuple[Array, Array, str]:
    """One layer's z and a, (m, n_l), and the name of the function that was taken."""
    if change is None:
        change = Change("z")
    W = probe.W[layer]
    z = change.weight * (below @ (W if change.transpose else W.T))
    if probe.b:
        z = z + change.bias * probe.b[layer]
    if change.norm is not None:
        z = NORMS[change.norm](z)
    name = change.function or probe.network.activations[layer]
    with np.errstate(all="ignore"):
        a = change.scale * function_of(name)(change.sign * z)[0]
        return change.sign * z, a, name
