"""How may a forward pass go wrong? One step of a layer, the same step of all, or the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bpbench.verify.diagnose.functions import FUNCTIONS
from bpbench.verify.diagnose.mistakes.output import TWICE
from bpbench.verify.diagnose.mistakes.row import Row, kind
from bpbench.verify.diagnose.readings import NORMS, Change


class Step(NamedTuple):
    """What a layer's step is: its activation, whether there are biases, whether W is square in
    every probe, so that its transpose runs, and whether it is the output.
    """

    name: str
    bias: bool
    square: bool
    last: bool


def _others(c: Step) -> Iterator[str]:
    taken = (c.name, "identity", *([] if c.last else ["softmax"]))
    return (name for name in FUNCTIONS if name not in taken)


ENTRYWISE: Callable[[Step], bool] = lambda c: c.name not in ("identity", "softmax")  # noqa: E731
Z_SCALED = kind(
    "z scaled in the forward pass", "take z as it is: a temperature is no part of the network"
)
SCALED = {
    "a": kind("a scaled in the forward pass", "take a as it is: dropout's factor is dropout's"),
    "z": Z_SCALED,
    "W": kind("W scaled in the forward pass", "take W as it is"),
}
CHANGES = (
    Row(kind("activation missing in the forward pass", "apply the activation"),
        "{c.name} is not applied to z", lambda c: Change("a", function="identity"), lambda c: c.name != "identity"),
    Row(kind("bias missing in the forward pass", "z is W a + b"), "z is W a without b", lambda c: Change("z", bias=0), lambda c: c.bias),
    Row(kind("bias added twice in the forward pass", "add b once: z is W a + b"),
        "b is added twice to z", lambda c: Change("z", bias=2), lambda c: c.bias),
    Row(kind("bias subtracted in the forward pass", "add b, do not subtract it: z is W a + b"),
        "b is taken from z", lambda c: Change("z", bias=-1), lambda c: c.bias),
    Row(kind("another activation in the forward pass", "use the network's activation, or describe the network with yours"),
        "the forward pass takes {v} where the network has {c.name}", lambda c, v: Change("a", function=v), each=_others),
    Row(kind("softmax over the wrong axis", "normalise each sample by itself"),
        "softmax is normalised over {v}, not over each sample's outputs", lambda c, v: Change("a", function=f"softmax over {v}"),
        lambda c: c.name == "softmax", lambda _: ("the samples", "everything")),
    Row(TWICE, "{c.name} is applied twice", lambda c: Change("a", function=f"{c.name} twice"), ENTRYWISE),
    Row(kind("sign of z in the forward pass", "apply the activation to z, not to -z"),
        "{c.name} is given -z", lambda c: Change("z", sign=-1), ENTRYWISE),
    Row(kind("z normalised in the forward pass", "switch batch or layer normalisation off to verify"),
        "z is {v}", lambda c, v: Change("z", norm=v), lambda c: not c.last, lambda _: NORMS),
    Row(Z_SCALED, "{c.name} is given {v:g} z", lambda c, v: Change("z", sign=v),
        lambda c: c.last and c.name in ("softmax", "sigmoid"), lambda _: (0.5, 2.0)),
    Row(kind("W transposed in the forward pass", "use W the other way round: z is W a + b"),
        "z is computed with W transposed", lambda c: Change("z", transpose=True), lambda c: c.square),
)  # fmt: skip
"""In the place of a layer's step."""


def changes(step: Step) -> Iterator[Change]:
    """The wrong ways of one layer's forward step."""
    for row in CHANGES:
        for (mistake, say), change in row.values(step):
            yield replace(change, mistake=mistake, say=say)


def scaling(what: str, k: float) -> Change:
    """The change that multiplies a, z, or W in the forward pass, by k."""
    change = {"a": Change("a", scale=k), "z": Change("z", sign=k), "W": Change("z", weight=k)}[what]
    return replace(change, mistake=SCALED[what].name, say=f"{what} is multiplied by {k:.6g}")


OWN_INPUTS = kind(
    "inputs changed", "take x as it comes, or describe the network with what you make of it"
)
X = (
    Row(OWN_INPUTS, "x is divided by 255", lambda x: x / 255),
    Row(OWN_INPUTS, "x is divided by its largest entry", lambda x: x / x.max()),
    Row(OWN_INPUTS, "x is divided by its largest size", lambda x: x / np.abs(x).max()),
    Row(OWN_INPUTS, "x is centred over the samples", lambda x: x - x.mean(axis=0)),
    Row(OWN_INPUTS, "x is centred over everything", lambda x: x - x.mean()),
    Row(OWN_INPUTS, "x is standardised over the samples", lambda x: (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-300)),
    Row(OWN_INPUTS, "x is standardised over everything", lambda x: (x - x.mean()) / (x.std() + 1e-300)),
    Row(OWN_INPUTS, "each sample of x has length 1", lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)),
    Row(OWN_INPUTS, "x has lost its signs", np.abs),
    Row(OWN_INPUTS, "the features of x come in reverse order", lambda x: x[:, ::-1].copy()),
)  # fmt: skip
"""In the place of x, (m, n_1)."""
