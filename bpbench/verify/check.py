"""Are someone's hand-written gradients right, and if not, where and why are they wrong?

The function is called in the layout that it turns out to want, on its own sizes and on small
networks chosen to tell mistakes apart. Every answer is held to the truth; where one is wrong, the
diagnosis says which layer, which tensor, and what would explain it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bpbench.errors import UsageError, unknown
from bpbench.network import MLP, Parameters
from bpbench.verify.arguments import LABELS, SAMPLES, WEIGHTS
from bpbench.verify.calling import OVERWRITTEN, Caller, Reply
from bpbench.verify.diagnose import probe as probes
from bpbench.verify.diagnose.probe import Probe
from bpbench.verify.examine import (
    DIGITS_LOST,
    FLOAT32,
    NOTHING,
    SATURATED,
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
    """Hold someone's gradients to the truth.

    Args:
        network: whose gradients they are. A function that takes any sizes is asked on other sizes
            too; one that does not, on these only.
        my_gradients: my_gradients(W, b, x, y) -> (dW, db) or (loss, dW, db), the gradients of the
            mean loss, in lists, tuples or dictionaries of arrays. Parameters whose names tell
            (X, labels; W1, b1, W2, b2; params) may come in any order.
        weights: "out_in" where W is (n_out, n_in), "in_out" where it is (n_in, n_out); found out by
            itself where not given.
        samples: "rows" or "columns" of x and y; "one vector", "one column" or "one row" for a
            function of one sample at a time, whose gradients are averaged; found out by itself.
        labels: "as given", "flat" for y of shape (m,), "classes" for class numbers instead of
            one-hot rows; found out by itself.
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
    _validate(network, my_gradients, weights, samples, labels, dtype)
    own = probes.own_sizes(network, seed, l2)
    if parameters is not None or x is not None or y is not None:
        own.append(_own_case(network, parameters, x, y, l2))
    caller = Caller(my_gradients, network.layers, network.bias, dtype)
    generic, equal = probes.generic(network, seed, l2), probes.equal_neighbours(network, seed, l2)
    tried = [probes.for_layouts(network, seed, l2), generic[0], *(family[0] for family in equal)]
    settled = caller.settle(tried, weights, samples, labels)
    name = getattr(my_gradients, "__name__", type(my_gradients).__name__)
    how = "as given" if weights and samples else "found out by trying"
    subject = f"{name} on {network}; {caller.layout} ({how})"
    hints = _other_layout(caller, tried, settled, (weights, samples, labels))
    if settled.answer is None:
        alone = _alone(caller, network, (weights, samples, labels), seed)
        return Report(WRONG, subject, once([*hints, *alone, *settled.problems]))
    others = [ask(caller, generic)]
    if not others[0].ran and network.sizes[-1] == 1:
        others = [ask(caller, probes.generic(network, seed, l2, outputs=1))]
    if others[0].ran:  # where sizes are all different, shapes tell in which order arrays come
        caller.order = others[0].replies[0].order
    others += [ask(caller, family) for family in equal]
    return _report(caller, subject, ask(caller, own), others, hints)


def _validate(
    network: MLP,
    function: Callable[..., Any],
    weights: str | None,
    samples: str | None,
    labels: str | None,
    dtype: str,
) -> None:
    if not isinstance(network, MLP):
        raise UsageError(f"check: network is a {type(network).__name__}; expected bpbench.MLP(...)")
    if not callable(function):
        raise UsageError(
            f"check: my_gradients is a {type(function).__name__}; "
            "expected a function (W, b, x, y) -> (dW, db)"
        )
    for name, value, allowed in (
        ("weights", weights, WEIGHTS), ("samples", samples, SAMPLES), ("labels", labels, LABELS),
    ):  # fmt: skip
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


VAGUE = ("raises", "wrong shape")
"""What comes after the causes, if they are found on networks where the function does run."""


