"""Are someone's hand-written gradients right, and if not, where and why are they wrong?

The function is called in the layout that it wants, on its own sizes and on small networks chosen to
tell mistakes apart. Every answer is compared with the truth; where one is wrong, the diagnosis says
which layer, which tensor, and what would explain it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bpbench.errors import UsageError, unknown
from bpbench.network import MLP, Parameters
from bpbench.verify.arguments import LABELS, SAMPLES, WEIGHTS, Said
from bpbench.verify.calling import OVERWRITTEN, Caller, Reply
from bpbench.verify.diagnose import probe as probes
from bpbench.verify.diagnose.probe import Probe
from bpbench.verify.examine import (
    DIGITS_LOST,
    FLOAT32,
    LOG_OF_SATURATED,
    Explained,
    Family,
    ask,
    explain,
    ignored,
    once,
    special,
)
from bpbench.verify.findings import RIGHT, WRONG, Finding, Report, TensorError


def check(
    network: MLP,
    my_gradients: Callable[..., Any],
    *,
    weights: str | None = None,
    samples: str | None = None,
    labels: str | None = None,
    l2: float = 0.0,
    dtype: str = "float64",
    seed: int = 0,
    parameters: Parameters | None = None,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
) -> Report:
    """Say whether someone's gradients are right, and if not, where and why they are wrong.

    Args:
        network: whose gradients they are. A function that takes any sizes is asked on other sizes
            too; one that does not, on these only.
        my_gradients: my_gradients(W, b, x, y) -> (dW, db) or (loss, dW, db), the gradients of the
            mean loss, in lists, tuples or dictionaries of arrays. Parameters whose names tell
            (X, labels; W1, b1, W2, b2; params) may come in any order.
        weights: "out_in" where W is (n_out, n_in), "in_out" where it is (n_in, n_out). Where it,
            samples or labels is not given, every layout is tried.
        samples: "rows" or "columns" of x and y; "one vector", "one column" or "one row" for a
            function of one sample at a time, whose gradients are averaged.
        labels: "as given", "flat" for y of shape (m,), "classes" for class numbers instead of
            one-hot rows.
        l2: the gradients are those of a loss with 0.5 * l2 * sum of W^2 added.
        dtype: "float64", or "float32" for code that computes in it.
        seed: of the parameters and inputs on which it is asked.
        parameters, x, y: a case of one's own, asked besides: all three, in bpbench's layout.

    Returns:
        the verdict; the likely mistakes with the layer and tensor of each, from the output back;
        the errors. Whatever the function does, this raises nothing of its.

    Raises:
        UsageError: an argument of ``check`` that cannot be meant.
    """
    said = Said(weights, samples, labels)
    _validate(network, my_gradients, said, dtype)
    own = probes.own_sizes(network, seed, l2)
    if parameters is not None or x is not None or y is not None:
        own.append(_own_case(network, parameters, x, y, l2))
    caller = Caller(my_gradients, network.layers, network.bias, dtype)
    generic, equal = probes.generic(network, seed, l2), probes.equal_neighbours(network, seed, l2)
    tried = [probes.for_layouts(network, seed, l2), generic[0], *(family[0] for family in equal)]
    settled = caller.settle(tried, said)
    name = getattr(my_gradients, "__name__", type(my_gradients).__name__)
    how = "as given" if weights and samples else "recognised"
    subject = f"{name} on {network}; {caller.layout} ({how})"
    hints = _other_layout(caller, tried, settled, said)
    if settled.answer is None:
        alone = _alone(caller, network, said, seed)
        return Report(WRONG, subject, once([*hints, *alone, *settled.problems]))
    others = [ask(caller, generic)]
    if not others[0].ran and network.sizes[-1] == 1:
        others = [ask(caller, probes.generic(network, seed, l2, outputs=1))]
    if others[0].ran:  # where sizes are all different, shapes tell in which order arrays come
        caller.order = others[0].replies[0].returned.order
    others += [ask(caller, family) for family in equal]
    return _report(caller, subject, hints, ask(caller, own), others)


def _validate(network: MLP, function: Callable[..., Any], said: Said, dtype: str) -> None:
    if not isinstance(network, MLP):
        raise UsageError(f"check: network is a {type(network).__name__}; expected bpbench.MLP(...)")
    if not callable(function):
        raise UsageError(
            f"check: my_gradients is a {type(function).__name__}; "
            "expected a function (W, b, x, y) -> (dW, db)"
        )
    for (name, value), allowed in zip(
        said._asdict().items(), (WEIGHTS, SAMPLES, LABELS), strict=True
    ):
        if value is not None and value not in allowed:
            raise unknown(f"check: {name}", value, allowed)
    if dtype not in DIGITS_LOST:
        raise unknown("check: dtype", dtype, DIGITS_LOST)


def _own_case(
    network: MLP, parameters: Parameters | None, x: ArrayLike | None, y: ArrayLike | None, l2: float
) -> Probe:
    if parameters is None or x is None or y is None:
        raise UsageError("check: give parameters, x and y together, or none of them")
    parameters.check(network)
    inputs, targets = np.asarray(x, np.float64), np.asarray(y, np.float64)
    for name, array, width in (("x", inputs, network.sizes[0]), ("y", targets, network.sizes[-1])):
        if array.ndim != 2 or array.shape[1] != width or len(array) != len(inputs):
            raise UsageError(
                f"check: {name} has shape {array.shape}; expected ({len(inputs)}, {width})"
            )
    exact = parameters.astype(np.float64)
    return Probe(network, exact.W, exact.b, inputs, targets, l2, "your own case")


def _other_layout(
    caller: Caller, tried: Sequence[Probe], settled: Reply, said: Said
) -> list[Finding]:
    """A layout in which a function runs that does not in the one that was given."""
    own = tried[0].network
    if not any(said) or (settled.clean and settled.probe.network == own):
        return []
    kept = caller.layout
    free = caller.settle(tried, Said())
    found, caller.layout = caller.layout, kept
    if not free.clean or free.probe.network != own:
        return []
    say = f"the function runs with {found}: give this layout, or none"
    return [Finding("layout", None, None, say, "likely")]


def _alone(caller: Caller, network: MLP, said: Said, seed: int) -> list[Finding]:
    """What it tells that a function, which fails with several samples, works with one."""
    reply = caller.settle([probes.draw(network, 1, seed, 0.0, "one sample")], said)
    if not reply.clean:
        return []
    if network.sizes[-1] == 1:
        say = (
            "the function works with one sample but not with several: likely an array of shape "
            "(m,) meets one of (m, 1), which makes one of (m, m). Reshape y to (m, 1)"
        )
        last = network.layers - 1
        return [Finding("y of shape (m,) against (m,1)", last, "delta", say, "likely")]
    say = "the function works with one sample but not with several"
    return [Finding("one sample only", None, None, say)]


# ── The report ─────────────────────────────────────────────────────────────────────────────────


def _report(
    caller: Caller,
    subject: str,
    hints: Sequence[Finding],
    mine: Family,
    others: Sequence[Family],
) -> Report:
    """The verdict on the caller's own sizes, and what explains it, from all that was asked.

    Args:
        mine: the caller's own sizes.
        others: sizes that are all different, then equal neighbours.
    """
    ran = [family for family in others if family.ran]
    if not mine.ran and not ran:
        return Report(WRONG, subject, once([*mine.problems, *others[0].problems]))
    main = mine if mine.ran else ran[0]
    low = _lower_precision(caller, main)
    precision = "float32" if low else caller.dtype
    source, explained = _explanation(mine, _clearest(mine, others), precision, exact=not low)
    forms = _forms(caller, mine, main, source)
    known = [*hints, *(form for form in forms if form.mistake not in VAGUE), *low]
    if source.wrong:
        unused = [] if explained.complete or _noisy(source) else ignored(caller, source.replies[0])
        explained = _without_consequences(explained, mine, forms, unused)
        known += [*unused, *explained.findings]
    if explained.complete:
        places = others[0] if others[0].ran else main
        known += special(caller, places, mine.probes[0].network)
    if explained.loss and all(explained.loss.mistake != finding.mistake for finding in known):
        known.append(explained.loss)  # else it is what is wrong with the gradient
    findings = once([*known, *_vague(forms, known)])
    subject += f"; asked on {_asked(mine, others)}"
    if mine.ran and not mine.wrong and not source.wrong and all(map(_harmless, findings)):
        limits = _limits(mine, ran, caller.dtype)
        return Report(_verdict(mine), subject, (*findings, *limits), _worst(main))
    return Report(WRONG, subject, findings, _worst(main))


def _clearest(mine: Family, others: Sequence[Family]) -> Family:
    """The family that tells most of what is wrong with the function.

    A function that is right for the caller's sizes but not for all may be made for these only; one
    that is right for all but equal neighbours has a transpose in it that shows only there.
    """
    ran = [family for family in others if family.ran]
    wrong = [family for family in (*ran, mine) if family.ran and family.wrong]
    if mine.ran and not mine.wrong and (not others[0].ran or others[0].wrong or not wrong):
        return mine
    return next((family for family in wrong if family.whole), wrong[0] if wrong else ran[0])


def _noisy(family: Family) -> bool:
    """Whether answers change from call to call, so that no formula fits them."""
    return any(problem.mistake == "not deterministic" for problem in family.problems)


def _explanation(
    mine: Family, source: Family, precision: str, exact: bool
) -> tuple[Family, Explained]:
    """What explains the answers, and the family that it explains: ``source``, or the caller's own
    sizes where a function that is made for these computes something else on others.
    """
    if _noisy(source):
        return source, Explained((), False, None)
    explained = explain(source, precision, exact)
    if explained.complete or source is mine or not (mine.ran and mine.wrong):
        return source, explained
    at_home = explain(mine, precision, exact)
    # of a forward pass the few numbers there tell too little
    if not at_home.complete or any(f.tensor not in ("delta", "dW", "db") for f in at_home.findings):
        return source, explained
    why = "on other sizes the function gives what nothing explains"
    findings = tuple(
        replace(finding, certainty="likely", why=why) if finding.certain else finding
        for finding in at_home.findings
    )
    return mine, replace(at_home, findings=findings)


def _forms(caller: Caller, mine: Family, main: Family, source: Family) -> list[Finding]:
    """What is wrong with how the function behaves and with the form of what it returns."""
    forms = [*main.problems, *mine.problems]
    forms += [caller.overwritten] if caller.overwritten else []
    if source.wrong:  # a transpose that the caller's equal neighbours hide
        forms += [p for p in source.problems if p.mistake == "dW transposed"]
    return forms


VAGUE = ("raises", "wrong shape")
"""What comes after the causes, if they are found on networks where the function does run."""


def _vague(forms: Sequence[Finding], known: Sequence[Finding]) -> list[Finding]:
    """The vague forms, but no wrong shape in a layer for which a cause is known."""
    named = {finding.layer for finding in known if finding.tensor in ("dW", "delta")}
    return [
        form for form in forms
        if form.mistake == "raises" or (form.mistake in VAGUE and form.layer not in named)
    ]  # fmt: skip


def _without_consequences(
    explained: Explained, mine: Family, forms: Sequence[Finding], unused: Sequence[Finding]
) -> Explained:
    """The explanation without what is unknown only because of something else: arguments that are
    not used, a factor that is another in each call, sizes on which the function does not run.
    """
    vary = any(form.mistake == "factor of its own in each call" for form in forms)
    if mine.ran and not vary and not unused:
        return explained
    known = tuple(finding for finding in explained.findings if finding.mistake != "unknown")
    return replace(explained, findings=known, loss=None if unused else explained.loss)


def _lower_precision(caller: Caller, main: Family) -> list[Finding]:
    """Arrays of a lower precision than was claimed."""
    dtypes = {dtype for reply in main.replies for dtype in reply.returned.dtypes}
    low = sorted(dtypes & {"float16", "bfloat16", "float32"})
    if caller.dtype != "float64" or not low:
        return []
    say = (
        f"the gradients are {low[0]} arrays, though the arguments are float64: look for a cast or "
        f'a {low[0]} array, or check with dtype="float32"'
    )
    name = FLOAT32 if low == ["float32"] else "float16 somewhere"
    return [Finding(name, None, None, say)]


def _harmless(finding: Finding) -> bool:
    """Whether gradients are right in spite of it."""
    if finding.mistake == LOG_OF_SATURATED:
        return finding.tensor == "loss"
    return finding.mistake == OVERWRITTEN


def _verdict(mine: Family) -> str:
    """That of the caller's own case, which comes last; of the others, "right" if one is."""
    verdicts = [report.verdict for report in mine.reports]
    if mine.probes[-1].why == "your own case":
        return verdicts[-1]
    return RIGHT if RIGHT in verdicts else verdicts[0]


