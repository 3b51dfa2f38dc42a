"""What is wrong with the L2 term of dW, the multiple of W that it holds?"""

from __future__ import annotations

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.chains import Case, Chain, Mistake


def decay_mistakes(case: Case, chain: Chain, layer: int, scale: Array | None) -> list[Mistake]:
    """What is wrong with the multiple of W in dW, for a gradient that has a factor otherwise."""
    k = chain.decays[layer]
    return [] if k is None else name_decay(case, layer, k, scale)


def name_decay(case: Case, layer: int, k: Array, scale: Array | None) -> list[Mistake]:
    """What is wrong with dW that holds W ``k`` times, (P,)."""
    l2 = np.array([probe.l2 for probe in case.probes])
    near = max(1e3 * case.tolerance, 1e-7)
    for meant in (l2, l2 if scale is None else l2 * scale):
        if np.allclose(k, meant, rtol=near, atol=near * 1e-3):
            return []
    return [Mistake(_named_decay(k, l2, case), layer, "dW", _said_decay(k, l2))]


def _named_decay(k: Array, l2: Array, case: Case) -> str:
    if not l2.all():
        return "L2 that the loss does not have"
    samples = np.array([probe.samples for probe in case.probes])
    names = (
        ("L2 missing", np.zeros_like(l2)),
        ("L2 doubled", 2 * l2),
        ("L2 over m", l2 / samples),
        ("L2 with the wrong sign", -l2),
    )
    for name, meant in names:
        if np.allclose(k, meant, rtol=1e-4, atol=1e-6 * float(l2.max())):
            return name
    return "L2 off by a factor"


def _said_decay(k: Array, l2: Array) -> str:
    found = ", ".join(f"{v:.4g}" for v in dict.fromkeys(np.round(k, 10).tolist()))
    return f"dW holds {found} times W, where the loss has {l2.max():.4g}"
