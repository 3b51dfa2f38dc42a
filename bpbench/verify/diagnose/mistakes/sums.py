"""Which mistakes have numbers in them that nobody can guess? Sums of a few terms, fitted together.

A learning rate, an epsilon, the coefficients of a wrong derivative: the same weights must explain
every probe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.mistakes.context import Context, taken
from bpbench.verify.diagnose.mistakes.row import Kind, Seen, kind
from bpbench.verify.diagnose.mistakes.slopes import WRONG
from bpbench.verify.diagnose.probe import usable


@dataclass(frozen=True)
class Sum:
    """A mistake that gives a sum.

    Attributes:
        say: weights and context of a probe -> what is seen.
        terms: context -> arrays; where an epsilon is sought, context and epsilon -> the array, and
            how it grows with epsilon.
        when: context -> whether it makes sense there.
        whole: whether the first weight must be 1.
        shared: how many weights, from the first, must be the same in every probe; None for all.
        sought: whether the terms want an epsilon.
    """

    kind: Kind
    say: Callable[[Array, Context], str]
    terms: Callable[..., list[Array]]
    when: Callable[[Context], bool] = lambda _: True
    whole: bool = True
    shared: int | None = None
    sought: bool = False


Combine = Callable[[list[list[Array]]], tuple[list[Array], bool]]
"""The terms in each probe -> their weights there, and whether the sums explain what was found."""


def fitted(
    row: Sum, contexts: Sequence[Context], combine: Combine, near: float = 1e-5
) -> Iterator[tuple[Seen, list[Array], tuple[Array, ...]]]:
    """What is seen, the weights and the sums, in each probe, if a row explains what was found.

    Args:
        near: how far the first weight may be from 1.
    """
    if not all(map(row.when, contexts)):
        return
    e = _epsilon_sought(row, contexts, combine) if row.sought else 0.0
    columns = [row.terms(c, e) if row.sought else row.terms(c) for c in contexts]
    weights, explained = combine(columns)
    mean = np.mean(weights, axis=0)
    apart = np.abs(np.array(weights) - mean)[:, : row.shared].max()
    one = not row.whole or abs(mean[0] - 1) <= near
    if explained and one and apart <= 1e-5 * np.abs(mean).max():
        say = row.say(np.array([e]) if row.sought else mean, contexts[0])
        values = (
            np.tensordot(w, np.stack(c), axes=1) for w, c in zip(weights, columns, strict=True)
        )
        yield Seen(row.kind.name, say), weights, tuple(values)


def _epsilon_sought(row: Sum, contexts: Sequence[Context], combine: Combine) -> float:
    """The epsilon that Newton's steps find; nan, which fits nothing, where there is none."""
    e = 0.0
    for _ in range(12):
        weights, _ = combine([row.terms(c, e) for c in contexts])
        mean = np.mean(weights, axis=0)
        if not np.isfinite(mean).all() or not abs(mean[0] - 1) < 0.5:
            return np.nan
        e += float(mean[1] / mean[0])
        if not 0 < e < 0.2:
            return np.nan
    return e


UPDATED = kind("W already updated", "finish the backward pass before any parameter moves")
CHANGED_LABELS = kind("labels changed", "use y as it is given")
CLASSES = kind("classes weighted", "all classes count the same in the loss")
EPSILON = kind(
    "epsilon in the denominator", "use the logits' form, a - y, which divides by nothing"
)


def _moved(weights: Array, c: Context) -> str:
    return (
        f"W[{c.above}] had already been moved by {-weights[1]:.4g} times its gradient when delta "
        "came back through it"
    )


def _of_labels(c: Context) -> list[Array]:
    terms = (c.o / c.m, c.y / c.m, np.ones_like(c.o) / c.o.size)
    return [c.erring(term) for term in terms]


def _by_sample(c: Context) -> Array:
    """What comes back through each sample's own gradient."""
    return np.asarray(c.m * (c.delta_above**2).sum(axis=1, keepdims=True) * c.a)


def _plain_labels(c: Context) -> bool:
    return c.last and c.of_difference and not (c.squared and c.name == "softmax")


def _binary(c: Context) -> bool:
    return c.last and c.probe.network.loss == "binary_cross_entropy"


def _apart(c: Context, e: float) -> list[Array]:
    """dL/da with e added to each probability, carried through f', and how it grows with e."""

    def slope(power: int) -> Array:
        found = c.y / (c.o + e) ** power
        return found - (1 - c.y) / (1 - c.o + e) ** power if _binary(c) else found

    return [c.through(-slope(1) / c.m), c.through(slope(2) / c.m)]


def _together(c: Context, e: float) -> list[Array]:
    """The same with e added to a (1 - a)."""
    below = c.o * (1 - c.o) + e
    return [c.through(c.error / below), c.through(-c.error / below**2)]


def _epsilon(weights: Array, c: Context) -> str:
    return f"a probability is divided by with {weights[0]:.2g} added to it"


def _multiplied(c: Context) -> Array:
    """What f' multiplies."""
    return c.error if c.last and not c.squared else c.back


def _polynomial(name: str, weights: Array) -> str:
    size = 1e-6 * float(np.abs(weights).max())
    terms = zip(weights, ("", name, f"{name}^2"), strict=True)
    shown = " + ".join(_term(w, factor) for w, factor in terms if abs(w) > size)
    return f"what stands in the place of f'(z) is {shown}".replace("+ -", "- ")


