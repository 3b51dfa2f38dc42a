"""Is the loss that came with someone's gradients right, and does it belong to them?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bpbench.losses import ByOutput, find_loss
from bpbench.network import Array
from bpbench.verify.diagnose.mistakes.factors import CONSTANT, read_factor
from bpbench.verify.diagnose.mistakes.row import remedy
from bpbench.verify.diagnose.probe import Probe
from bpbench.verify.diagnose.readings import Reading
from bpbench.verify.findings import Finding

GUARDED = 1e-5
"""A loss that is off by less has an epsilon in its logarithm: no mistake in a gradient."""


def judge_losses(
    probes: Sequence[Probe], readings: Sequence[Reading], losses: Sequence[float], tolerance: float
) -> Finding | None:
    """What is wrong with the losses, or None.

    Args:
        probes: the questions.
        readings: the forward pass behind each, as it was found to be.
        losses: what was returned, one for each.
        tolerance: the relative deviation that rounding explains.
    """
    found = np.array(losses)
    if not np.isfinite(found).all():
        return Finding("not finite", None, "loss", "the loss is nan or infinite")
    with np.errstate(all="ignore"):
        data, decay = _true(probes, readings)
        halves = list(_halves(probes, readings))
    if np.allclose(found, data + decay, rtol=tolerance, atol=0):
        return None
    share = float(np.abs(found / (data + decay) - 1).max())
    if share < GUARDED:
        return None
    for mistake, meant in (
        ("L2 missing", data), ("L2 doubled", data + 2 * decay),
    ):  # fmt: skip
        if decay.any() and np.allclose(found, meant, rtol=tolerance, atol=0):
            amount = "lacks" if mistake == "L2 missing" else "counts twice"
            say = f"the loss {amount} the L2 term that the gradient is to have"
            return Finding(mistake, None, "loss", say)
    if probes[0].network.loss == "binary_cross_entropy":
        for what, meant in halves:
            if np.allclose(found, meant + decay, rtol=tolerance, atol=0):
                say = f"the loss lacks {what}"
                return Finding("second term of the cross-entropy missing", None, "loss", say)
    sizes = {
        "m": np.array([float(probe.samples) for probe in probes]),
        "n_L": np.array([float(probe.network.sizes[-1]) for probe in probes]),
    }
    for (name, seen), *_ in read_factor(found / (data + decay), sizes, "loss", tolerance):
        if name != CONSTANT.name:
            say = f"the loss that comes with the gradients: {seen}. {remedy(name)}"
            return Finding(name, None, "loss", say)
    say = f"the loss that comes with the gradients is off by {share:.2g} of itself"
    return Finding("wrong loss", None, "loss", say, "unexplained")


def _true(probes: Sequence[Probe], readings: Sequence[Reading]) -> tuple[Array, Array]:
    """The mean losses, (P,), and the L2 terms, (P,), for these forward passes."""
    data, decay = [], []
    for probe, reading in zip(probes, readings, strict=True):
        data.append(_mean_loss(probe, reading))
        decay.append(0.5 * probe.l2 * sum(float((w * w).sum()) for w in probe.W))
    return np.array(data), np.array(decay)


def _halves(probes: Sequence[Probe], readings: Sequence[Reading]) -> Iterator[tuple[str, Array]]:
    """What a binary cross-entropy lacks, and the mean losses, (P,), without it."""
    pairs = [(reading.a[-1], probe.y) for probe, reading in zip(probes, readings, strict=True)]
    kept = [-float((y * np.log(a)).sum(axis=1).mean()) for a, y in pairs]
    yield "(1 - y) log(1 - a)", np.array(kept)
    kept = [-float(((1 - y) * np.log(1 - a)).sum(axis=1).mean()) for a, y in pairs]
    yield "y log a", np.array(kept)


def _mean_loss(probe: Probe, reading: Reading) -> float:
    """The mean over the samples: from z, where the output is the network's own."""
    loss = find_loss(probe.network.loss)
    z, a, y = reading.z[-1], reading.a[-1], probe.y
    if isinstance(loss.derivative, ByOutput) or reading.functions[-1] == probe.network.output:
        entries = loss.entries(z, a, y)
    else:
        entries = loss.derivative.entries(a, y)
    return float(np.asarray(entries).sum(axis=1).mean())
