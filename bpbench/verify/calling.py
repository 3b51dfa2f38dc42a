"""What does a person's function answer? It is called in the layout it wants, and watched.

Each question is asked twice with the same arguments, so that what accumulates shows; the arguments
are compared afterwards; what it raises becomes a finding.
"""

from __future__ import annotations

import linecache
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bpbench.network import Array
from bpbench.verify import truth
from bpbench.verify.arguments import Layout, bind, layouts, single_layouts
from bpbench.verify.diagnose.probe import Answer, Probe, usable
from bpbench.verify.findings import Finding
from bpbench.verify.returned import Expected, Returned, sort_out

OVERWRITTEN = "result overwritten by the next call"
SLOW = 1.0
"""Seconds; a function that takes longer is not asked the same twice."""


@dataclass(frozen=True)
class Reply:
    """What came of asking a probe.

    Attributes:
        answer: in bpbench's layout; None where nothing can be used.
        problems: how the function misbehaved.
        raised: whether it raised.
        progress: how far it came before it raised: the line, for comparison.
        order: in which of several arrangements the arrays came.
        dtypes: of the arrays that it returned.
        arrays: those themselves, to see later whether they are still what they were.
    """

    probe: Probe
    answer: Answer | None
    problems: tuple[Finding, ...] = ()
    raised: bool = False
    progress: int = 0
    order: int = 0
    dtypes: frozenset[str] = frozenset()
    arrays: tuple[Array, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether every gradient came, in its right shape, and nothing else was wrong."""
        return self.answer is not None and not self.problems

    @property
    def whole(self) -> bool:
        """Whether every gradient can be looked at, whatever else was wrong."""
        return self.answer is not None and all(map(usable, (*self.answer.W, *self.answer.b)))

    def same_as(self, other: Reply) -> bool:
        """Whether both gave the very same gradients."""
        if self.answer is None or other.answer is None or not (self.whole and other.whole):
            return False
        return all(
            np.array_equal(a, b)
            for a, b in zip(
                (*self.answer.W, *self.answer.b), (*other.answer.W, *other.answer.b), strict=True
            )
        )


class Scored(NamedTuple):
    """How well a layout worked, the layout, and what came of it."""

    score: tuple[float, ...]
    layout: Layout
    reply: Reply


class Caller:
    """A person's function, and the layout it turned out to want.

    Args:
        function: (W, b, x, y) -> gradients, or with parameters whose names tell.
        layers: how many layers have weights.
        bias: whether the network has biases.
        dtype: of the arrays that it is given.

    Attributes:
        overwritten: what is to be said of results that the next call changes, or None.
    """

    def __init__(self, function: Callable[..., Any], layers: int, bias: bool, dtype: str) -> None:
        self.forms = bind(function, layers, bias)
        self.form = self.forms[0]
        self.dtype = dtype
        self.layout = Layout()
        self.order = 0
        self.overwritten: Finding | None = None
        self._watched = False

    def settle(
        self, probes: Sequence[Probe], weights: str | None, samples: str | None, labels: str | None
    ) -> Reply:
        """Find the layout in which the function works, and keep it.

        Args:
            probes: tried in this order; the first on which it gives gradients decides, and where
                several layouts do, the next one, and at last which is nearest to the truth.
            weights, samples, labels: what the caller has said of the layout; None where not.

        Returns:
            what came of the best layout.
        """
        replies = []
        for form in self.forms:
            self.form = form
            reply = self._settle(probes, weights, samples, labels)
            if reply.answer is not None:
                return reply
            replies.append((self.form, self.layout, reply))
        self.form, self.layout, reply = replies[0]
        return reply

    def _settle(
        self, probes: Sequence[Probe], weights: str | None, samples: str | None, labels: str | None
    ) -> Reply:
        """Find the layout for one form of the parameters."""
        said = weights, samples, labels, self.form.folded
        best = self._try(probes, layouts(probes[0], *said))
        answer = best.reply.answer
        if answer is None or not any(map(usable, answer.W)):
            alone = single_layouts(probes[0], *said)
            single = self._try(probes[:2], alone) if alone else best
            # with one output, a column of one sample hides that (m,) met (m, 1)
            hides = single.layout.samples == "one column" and probes[0].network.sizes[-1] == 1
            best = single if single.reply.clean and (samples or not hides) else best
        self.layout, reply = best.layout, best.reply
        self.order = reply.order
        return reply if samples is not None else self._of_one_sample(reply)

    def _of_one_sample(self, reply: Reply) -> Reply:
        """The reply of a function that is meant for one sample at a time, though it takes several:
        its dW is the sum over the samples and its db is not summed at all.
        """
        layers = len(reply.probe.W)
        unsummed = [p for p in reply.problems if p.mistake == "db not summed over the samples"]
        if not reply.whole or len(unsummed) != len(reply.problems) or len(unsummed) < layers:
            return reply
        batch = self.layout
        self.layout = replace(
            batch, samples="one column" if batch.samples == "columns" else "one row"
        )
        alone = self._ask_once(reply.probe)
        if alone.clean and alone.answer is not None and reply.answer is not None:
            pairs = zip(reply.answer.W, alone.answer.W, strict=True)
            if all(np.allclose(W, reply.probe.samples * mean) for W, mean in pairs):
                return alone
        self.layout = batch
        return reply

    def _try(self, probes: Sequence[Probe], possible: Sequence[Layout]) -> Scored:
        """The best of some layouts: the first probe on which one works decides."""
        best: list[Scored] = []
        for probe in probes:
            tried = []
            for layout in possible:
                self.layout = layout
                reply = self._ask_once(probe)
                tried.append(Scored(_score(reply), layout, reply))
            worked = [one for one in tried if one.reply.clean]
            if worked:
                best, possible = worked, [one.layout for one in worked]
                if len({(layout.weights, layout.samples) for layout in possible}) == 1:
                    break
            elif not best or not best[0].reply.clean:
                best += tried
        return max(best, key=lambda one: one.score)

    def ask(self, probe: Probe) -> Reply:
        """Ask a probe, twice if the function is quick, and a third time if the answers differ."""
        start = time.perf_counter()
        first = self._ask_once(probe)
        if first.answer is None or not first.whole or time.perf_counter() - start > SLOW:
            return first
        second = self._ask_once(probe)
        if second.answer is None or not second.whole:
            say = "the same arguments give gradients the first time and none the second"
            return replace(first, problems=(*first.problems, *second.problems, _other(say)))
        if _same(first.answer, second.answer):
            self._watch(first)
            return first
        third = self._ask_once(probe)
        if third.answer is None or not third.whole:
            return first
        answer, problem = _changing([first.answer, second.answer, third.answer])
        return replace(first, answer=answer, problems=(*first.problems, problem))

    def _watch(self, reply: Reply) -> None:
        """See, once, whether a call for another batch changes the arrays of a reply."""
        if self._watched:
            return
        self._watched = True
        before = [array.copy() for array in reply.arrays]
        self._ask_once(replace(reply.probe, x=reply.probe.x[::-1] + 1.0))
        if not all(map(np.array_equal, before, reply.arrays)):
            say = (
                "the next call overwrites the arrays that a call returned: copy a gradient before "
                "you compute another"
            )
            self.overwritten = Finding(OVERWRITTEN, None, "dW", say)

    def _ask_once(self, probe: Probe) -> Reply:
        if not self.layout.single:
            return self._call(probe)
        each = [
            self._call(replace(probe, x=probe.x[i : i + 1], y=probe.y[i : i + 1]))
            for i in range(probe.samples)
        ]
        bad = next((reply for reply in each if not reply.whole), None)
        if bad is not None:
            return replace(bad, probe=probe)
        return replace(
            each[0], probe=probe, answer=_mean([r.answer for r in each if r.answer is not None])
        )

    def _call(self, probe: Probe) -> Reply:
        given = self.layout.give(probe, self.dtype)
        W, b, x, y = given
        kept = [array.copy() for array in (*W, *b, x, y)]
        lists = list(W), list(b)
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = self.form.call(*lists, x, y)
        except Exception as error:  # noqa: BLE001  # what somebody's code raises is a finding
            line, place = _line(error)
            say = f"on {probe} the function raises {type(error).__name__}: {error}{place}"
            return Reply(probe, None, (Finding("raises", None, None, say),), True, line)
        expected = Expected(
            tuple(w.shape for w in kept[: len(W)]), tuple(v.size for v in b),
            probe.samples, self.layout.columns, self.order, self.form.names,
        )  # fmt: skip
        returned = sort_out(value, expected)
        now = [np.asarray(v) for v in (*lists[0][: len(W)], *lists[1][: len(b)], x, y)]
        changed = _changed(kept, now, len(W), len(b), returned)
        answer = self._answer(probe, returned)
        return Reply(
            probe,
            answer if returned.usable else None,
            (*changed, *returned.problems),
            order=returned.order,
            dtypes=returned.dtypes,
            arrays=returned.arrays,
        )

    def _answer(self, probe: Probe, returned: Returned) -> Answer:
        W, b = (
            tuple(
                np.full_like(like, np.nan) if one is None else np.array(one)
                for one, like in zip(found, likes, strict=True)
            )
            for found, likes in zip(
                self.layout.take(returned.W, returned.b), (probe.W, probe.b), strict=True
            )
        )
        return Answer(W, b, returned.loss)


def _mean(answers: Sequence[Answer]) -> Answer:
    """The average of the answers for single samples."""
    losses = [answer.loss for answer in answers if answer.loss is not None]
    return Answer(
        tuple(np.mean([a.W[i] for a in answers], axis=0) for i in range(len(answers[0].W))),
        tuple(np.mean([a.b[i] for a in answers], axis=0) for i in range(len(answers[0].b))),
        float(np.mean(losses)) if losses else None,
    )


def _other(say: str) -> Finding:
    return Finding("not deterministic", None, None, say)


def _score(reply: Reply) -> tuple[float, ...]:
    """How well a layout works: gradients that are whole, few problems, near the truth."""
    if reply.raised:
        return (-1.0, float(reply.progress), 0.0, 0.0)
    if reply.answer is None:
        return (0.0, 0.0, 0.0, 0.0)
    whole = sum(map(usable, (*reply.answer.W, *reply.answer.b)))
    return (1.0, float(whole), -float(len(reply.problems)), _likeness(reply))


def _likeness(reply: Reply) -> float:
    """The largest cosine between a gradient that was found and the true one."""
    probe, answer = reply.probe, reply.answer
    assert answer is not None
    true = truth.backpropagate(
        probe.network, probe.parameters, probe.x, probe.y, l2=probe.l2, dtype="float64"
    ).gradients
    best = 0.0
    for found, right in zip((*answer.W, *answer.b), (*true.W, *true.b), strict=False):
        if usable(found) and found.any() and right.any():
            cosine = float((found * right).sum()) / float(
                np.linalg.norm(found) * np.linalg.norm(right)
            )
            best += abs(cosine)
    return best


def _line(error: Exception) -> tuple[int, str]:
    """How far the code came (the line in its own file, or in what that called) and where."""
    ours = str(Path(__file__).parent)
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not frame.filename.startswith(ours)
    ]
    if not own:
        return 0, ""
    frame = [frame for frame in own if frame.filename == own[0].filename][-1]
    text = linecache.getline(frame.filename, frame.lineno or 0).strip()
    shown = f": {text}" if text else ""
    return 10_000 * (own[0].lineno or 0) + (frame.lineno or 0), f" (line {frame.lineno}{shown})"


def _changed(
    before: Sequence[Array], after: Sequence[Array], weights: int, biases: int, returned: Returned
) -> list[Finding]:
    """The arguments that the function changed, as one finding."""
    names = [f"W[{i}]" for i in range(weights)] + [f"b[{i}]" for i in range(biases)] + ["x", "y"]
    wrong = [
        i
        for i, (old, new) in enumerate(zip(before, after, strict=True))
        if old.shape != new.shape or not np.array_equal(old, new, equal_nan=True)
    ]
    if not wrong:
        return []
    say = f"the function changes its arguments in place: {', '.join(names[i] for i in wrong)}"
    steps = [
        _step(before[i], after[i], returned.W[i])
        for i in wrong
        if i < weights and returned.W[i] is not None
    ]
    if steps and steps[0] is not None:
        say += f" (moved by {steps[0]:.4g} times the gradient: a training step)"
    layer = wrong[0] if wrong[0] < weights and len(wrong) == 1 else None
    tensor = "W" if wrong[0] < weights else "b" if wrong[0] < weights + biases else names[wrong[0]]
    say += ". Copy them before you change them"
    return [Finding("inputs changed in place", layer, tensor, say)]


def _step(old: Array, new: Array, gradient: Array | None) -> float | None:
    """The factor by which an argument was moved along its gradient, if it was."""
    if gradient is None or old.shape != gradient.shape or not gradient.any():
        return None
    moved = new - old
    factor = float((moved * gradient).sum() / (gradient * gradient).sum())
    close = np.abs(moved - factor * gradient).max() <= 1e-6 * np.abs(moved).max()
    return factor if close else None


def _same(one: Answer, other: Answer) -> bool:
    """Whether two answers agree but for the order in which threads add up."""
    for a, b in zip((*one.W, *one.b), (*other.W, *other.b), strict=True):
        size = max(float(np.abs(a).max(initial=0)), float(np.abs(b).max(initial=0)))
        if np.abs(a - b).max(initial=0) > 1e-6 * size:
            return False
    return True


def _changing(answers: Sequence[Answer]) -> tuple[Answer, Finding]:
    """Why three answers to the same question differ, and the gradient that is behind them."""
    first, second, third = answers
    growth, again = _difference(second, first), _difference(third, second)
    last = len(first.W) - 1
    rest = _ratio(again, growth)
    if rest is not None and abs(rest - 1) < 1e-6:
        say = (
            "the same arguments give more each time: every call adds its gradients to those of "
            "the calls before. Set the gradients to zero before each pass"
        )
        return growth, Finding("accumulated", last, "dW", say)
    factors = _ratio(second, first), _ratio(third, second)
    shrinks = factors[0] is not None and factors[0] < 1
    if rest is not None and 0 < rest < 1 and not shrinks:
        say = (
            f"the same arguments give {rest:.4g} times what they gave before, and more: each call "
            "adds its gradients to a part of those before, as momentum does. Return the gradient "
            "alone; momentum belongs in the step"
        )
        return _less(second, first, growth, rest), Finding("momentum mixed in", last, "dW", say)
    if factors[0] is not None and factors[1] is not None:
        say = (
            "the same arguments give the same gradients with another factor at each call "
            f"({factors[0]:.4g} times, then {factors[1]:.4g} times): look for a learning rate that "
            "decays, or a counter"
        )
        return first, Finding("factor of its own in each call", None, None, say)
    arrays = (("dW", growth.W, first.W), ("db", growth.b, first.b))
    places = [
        (name, layer)
        for name, moved, of_first in arrays
        for layer, g in enumerate(moved)
        if np.abs(g).max(initial=0) > 1e-6 * np.abs(of_first[layer]).max(initial=0)
    ]
    every = len(places) == len(first.W) + len(first.b)
    shown = "" if every else f" ({', '.join(f'{n}[{i}]' for n, i in places)}, the others do not)"
    say = (
        f"the same arguments give other gradients the second time{shown}. Switch off dropout and "
        "noise, and look for state that is kept between calls. Nothing else can be checked before"
    )
    return first, _other(say)


def _ratio(one: Answer, other: Answer) -> float | None:
    """The number by which ``other`` is to be multiplied to give ``one``; None if there is none."""
    pairs = list(zip((*one.W, *one.b), (*other.W, *other.b), strict=True))
    square = sum(float((b * b).sum()) for _, b in pairs)
    if not square:
        return None
    factor = sum(float((a * b).sum()) for a, b in pairs) / square
    scaled = Answer(tuple(factor * w for w in other.W), tuple(factor * v for v in other.b))
    return factor if _same(one, scaled) else None


def _less(second: Answer, first: Answer, growth: Answer, share: float) -> Answer:
    """The second answer less a share of the first, in the arrays that change."""

    def less(s: Array, f: Array, g: Array) -> Array:
        return s - share * f if np.abs(g).max(initial=0) > 1e-9 * np.abs(f).max(initial=0) else f

    return Answer(
        tuple(map(less, second.W, first.W, growth.W)),
        tuple(map(less, second.b, first.b, growth.b)),
        first.loss,
    )


def _difference(one: Answer, other: Answer) -> Answer:
    return Answer(
        tuple(a - b for a, b in zip(one.W, other.W, strict=True)),
        tuple(a - b for a, b in zip(one.b, other.b, strict=True)),
        one.loss,
    )