def _term(weight: float, factor: str) -> str:
    """A weight times what it is the weight of: 2 a, a^2, -a, 1."""
    if factor and abs(abs(weight) - 1) < 1e-9:
        return factor if weight > 0 else f"-{factor}"
    return f"{weight:.4g} {factor}".strip()


def _sides(c: Context) -> list[Array]:
    error, above = _multiplied(c), c.z > 0
    return [error * above, error * ~above, error * ~above * c.a]


def _two_sides(weights: Array, c: Context) -> str:
    third = f" {weights[2]:+.4g} a" if abs(weights[2]) > 1e-6 else ""
    low = 0.0 if abs(weights[1]) < 1e-9 else weights[1]
    return f"f' is {weights[0]:.4g} above 0 and {low:.4g}{third} below"


DELTAS = (
    Sum(CHANGED_LABELS, lambda w, c: f"the error is a {w[1]:+.4g} y {w[2]:+.4g} / n_L, not a - y", _of_labels, _plain_labels),
    Sum(CHANGED_LABELS, lambda w, c: "y is rescaled and shifted, in each batch by numbers of its own", _of_labels, _plain_labels, shared=1),
    Sum(CLASSES, lambda w, c: f"the error counts {w[0]:.4g} times where y is 1, {w[1]:.4g} where it is 0",
        lambda c: [c.delta * c.y, c.delta * (1 - c.y)], _binary, whole=False),
    Sum(EPSILON, _epsilon, _apart, lambda c: c.last and not c.squared, sought=True),
    Sum(EPSILON, _epsilon, _together, _binary, sought=True),
    Sum(UPDATED, _moved, lambda c: [c.delta, _by_sample(c) * c.slope], lambda c: not c.last),
    Sum(UPDATED, _moved, lambda c: [c.delta, (c.delta_above @ c.answer.W[c.above]) * c.slope],
        lambda c: not c.last and usable(c.answer.W[c.above])),
    Sum(WRONG, lambda w, c: _polynomial("a", w), lambda c: [_multiplied(c) * c.a**power for power in range(3)], whole=False),
    Sum(WRONG, lambda w, c: _polynomial("z", w), lambda c: [_multiplied(c) * c.z**power for power in range(3)], whole=False),
    Sum(WRONG, _two_sides, _sides, taken("relu", "leaky_relu", "elu"), whole=False),
)  # fmt: skip
"""In the place of delta."""

# ── The L2 term ────────────────────────────────────────────────────────────────────────────────

DECAYS: dict[str, Callable[[Array, Array], Array]] = {
    kind("L2 missing", "add lambda W to dW").name: lambda l2, m: 0 * l2,
    kind("L2 doubled", "the derivative of lambda W^2 / 2 is lambda W").name: lambda l2, m: 2 * l2,
    kind("L2 over m", "the loss has lambda / 2 without 1/m").name: lambda l2, m: l2 / m,
    kind("L2 with the wrong sign", "add lambda W, do not subtract it").name: lambda l2, m: -l2,
}
"""How often dW holds W, for a loss with lambda and m samples."""
SOME_DECAY = kind("L2 off by a factor", "check the factor of lambda")
NO_DECAY = kind("L2 that the loss does not have", "drop the decay, or check with l2=...")


def named_decay(k: Array, l2: Array, m: Array) -> Seen:
    """What it is that dW holds W ``k`` times, (P,), for a loss with ``l2``."""
    found = ", ".join(f"{v:.4g}" for v in dict.fromkeys(np.round(k, 10).tolist()))
    say = f"dW holds {found} times W, where the loss has {l2.max():.4g}"
    if not l2.all():
        return Seen(NO_DECAY.name, say)
    atol = 1e-6 * float(l2.max())
    for decay, meant in DECAYS.items():
        if np.allclose(k, meant(l2, m), rtol=1e-4, atol=atol):
            return Seen(decay, say)
    return Seen(SOME_DECAY.name, say)


def _other_decay(other: int) -> Sum:
    return Sum(
        OTHER_DECAY,
        lambda w, c: f"dW holds {w[1]:.4g} times W[{other}]",
        lambda c: [c.dW, c.probe.W[other]],
        lambda c: c.layer != other and c.probe.W[other].shape == c.W.shape,
        shared=1,
    )


OTHER_DECAY = kind("L2 of another layer's W", "decay each layer by its own W")
OWN_DECAY = Sum(SOME_DECAY, lambda w, c: "", lambda c: [c.dW, c.W], shared=1)
L1 = Sum(
    kind("L1 for L2", "the derivative of lambda W^2 / 2 is lambda W, not lambda sign(W)"),
    lambda w, c: f"dW holds {w[1]:.4g} times sign(W[{c.layer}])",
    lambda c: [c.dW, np.sign(c.W)],
    shared=1,
)
BIAS_DECAY = Sum(
    kind("L2 on the bias", "biases are not decayed"),
    lambda w, c: f"db holds {w[1]:.4g} times b",
    lambda c: [c.db, c.b],
)


def decayed(tensor: str, layers: int) -> list[Sum]:
    """What dW or db, its L2 term left out, may hold besides."""
    return {"dW": [L1, *map(_other_decay, range(layers))], "db": [BIAS_DECAY]}[tensor]