def _other_layout(
    caller: Caller,
    tried: Sequence[Probe],
    settled: Reply,
    given: tuple[str | None, str | None, str | None],
) -> list[Finding]:
    """A layout in which a function runs that does not in the one that was given."""
    own = tried[0].network
    if not any(given) or (settled.clean and settled.probe.network == own):
        return []
    kept = caller.layout
    free = caller.settle(tried, None, None, None)
    found, caller.layout = caller.layout, kept
    if not free.clean or free.probe.network != own:
        return []
    say = f"the function does run with {found}: leave the layout out, or say it so"
    return [Finding("layout", None, None, say, certain=False)]


def _alone(
    caller: Caller, network: MLP, given: tuple[str | None, str | None, str | None], seed: int
) -> list[Finding]:
    """What it tells that a function, which fails with several samples, works with one."""
    reply = caller.settle([probes.draw(network, 1, seed, 0.0, "one sample")], *given)
    if not reply.clean:
        return []
    if network.sizes[-1] == 1:
        say = (
            "the function works with one sample but not with several: likely an array of shape "
            "(m,) meets one of (m, 1), which makes one of (m, m). Reshape y to (m, 1)"
        )
        last = network.layers - 1
        return [Finding("y of shape (m,) against (m,1)", last, "delta", say, certain=False)]
    say = "the function works with one sample but not with several"
    return [Finding("one sample only", None, None, say)]


# ── The report ─────────────────────────────────────────────────────────────────────────────────


def _report(
    caller: Caller,
    subject: str,
    mine: Family,
    others: Sequence[Family],
    hints: Sequence[Finding],
) -> Report:
    """The verdict on the caller's own sizes, and what explains it, from all that was asked."""
    ran = [family for family in others if family.ran]
    if not mine.ran and not ran:
        return Report(WRONG, subject, once([*mine.problems, *others[0].problems]))
    main = mine if mine.ran else ran[0]
    asked = [r.probe for f in (mine, *others) if f.ran for r in f.replies]
    subject += f"; asked on {_listed(asked)}"
    if not any(family.ran for family in others):
        subject += "; it works only at its own sizes"

    telling = _telling(mine, others)
    low = _lower_precision(caller, main)
    precision = "float32" if low else caller.dtype
    noisy = any(p.mistake == "not deterministic" for p in telling.problems)
    explained = NOTHING if noisy else explain(telling, precision, exact=not low)
    if not (explained.complete or noisy or not mine.wrong or not mine.ran or telling is mine):
        at_home = explain(mine, precision, exact=not low)
        backward = all(f.tensor in ("delta", "dW", "db") for f in at_home.findings)
        if at_home.complete and backward:
            # made for its own sizes, on others it computes something else; of a forward pass the
            # few numbers there tell too little
            say = "; likely, not certain: on other sizes the function gives what nothing explains"
            findings = tuple(
                replace(f, certain=False, say=f.say.partition(". Certain")[0] + say)
                for f in at_home.findings
            )
            telling, explained = mine, replace(at_home, findings=findings)
    forms = [*main.problems, *mine.problems]
    forms += [caller.overwritten] if caller.overwritten else []
    if telling.wrong:  # a transpose that the caller's equal neighbours hide
        forms += [p for p in telling.problems if p.mistake == "dW transposed"]
    said: list[Finding] = [*hints, *(p for p in forms if p.mistake not in VAGUE)]
    said += low
    if telling.wrong and not explained.complete and not noisy:
        unused = ignored(caller, telling.replies[0])
        said += unused
        if unused:  # whatever is unknown besides follows from it
            known = tuple(f for f in explained.findings if f.mistake != "unknown")
            explained = replace(explained, findings=known, loss=None)
    if telling.wrong:
        # what is unknown elsewhere says nothing of sizes on which nothing runs, and the factor
        # that is another in each call makes all unknown
        vary = any(f.mistake == "factor of its own in each call" for f in said)
        known_only = not mine.ran or vary
        said += [f for f in explained.findings if not known_only or f.mistake != "unknown"]
    places = ran[0] if ran and ran[0] is others[0] else main
    if explained.complete:
        said += special(caller, places, mine.replies[0].probe.network)
    said += _of_loss(explained, said)
    named = {finding.layer for finding in said if finding.tensor in ("dW", "delta")}
    said += [p for p in forms if p.mistake == "raises" or p.layer not in named]
    findings = once(said)
    tensors = _worst(main)
    harmless = all(
        f.mistake == OVERWRITTEN or (f.mistake == SATURATED and f.tensor == "loss")
        for f in findings
    )
    if mine.ran and not mine.wrong and not telling.wrong and harmless:
        limits = (*findings, *_limits(mine, ran, caller.dtype))
        return Report(_verdict(mine), subject, limits, tensors)
    return Report(WRONG, subject, findings, tensors)


