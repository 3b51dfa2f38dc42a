"""How are the mistakes of an explanation told? One sentence each, with how sure it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bpbench.verify.diagnose.chains import UNKNOWN, Case, Chain, Mistake
from bpbench.verify.diagnose.mistakes.row import remedy
from bpbench.verify.diagnose.probe import batch_of, usable
from bpbench.verify.findings import Finding


def places(chain: Chain) -> set[tuple[str, int, str]]:
    """(name, layer, tensor) of each of an explanation's mistakes."""
    return {(m.name, m.layer, m.tensor) for m in chain.mistakes}


def forward_lost(layer: int) -> Finding:
    """The place of a forward pass that is wrong in an unknown way, below ``layer``."""
    place, at, tensor = ("x", 0, "x") if not layer else (f"a[{layer - 1}]", layer - 1, "a")
    say = (
        f"layer {at}, {place}: dW[{layer}] was made with another {place} than the network has, and "
        "the output is not the right one either: the forward pass goes wrong on the way there, in "
        "a way that nothing known explains (dropout left on, a normalisation, a skip connection, "
        "weights that move between the samples look like this). What lies above and below follows "
        "from it"
    )
    return Finding(UNKNOWN, at, tensor, say, "unexplained")


def findings(case: Case, best: Chain, others: Sequence[Chain]) -> Iterator[Finding]:
    """The findings of an explanation, from the output back.

    Args:
        others: the explanations that are as likely.
    """
    theirs = [places(chain) for chain in others]
    seen: set[tuple[str, int, str]] = set()
    unexplained = {(m.layer, m.tensor) for m in best.mistakes if m.name == UNKNOWN}
    for mistake in best.mistakes:
        place = (mistake.name, mistake.layer, mistake.tensor)
        # what leaves its own tensor unexplained explains nothing
        if place in seen or (mistake.name != UNKNOWN and place[1:] in unexplained):
            continue
        seen.add(place)
        sure = all(place in other for other in theirs) and not any(
            # where dW and db of a layer above agree on no delta, its input may be wrong, and so all
            layer > mistake.layer and tensor != "delta"
            for layer, tensor in unexplained
        )
        yield _finding(case, best, mistake, sure, others)


def _finding(
    case: Case, chain: Chain, mistake: Mistake, sure: bool, others: Sequence[Chain]
) -> Finding:
    """One mistake of an explanation, with how sure it is.

    Args:
        sure: whether every explanation names it, and nothing above puts it in doubt.
    """
    name, layer, tensor, seen = mistake
    last = case.layers - 1
    where = f"layer {layer}" + (" (the output)" if layer == last and last else "")
    text = f"{where}, {tensor}[{layer}]: {seen}"
    if name == UNKNOWN:
        say = f"{text}; nothing known explains it{_ratios(case, chain, mistake)}"
        return Finding(name, layer, tensor, say, "unexplained")
    if layer == last > 0 and tensor == "delta":
        text += "; every gradient follows from it"
    text += f". {remedy(name)}"
    if name.startswith("float"):
        why = "only the size of the error tells of it"
        return Finding(name, layer, tensor, text, "likely", why)
    if sure:
        why = f"it gives these very numbers on {batch_of(case.probes)}"
        return Finding(name, layer, tensor, text, why=why)
    if not others:
        why = "it would follow if nothing unknown above reached down to here"
        return Finding(name, layer, tensor, text, "possible", why)
    return Finding(name, layer, tensor, text, "possible", alternatives=_others(chain, others))


def _others(chain: Chain, others: Sequence[Chain]) -> tuple[str, ...]:
    """What else would explain it, each thing at each place once, the likeliest first."""
    said: dict[tuple[str, int, str], str] = {}
    known = places(chain)
    for name, layer, tensor, seen in (m for other in others for m in other.mistakes):
        if (name, layer, tensor) not in known:
            say = f"{name} in {tensor}[{layer}] ({seen})"
            said.setdefault((name, layer, tensor), say)
    return tuple(said.values())


def _ratios(case: Case, chain: Chain, mistake: Mistake) -> str:
    """How what was found compares with what is right, entry by entry."""
    layer = mistake.layer
    found, right = [], []
    for i, answer in enumerate(case.answers):
        if not usable(answer.W[layer]):
            return ""
        delta = chain.contexts(case, layer)[i].delta
        below = chain.inputs[layer][i]
        if mistake.tensor == "db":
            found.append(answer.b[layer].ravel())
            right.append(delta.sum(axis=0))
        else:
            found.append(answer.W[layer].ravel())
            right.append((delta.T @ below + case.probes[i].l2 * case.probes[i].W[layer]).ravel())
    f, r = np.concatenate(found), np.concatenate(right)
    clear = np.abs(r) > 1e-9 * np.abs(r).max(initial=0)
    if not clear.any():
        return ""
    low, quarter, middle, three, high = np.quantile(f[clear] / r[clear], (0, 0.25, 0.5, 0.75, 1))
    return (
        f". Found / right, entry by entry: from {low:.3g} to {high:.3g}, half of them between "
        f"{quarter:.3g} and {three:.3g}, median {middle:.3g}"
    )
