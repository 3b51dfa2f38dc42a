"""What does a person's function answer? It is called in the layout it wants, and watched.

Each question is asked twice with the same arguments, so that what accumulates shows; the arguments
are compared afterwards; what it raises becomes a finding.
"""

from __future__ import annotations

import itertools
import linecache
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bpbench.network import Array
from bpbench.verify import truth
from bpbench.verify.arguments import ArrayLayout, Said, bind, layouts
from bpbench.verify.diagnose.probe import Answer, Probe, usable
from bpbench.verify.findings import Finding
from bpbench.verify.returned import Expected, Returned, sort_out

OVERWRITTEN = "result overwritten by the next call"
SLOW = 1.0
"""Seconds; a function that takes longer is not asked the same twice."""
_NOTHING = Returned((), ())


@dataclass(frozen=True)
class Reply:
    """What came of asking a probe.

    Attributes:
        answer: in bpbench's layout; None where nothing can be used.
        problems: how the function misbehaved.
        raised: how far it came before it raised: the line, for comparison; None where it did not.
        returned: what it returned, in its own layout.
    """

    probe: Probe
    answer: Answer | None
    problems: tuple[Finding, ...]
    raised: int | None = None
    returned: Returned = _NOTHING

    @property
    def clean(self) -> bool:
        """Whether every gradient came, in its right shape, and nothing else was wrong."""
        return self.answer is not None and not self.problems

    @property
    def whole(self) -> bool:
        """Whether every gradient can be looked at, whatever else was wrong."""
        return self.answer is not None and all(map(usable, arrays(self.answer)))

    def same_as(self, other: Reply) -> bool:
        """Whether both gave the very same gradients."""
        if self.answer is None or other.answer is None or not (self.whole and other.whole):
            return False
        return all(map(np.array_equal, arrays(self.answer), arrays(other.answer)))


class Scored(NamedTuple):
    """How well a layout worked, the layout, and what came of it."""

    score: tuple[float, ...]
    layout: ArrayLayout
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
        self.layout = ArrayLayout()
        self.order = 0
        self.overwritten: Finding | None = None
        self._watched = False

    def settle(self, probes: Sequence[Probe], said: Said) -> Reply:
        """Find the layout in which the function works, and keep it.

        Args:
            probes: tried in this order; the first on which it gives gradients decides, and where
                several layouts do, the next one, and at last which is nearest to the truth.
            said: what the caller has said of the layout.

        Returns:
            what came of the best layout.
        """
        found = []
        for form in self.forms:
            self.form = form
            reply = self._settle(probes, said)
            if reply.answer is not None:
                return reply
            found.append((form, self.layout, reply))
        self.form, self.layout, reply = found[0]
        return reply

    def _settle(self, probes: Sequence[Probe], said: Said) -> Reply:
        """Find the layout for one form of the parameters."""
        folded = self.form.folded
        best = self._try(probes, layouts(probes[0], said, folded))
        answer = best.reply.answer
        if not said.samples and (answer is None or not any(map(usable, answer.W))):
            single = self._try(probes[:2], layouts(probes[0], said, folded, single=True))
            # with one output, a column of one sample hides that (m,) met (m, 1)
            hides = single.layout.samples == "one column" and probes[0].network.sizes[-1] == 1
            best = single if single.reply.clean and not hides else best
        self.layout, reply = best.layout, best.reply
        self.order = reply.returned.order
        return reply if said.samples else self._of_one_sample(reply)

    def _of_one_sample(self, reply: Reply) -> Reply:
        """The reply of a function that is meant for one sample at a time, though it takes several:
        its dW is the sum over the samples and its db is not summed at all.
        """
        layers = len(reply.probe.W)
        unsummed = [p for p in reply.problems if p.mistake == "db not summed over the samples"]
        if not reply.whole or len(unsummed) != len(reply.problems) or len(unsummed) < layers:
            return reply
        batch = self.layout
        self.layout = replace(batch, samples="one column" if batch.columns else "one row")
        alone = self._ask_once(reply.probe)
        if alone.clean and alone.answer is not None and reply.answer is not None:
            pairs = zip(reply.answer.W, alone.answer.W, strict=True)
            if all(np.allclose(W, reply.probe.samples * mean) for W, mean in pairs):
                return alone
        self.layout = batch
        return reply

    def _try(self, probes: Sequence[Probe], possible: Sequence[ArrayLayout]) -> Scored:
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
            other = Finding("not deterministic", None, None, say)
            return replace(first, problems=(*first.problems, *second.problems, other))
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
        kept = reply.returned.arrays
        before = [array.copy() for array in kept]
        self._ask_once(replace(reply.probe, x=reply.probe.x[::-1] + 1.0))
        if not all(map(np.array_equal, before, kept)):
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
            return Reply(probe, None, (Finding("raises", None, None, say),), line)
        expected = Expected(
            tuple(w.shape for w in kept[: len(W)]), tuple(v.size for v in b),
            probe.samples, self.layout.columns, self.order, self.form.names,
        )  # fmt: skip
        returned = sort_out(value, expected)
        now = [np.asarray(v) for v in (*lists[0][: len(W)], *lists[1][: len(b)], x, y)]
        changed = _changed(kept, now, len(W), len(b), returned)
        found = self.layout.take(returned.W, returned.b)
        dW, db = (
            tuple(
                np.full_like(like, np.nan) if one is None else np.array(one)
                for one, like in zip(of_kind, likes, strict=True)
            )
            for of_kind, likes in zip(found, (probe.W, probe.b), strict=True)
        )
        answer = Answer(dW, db, returned.loss) if returned.usable else None
        return Reply(probe, answer, (*changed, *returned.problems), returned=returned)