def _telling(mine: Family, others: Sequence[Family]) -> Family:
    """The family that tells most of what is wrong with the function.

    A function that is right for the caller's sizes but not for all may be made for these only; one
    that is right for all but equal neighbours has a transpose in it that shows only there.
    """
    ran = [family for family in others if family.ran]
    wrong = [family for family in (*ran, mine) if family.ran and family.wrong]
    if mine.ran and not mine.wrong and (not others[0].ran or others[0].wrong or not wrong):
        return mine
    return next((family for family in wrong if family.whole), wrong[0] if wrong else ran[0])


def _lower_precision(caller: Caller, main: Family) -> list[Finding]:
    """Arrays of a lower precision than was claimed."""
    dtypes = {dtype for reply in main.replies for dtype in reply.dtypes}
    low = sorted(dtypes & {"float16", "bfloat16", "float32"})
    if caller.dtype != "float64" or not low:
        return []
    say = (
        f"the gradients are {low[0]} arrays, though the arguments are float64: look for a cast or "
        f'a {low[0]} array, or check with dtype="float32". Certain'
    )
    name = FLOAT32 if low == ["float32"] else "float16 somewhere"
    return [Finding(name, None, None, say)]


def _of_loss(explained: Explained, said: Sequence[Finding]) -> list[Finding]:
    """What is wrong with the loss, unless it is the same that is wrong with the gradient."""
    if explained.loss is None or any(explained.loss.mistake == f.mistake for f in said):
        return []
    return [explained.loss]


def _verdict(mine: Family) -> str:
    """That of the caller's own case, which comes last; of the others, "right" if one is."""
    verdicts = [report.verdict for report in mine.reports]
    if mine.replies[-1].probe.why == "your own case":
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
            where = _listed([reply.probe for reply in elsewhere.replies])
            say = "right for your sizes, but not for all: are sizes written into the code? "
            say += f"(It runs on {where}, and gives something else there)"
            return once([*limits, Finding("right for its own sizes only", None, None, say)])
        limits += [
            replace(finding, say=f"right for your sizes, but not for all: {finding.say}")
            for finding in findings
        ]
    return once(limits)


def _worst(family: Family) -> tuple[TensorError, ...]:
    """The largest error of each tensor over the family's probes."""
    worst: dict[str, TensorError] = {}
    for report in family.reports:
        for tensor in report.tensors:
            if tensor.place not in worst or tensor.sigmas > worst[tensor.place].sigmas:
                worst[tensor.place] = tensor
    return tuple(worst.values())


def _listed(asked: Sequence[Probe]) -> str:
    """Probes as a sentence names them: each sizes once, with its numbers of samples."""
    samples: dict[str, list[int]] = {}
    for probe in asked:
        samples.setdefault("-".join(map(str, probe.network.sizes)), []).append(probe.samples)
    shown = [f"{sizes} ({', '.join(map(str, dict.fromkeys(m)))})" for sizes, m in samples.items()]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
