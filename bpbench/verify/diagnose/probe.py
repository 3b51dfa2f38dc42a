"""On which networks is a function asked? Small ones, drawn so that mistakes can be told apart.

Sizes all different, so that no shape fits by accident; fewer samples than any layer has inputs, so
that dW alone tells the delta that was used; generic inputs and biases; then the caller's own sizes,
equal neighbours (a missing transpose runs only there), saturated outputs, units that are exactly 0
and a gradient large enough to be clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bpbench.activations import find_activation
from bpbench.losses import find_loss
from bpbench.network import MLP, Array, Parameters
from bpbench.verify import truth


@dataclass(frozen=True)
class Probe:
    """One question to a function: a network, parameters, inputs and expected outputs.

    Attributes:
        network: of the kind that is checked, perhaps of other sizes.
        W, b: its parameters, float64 numbers that the checked dtype can hold.
        x: (m, n_1).
        y: (m, n_L).
        l2: of the loss that is meant.
        why: what the probe is for, as messages say it.
    """

    network: MLP
    W: tuple[Array, ...]
    b: tuple[Array, ...]
    x: Array
    y: Array
    l2: float
    why: str

    @property
    def parameters(self) -> Parameters:
        """W and b as the rest of bpbench takes them."""
        return Parameters(self.W, self.b)

    @property
    def samples(self) -> int:
        """m."""
        return len(self.x)

    def __str__(self) -> str:
        sizes = "-".join(map(str, self.network.sizes))
        return f"{sizes} with {self.samples} sample{'s' * (self.samples != 1)}"


@dataclass(frozen=True)
class Answer:
    """What a function gave for a probe, in bpbench's layout: W (n_l, n_{l-1}), b (n_l,).

    An array that cannot be looked at (for it came in a wrong shape, or with nan) is all nan.
    """

    W: tuple[Array, ...]
    b: tuple[Array, ...]
    loss: float | None = None


def usable(array: Array) -> bool:
    """Whether an array of an answer can be looked at."""
    return bool(np.isfinite(array).all())


def generic(network: MLP, seed: int, l2: float = 0.0, outputs: int | None = None) -> list[Probe]:
    """Two probes whose sizes are all different, one narrowing and one widening."""
    layers = network.layers
    down = [7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47][:layers]
    down += range(51, 51 + 4 * (layers - len(down)), 4)
    up = [8, 9, 10, 12, 14, 15, 16, 18, 20, 21, 22, 24][:layers]
    up += range(53, 53 + 4 * (layers - len(up)), 4)
    few, many = (3, 6) if outputs is None else (outputs, outputs)
    why = "sizes all different"
    return [
        draw(replace(network, sizes=(*reversed(down), few)), 5, seed, l2, why),
        draw(replace(network, sizes=(*up, many)), 4, seed + 1, l2, why),
    ]


def equal_neighbours(network: MLP, seed: int, l2: float = 0.0) -> list[list[Probe]]:
    """Pairs of probes with equal neighbours: all but the inputs, the first two, and all."""
    layers = network.layers
    families = [
        ([(9, *[6] * layers), (11, *[7] * layers)] if layers > 1 else []),
        [(7, 7, *range(8, 7 + layers)), (6, 6, *range(6 + layers, 7, -1))],
        ([(8,) * (layers + 1), (6,) * (layers + 1)] if layers > 1 else []),
    ]
    return [
        [
            draw(replace(network, sizes=sizes), 5 - i, seed + i, l2, "neighbours of equal size")
            for i, sizes in enumerate(family)
        ]
        for family in families
        if family
    ]


def for_layouts(network: MLP, seed: int, l2: float = 0.0) -> Probe:
    """A probe of the caller's sizes whose number of samples is none of them."""
    samples = next(m for m in range(3, 4 + len(network.sizes)) if m not in network.sizes)
    return draw(network, samples, seed, l2, "your own sizes")


def own_sizes(network: MLP, seed: int, l2: float = 0.0) -> list[Probe]:
    """Probes of the caller's sizes with several numbers of samples, the largest first; all but the
    first below the number of inputs of every layer, if possible.
    """
    least = min(network.sizes[:-1])
    batches = sorted({max(1, min(least - 1, 5)), max(1, min(least, 3)), 7}, reverse=True)
    return [draw(network, m, seed + i, l2, "your own sizes") for i, m in enumerate(batches)]


def draw(network: MLP, samples: int, seed: int, l2: float, why: str) -> Probe:
    """Generic parameters and data for a network: lively f', no sample near a corner of a relu.

    Of several draws the first that is good is taken, or the best.
    """
    best, best_score = None, -1.0
    for attempt in range(12):
        probe = _draw_once(network, samples, np.random.default_rng((seed, attempt)), l2, why)
        score = _liveliness(probe)
        if score > best_score:
            best, best_score = probe, score
        if score > 1e-3:
            break
    assert best is not None
    return best