def _limits(mine: Family, ran: Sequence[Family], dtype: str) -> tuple[Finding, ...]:
    """What limits a verdict that is not "wrong"."""
    limits = [finding for report in mine.reports for finding in report.findings]
    if _verdict(mine) == RIGHT:
        limits = []
    elsewhere = next((family for family in ran if family.wrong), None)
    if elsewhere is not None:
        findings = explain(elsewhere, dtype).findings
        if all(finding.mistake == "unknown" for finding in findings):
            where = _listed(elsewhere.probes)
            say = f"it runs on {where} and is wrong there. Are sizes written into the code?"
            findings = (Finding("right for its own sizes only", None, None, say),)
        where = "right for your sizes, but not for all"
        limits += [replace(finding, where=where) for finding in findings]
    return once(limits)


def _worst(family: Family) -> tuple[TensorError, ...]:
    """The largest error of each tensor over the family's probes; none where one has none."""
    worst: dict[str, TensorError] = {}
    for report in family.reports:
        for tensor in report.tensors:
            before = worst.setdefault(tensor.place, tensor)
            if not tensor.compared or tensor.sigmas > before.sigmas:
                worst[tensor.place] = tensor
    return tuple(worst.values())


def _asked(mine: Family, others: Sequence[Family]) -> str:
    """The sizes on which the function ran."""
    ran = [family for family in (mine, *others) if family.ran]
    listed = _listed([probe for family in ran for probe in family.probes])
    return listed if ran != [mine] else f"{listed}; it works only at its own sizes"


def _listed(asked: Sequence[Probe]) -> str:
    """Probes as a sentence names them: each sizes once, with its numbers of samples."""
    samples: dict[str, list[int]] = {}
    for probe in asked:
        samples.setdefault("-".join(map(str, probe.network.sizes)), []).append(probe.samples)
    shown = [f"{sizes} ({', '.join(map(str, dict.fromkeys(m)))})" for sizes, m in samples.items()]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
