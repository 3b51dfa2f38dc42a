"""What can still be said of a delta that is not right by any formula nor by any factor of sizes?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bpbench.network import Array
from bpbench.verify import truth
from bpbench.verify.diagnose.chains import Case
from bpbench.verify.diagnose.evidence import Arrays, LayerEvidence
from bpbench.verify.diagnose.mistakes.row import Seen, kind
from bpbench.verify.diagnose.mistakes.sums import CLASSES

WEIGHTED = {
    "sample": kind("samples weighted", "every sample counts the same in the mean"),
    "unit": kind("units weighted", "all units count the same: look for a factor of each"),
}
LEFT_OUT = {
    "sample": kind(
        "samples left out",
        "let every sample count: check the loop, or the slice, over the samples",
    ),
    "unit": kind("units left out", "let every unit count: a mask or dropout has no part in it"),
}
ROOT = "the root of the mean squared error"


def lengths_of(case: Case, evidence: LayerEvidence, right: Arrays) -> dict[str, Array]:
    """By what a gradient may be divided to have a fixed length, (P,) each."""
    own, biases, whole, largest, losses, roots = [], [], [], [], [], []
    for i, probe in enumerate(case.probes):
        true = truth.backpropagate(
            probe.network, probe.parameters, probe.x, probe.y, l2=probe.l2, dtype="float64"
        )
        dW = right[i].T @ evidence.below[i]
        every = np.concatenate([g.ravel() for g in (*true.gradients.W, *true.gradients.b)])
        own.append(float(np.linalg.norm(dW)))
        biases.append(float(np.linalg.norm(right[i].sum(axis=0))))
        whole.append(float(np.linalg.norm(every)))
        largest.append(float(np.abs(every).max()))
        losses.append(1 / float(true.loss or 1))
        roots.append(float(np.sqrt(2 * (true.loss or 1) / probe.network.sizes[-1])))
    return {
        "the length of dW": np.array(own),
        "the length of db": np.array(biases),
        "the length of the whole gradient": np.array(whole),
        "the largest entry of the gradient": np.array(largest),
        "1 / loss": np.array(losses),
        ROOT: np.array(roots),
    }


def pattern(case: Case, implied: Arrays, right: Arrays) -> tuple[float, Seen] | None:
    """Whether every sample, or every unit, of a delta has a factor of its own: the cost, and what
    is said; None where it is not so.
    """
    for axis, what in ((1, "sample"), (0, "unit")):
        weights = []
        for found, true in zip(implied, right, strict=True):
            if true.shape[axis] < 2:
                return None
            with np.errstate(all="ignore"):
                weight = (found * true).sum(axis=axis) / (true**2).sum(axis=axis)
            expected = true * np.expand_dims(weight, axis)
            if not np.abs(found - expected).max() <= 1e-7 * np.abs(found).max():
                break
            weights.append(weight)
        else:
            out = [np.abs(weight) < 1e-9 * np.abs(weight).max() for weight in weights]
            shown = ", ".join(
                "0" if zero else f"{w:.4g}" for w, zero in zip(weights[0], out[0], strict=True)
            )
            say = f"each {what} has a factor of its own ({shown} in the first probe)"
            whole = not any(map(np.any, out))
            if whole and what == "sample" and _of_classes(case, weights):
                say = f"each class has a factor of its own ({shown} for the first probe's samples)"
                return 2, Seen(CLASSES.name, say)
            mistake = (LEFT_OUT if all(map(np.any, out)) else WEIGHTED)[what]
            return 2, Seen(mistake.name, say)
    return None


def _of_classes(case: Case, weights: Sequence[Array]) -> bool:
    """Whether samples of one class have one weight, in probes where some classes come twice."""
    repeated = False
    for probe, weight in zip(case.probes, weights, strict=True):
        same = (probe.y[:, None] == probe.y[None]).all(axis=2)
        repeated |= bool(same.sum() > len(same))
        if not np.allclose(np.where(same, weight[None], weight[:, None]), weight[:, None]):
            return False
    return repeated
