"""How may a forward pass have been computed? The right way, and the wrong ways that are known.

Gradients alone are looked at, so a wrong forward pass shows in what multiplies delta: if a layer
has more inputs than there are samples, the rows of its dW lie in the span of the inputs it used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.functions import FUNCTIONS, function_of
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
    """A wrong step of a forward pass: what it does to z and which activation it takes."""

    mistake: str
    tensor: str
    say: str
    bias: float = 1.0
    function: str | None = None
    transpose: bool = False
    sign: float = 1.0
    norm: str | None = None
    scale: float = 1.0
    weight: float = 1.0


NORMS: Mapping[str, Callable[[Array], Array]] = {
    "centred over the samples": lambda z: z - z.mean(axis=0),
    "standardised over the samples": lambda z: (z - z.mean(axis=0)) / (z.std(axis=0) + 1e-300),
    "centred over the units": lambda z: z - z.mean(axis=1, keepdims=True),
    "standardised over the units": lambda z: (
        (z - z.mean(axis=1, keepdims=True)) / (z.std(axis=1, keepdims=True) + 1e-300)
    ),
}
"""What is left of a batch or layer normalisation."""


def changes(name: str, bias: bool, square: bool, last: bool) -> Iterator[Change]:
    """The wrong ways of one layer's forward step.

    Args:
        name: the layer's activation.
        bias: whether the network has biases.
        square: whether the layer's W is square, so that its transpose runs.
        last: whether it is the output layer.
    """
    if name != "identity":
        yield Change(
            "activation missing in the forward pass", "a", f"{name} is not applied to z",
            function="identity",
        )  # fmt: skip
    if bias:
        yield Change("bias missing in the forward pass", "z", "z is W a without b", bias=0)
        yield Change("bias added twice in the forward pass", "z", "b is added twice to z", bias=2)
        yield Change("bias subtracted in the forward pass", "z", "b is taken from z", bias=-1)
    for other in FUNCTIONS:
        if other in (name, "identity") or (other == "softmax" and not last):
            continue
        say = f"the forward pass takes {other} where the network has {name}"
        yield Change("another activation in the forward pass", "a", say, function=other)
    if name == "softmax":
        for axis in ("the samples", "everything"):
            yield Change(
                "softmax over the wrong axis", "a",
                f"softmax is normalised over {axis}, not over each sample's outputs",
                function=f"softmax over {axis}",
            )  # fmt: skip
    elif name != "identity":
        yield Change(
            "activation applied twice", "a", f"{name} is applied twice", function=f"{name} twice"
        )
        yield Change("sign of z in the forward pass", "z", f"{name} is given -z", sign=-1)
    if not last:
        for norm in NORMS:
            yield Change("z normalised in the forward pass", "z", f"z is {norm}", norm=norm)
    elif name in ("softmax", "sigmoid"):
        for scale in (0.5, 2.0):
            yield Change(
                "z scaled in the forward pass", "z", f"{name} is given {scale:g} z", sign=scale
            )
    if square:
        yield Change(
            "W transposed in the forward pass", "z", "z is computed with W transposed",
            transpose=True,
        )  # fmt: skip


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
    name = probe.network.activations[layer]
    if change is None:
        change = Change("", "", "")
    W = probe.W[layer]
    z = change.weight * (below @ (W if change.transpose else W.T))
    if probe.b:
        z = z + change.bias * probe.b[layer]
    if change.norm is not None:
        z = NORMS[change.norm](z)
    name = change.function or name
    with np.errstate(all="ignore"):
        a = change.scale * function_of(name)(change.sign * z)[0]
        return change.sign * z, a, name