def _draw_once(network: MLP, samples: int, rng: np.random.Generator, l2: float, why: str) -> Probe:
    x = rng.standard_normal((samples, network.sizes[0]))
    W, b = [], []
    below = x
    for layer, name in enumerate(network.activations):
        n_in, n_out = network.sizes[layer : layer + 2]
        w = rng.standard_normal((n_out, n_in))
        v = 0.4 * rng.standard_normal(n_out) if network.bias else np.zeros(n_out)
        row = find_activation(name)
        w *= row.spread / max(float(np.sqrt(np.mean((below @ w.T) ** 2))), 1e-3)
        W.append(_short(w))
        b.append(_short(v))
        z = below @ W[layer].T + b[layer]
        below = row.careful(z)[0]
    y = expected_outputs(network, samples, rng)
    return Probe(network, tuple(W), tuple(b) if network.bias else (), _short(x), y, l2, why)


def expected_outputs(network: MLP, samples: int, rng: np.random.Generator) -> Array:
    """Expected outputs that the loss allows, (m, n_L)."""
    output = find_activation(network.output)
    return _short(find_loss(network.loss).draw(rng, samples, network.sizes[-1], output))


def _short(values: Array) -> Array:
    """Rounded to 24 bits, so that float32 and float64 hold the same numbers."""
    short: Array = np.asarray(values, np.float32)
    return short.astype(np.float64)


def _liveliness(probe: Probe) -> float:
    """How well conditioned a probe is: 0 where mistakes may hide, above 1e-3 where it is good."""
    found = truth.backpropagate(
        probe.network, probe.parameters, probe.x, probe.y, l2=0, dtype="float64"
    )
    scores = []
    for layer, below in enumerate((probe.x, *found.a[:-1])):
        singular = np.linalg.svd(below, compute_uv=False)
        if probe.samples < below.shape[1]:
            scores.append(float(singular[-1] / max(singular[0], 1e-300)))
        if find_activation(probe.network.activations[layer]).piecewise:
            scores.append(1e6 * float(np.abs(found.z[layer]).min()))
        delta = found.delta[layer]
        scores.append(
            float(np.median(np.abs(delta).max(axis=1)) / max(np.abs(delta).max(), 1e-300))
        )
    return min(scores)


# ── Probes for what shows only in special places ───────────────────────────────────────────────


def saturated(probe: Probe) -> Probe:
    """The same network with outputs so large that a probability is exactly 0 or 1."""
    size = find_loss(probe.network.loss).saturating
    found = truth.backpropagate(
        probe.network, probe.parameters, probe.x, probe.y, l2=0, dtype="float64"
    )
    by_rows = find_activation(probe.network.output).rows is not None
    z = found.z[-1] - found.z[-1].mean() if by_rows else found.z[-1]
    factor = size / max(min(float(z.max()), -float(z.min())), 0.01 * float(np.abs(z).max()))
    W = (*probe.W[:-1], probe.W[-1] * factor)
    b = (*probe.b[:-1], probe.b[-1] * factor) if probe.b else ()
    return replace(probe, W=W, b=b, why="saturated outputs")


def square(probe: Probe, largest: int = 32) -> list[list[Probe]]:
    """Pairs of probes with as many samples as some layer has units, of the same network."""
    network = probe.network
    widths = [n for n in dict.fromkeys(network.sizes) if 1 < n <= largest]
    why = "as many samples as a layer has units"
    return [[draw(network, n, seed, probe.l2, why) for seed in (n, n + 1)] for n in widths]


def at_zero(probe: Probe) -> Probe:
    """The same network in which the first unit of every relu layer is exactly 0."""
    W, b = [w.copy() for w in probe.W], [v.copy() for v in probe.b]
    for layer, name in enumerate(probe.network.activations):
        if find_activation(name).corner is not None:
            W[layer][0] = 0
            if b:
                b[layer][0] = 0
    return replace(probe, W=tuple(W), b=tuple(b), why="a unit that is exactly 0")


def large(probe: Probe) -> Probe:
    """The same network with inputs, and where the loss allows errors, a thousand times as large."""
    y = probe.y * find_loss(probe.network.loss).large
    W = (probe.W[0] / 1024, *probe.W[1:])
    return replace(probe, x=probe.x * 1024, W=W, y=y, why="a large gradient")


def batch_of(probes: Sequence[Probe]) -> str:
    """The sizes of the probes, as a message names them."""
    sizes = dict.fromkeys("-".join(map(str, probe.network.sizes)) for probe in probes)
    return " and ".join(sizes)