def arrays(answer: Answer) -> Iterator[Array]:
    """dW of every layer, then db of every layer."""
    return itertools.chain(answer.W, answer.b)


def each(function: Callable[..., Array], first: Answer, *more: Answer) -> Answer:
    """What a function gives for the arrays of several answers, one by one; the first one's loss."""
    W, b = (
        tuple(map(function, *(getattr(answer, kind) for answer in (first, *more))))
        for kind in ("W", "b")
    )
    return Answer(W, b, first.loss)


def _mean(answers: Sequence[Answer]) -> Answer:
    """The average of the answers for single samples."""
    losses = [answer.loss for answer in answers if answer.loss is not None]
    mean = each(lambda *of_samples: np.asarray(np.mean(of_samples, axis=0)), *answers)
    return replace(mean, loss=float(np.mean(losses)) if losses else None)


def _score(reply: Reply) -> tuple[float, ...]:
    """How well a layout works: gradients that are whole, few problems, near the truth."""
    if reply.raised is not None:
        return (-1.0, float(reply.raised), 0.0, 0.0)
    if reply.answer is None:
        return (0.0, 0.0, 0.0, 0.0)
    whole = sum(map(usable, arrays(reply.answer)))
    return (1.0, float(whole), -float(len(reply.problems)), _likeness(reply.probe, reply.answer))


def true_gradients(probe: Probe) -> Answer:
    """What a function should give for a probe, in float64."""
    true = truth.backpropagate(
        probe.network, probe.parameters, probe.x, probe.y, l2=probe.l2, dtype="float64"
    ).gradients
    return Answer(true.W, true.b)


def _likeness(probe: Probe, answer: Answer) -> float:
    """How like the true gradients those found are: the sum of the cosines."""
    likeness = 0.0
    for found, right in zip(arrays(answer), arrays(true_gradients(probe)), strict=False):
        if usable(found) and found.any() and right.any():
            lengths = float(np.linalg.norm(found) * np.linalg.norm(right))
            likeness += abs(float((found * right).sum()) / lengths)
    return likeness


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
    moved = ((i, returned.W[i]) for i in wrong if i < weights)
    steps = (_step(before[i], after[i], g) for i, g in moved if g is not None)
    if (step := next(steps, None)) is not None:
        say += f" (moved by {step:.4g} times the gradient: a training step)"
    layer = wrong[0] if wrong[0] < weights and len(wrong) == 1 else None
    tensor = "W" if wrong[0] < weights else "b" if wrong[0] < weights + biases else names[wrong[0]]
    say += ". Copy them before you change them"
    return [Finding("inputs changed in place", layer, tensor, say)]


def _step(old: Array, new: Array, gradient: Array) -> float | None:
    """The factor by which an argument was moved along its gradient, if it was."""
    if old.shape != gradient.shape or not gradient.any():
        return None
    moved = new - old
    factor = float((moved * gradient).sum() / (gradient * gradient).sum())
    close = np.abs(moved - factor * gradient).max() <= 1e-6 * np.abs(moved).max()
    return factor if close else None


def _same(one: Answer, other: Answer) -> bool:
    """Whether two answers agree but for the order in which threads add up."""
    pairs = list(zip(arrays(one), arrays(other), strict=True))
    largest = (np.abs(pair).max(initial=0) for pair in pairs)
    return all(_size(a - b) <= 1e-6 * size for (a, b), size in zip(pairs, largest, strict=True))


def _size(array: Array) -> float:
    return float(np.abs(array).max(initial=0))


def _changing(answers: Sequence[Answer]) -> tuple[Answer, Finding]:
    """Why three answers to the same question differ, and the gradient that is behind them."""
    first, second, third = answers
    growth, again = each(np.subtract, second, first), each(np.subtract, third, second)
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

        def alone(f: Array, s: Array, g: Array) -> Array:
            return s - rest * f if _size(g) > 1e-9 * _size(f) else f

        found = each(alone, first, second, growth)
        return found, Finding("momentum mixed in", last, "dW", say)
    if factors[0] is not None and factors[1] is not None:
        say = (
            "the same arguments give the same gradients with another factor at each call "
            f"({factors[0]:.4g} times, then {factors[1]:.4g} times): look for a learning rate that "
            "decays, or a counter"
        )
        return first, Finding("factor of its own in each call", None, None, say)
    moved = [_size(g) > 1e-6 * _size(f) for g, f in zip(arrays(growth), arrays(first), strict=True)]
    names = [f"d{kind}[{i}]" for kind in "Wb" for i, _ in enumerate(getattr(first, kind))]
    places = ", ".join(itertools.compress(names, moved))
    shown = "" if all(moved) else f" ({places}, the others do not)"
    say = (
        f"the same arguments give other gradients the second time{shown}. Switch off dropout and "
        "noise, and look for state that is kept between calls. Nothing else can be checked before"
    )
    return first, Finding("not deterministic", None, None, say)


def _ratio(one: Answer, other: Answer) -> float | None:
    """The number by which ``other`` is to be multiplied to give ``one``; None if there is none."""
    pairs = list(zip(arrays(one), arrays(other), strict=True))
    square = sum(float((b * b).sum()) for _, b in pairs)
    if not square:
        return None
    factor = sum(float((a * b).sum()) for a, b in pairs) / square
    return factor if _same(one, each(lambda b: factor * b, other)) else None
