"""How are the mistakes of an explanation told? One sentence each, with how sure it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.catalogue import remedy
from bpbench.verify.diagnose.chains import UNKNOWN, Case, Chain, Mistake
from bpbench.verify.diagnose.layerwise import right_delta
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
    return Finding(UNKNOWN, at, tensor, say, certain=False)


def findings(case: Case, best: Chain, others: Sequence[Chain]) -> Iterator[Finding]:
    theirs = [places(chain) for chain in others]
    seen: set[tuple[str, int, str]] = set()
    unexplained = {(m.layer, m.tensor) for m in best.mistakes if m.name == UNKNOWN}
    for mistake in best.mistakes:
        place = (mistake.name, mistake.layer, mistake.tensor)
        # what leaves its own tensor unexplained explains nothing
        if place in seen or (mistake.name != UNKNOWN and place[1:] in unexplained):
            continue
        seen.add(place)
        sure = mistake.name != UNKNOWN and all(place in other for other in theirs)
        sure = sure and not mistake.name.startswith("float")
        # where dW and db of a layer above agree on no delta, its input may be wrong, and so all
        sure = sure and not any(
            layer > mistake.layer and tensor != "delta" for layer, tensor in unexplained
        )
        yield Finding(
            mistake.name, mistake.layer, mistake.tensor, _say(case, best, mistake, sure, others),
            sure,
        )  # fmt: skip


def _say(case: Case, chain: Chain, mistake: Mistake, sure: bool, others: Sequence[Chain]) -> str:
    last = case.layers - 1
    where = f"layer {mistake.layer}" + (" (the output)" if mistake.layer == last and last else "")
    place = f"{mistake.tensor}[{mistake.layer}]"
    if mistake.say.startswith("it is "):
        text = f"{where}: {place} {mistake.say[3:]}"
        text += (
            ", and every gradient with it"
            if mistake.layer == last > 0 and mistake.tensor == "delta"
            else ""
        )
    else:
        text = f"{where}, {place}: {mistake.say}"
    advice = remedy(mistake.name)
    if mistake.name == UNKNOWN:
        return f"{text}; nothing known explains it{_ratios(case, chain, mistake)}"
    if mistake.name.startswith("float"):
        return f"{text}. {advice}. Likely, not certain"
    text += f". {advice}" if advice else ""
    if sure:
        return f"{text}. Certain: it gives these very numbers on {batch_of(case.probes)}"
    if not others:
        return f"{text}. Possible: it would follow if nothing unknown above reached down to here"
    return f"{text}. Possible; as possible: {_alternatives(chain, others)}"


def _alternatives(chain: Chain, others: Sequence[Chain]) -> str:
    """What else would explain it, each thing at each place once, the likeliest first."""
    said: dict[tuple[str, int, str], str] = {}
    known = places(chain)
    for other in others:
        for m in other.mistakes:
            if (m.name, m.layer, m.tensor) not in known:
                seen = m.say.removeprefix("it is ")
                say = f"{m.name} in {m.tensor}[{m.layer}] ({seen})"
                said.setdefault((m.name, m.layer, m.tensor), say)
    shown = list(said.values())
    more = f"; or {len(shown) - 3} more" if len(shown) > 3 else ""
    return "; or ".join(shown[:3]) + more


def _ratios(case: Case, chain: Chain, mistake: Mistake) -> str:
    """How what was found compares with what is right, entry by entry."""
    layer = mistake.layer
    found, right = [], []
    for i, answer in enumerate(case.answers):
        if not usable(answer.W[layer]):
            return ""
        delta = _expected(case, chain, layer, i)
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


def _expected(case: Case, chain: Chain, layer: int, i: int) -> Array:
    return right_delta(case, chain, layer)[0][i]
