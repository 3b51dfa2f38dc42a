"""What went wrong in one layer, given the delta that came down to it?

The right formulas first; then one wrong delta that explains dW and db together; then mistakes in dW
and db by themselves; then sums of a few terms whose weights are fitted; and where nothing fits, the
delta that was used is taken from dW, so that the layers below can be judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.chains import UNKNOWN, UNKNOWN_COST, Arrays, Case, Chain, Mistake
from bpbench.verify.diagnose.combinations import combinations
from bpbench.verify.diagnose.decays import decay_mistakes, name_decay
from bpbench.verify.diagnose.evidence import Explanation, LayerEvidence, Mistakes
from bpbench.verify.diagnose.fits import fit
from bpbench.verify.diagnose.gradients import (
    bias_gradients,
    of_other_layers,
    weight_gradients,
)
from bpbench.verify.diagnose.guesses import Guess, clipped_to
from bpbench.verify.diagnose.hidden_deltas import hidden_deltas
from bpbench.verify.diagnose.output_deltas import loss_slope, output_deltas, paired_otherwise
from bpbench.verify.diagnose.probe import usable
from bpbench.verify.diagnose.unexplained import ROOT, lengths_of, pattern


def explain_layer(case: Case, chain: Chain, layer: int) -> list[Chain]:
    """The chain with ``layer`` explained, in every way that is worth following."""
    right, errors = right_delta(case, chain, layer)
    if not all(usable(answer.W[layer]) for answer in case.answers):
        return [chain.add(layer, [], 0.0, right, errors)]  # its form is wrong, and said to be
    evidence = evidence_of(case, chain, layer)
    if all(evidence.exact(right)):
        decayed = decay_mistakes(case, chain, layer, chain.scale)
        return [chain.add(layer, decayed, len(decayed), right, errors)]
    explainer = _Layer(case, chain, layer, evidence, right, errors)
    return explainer.explained()


def evidence_of(case: Case, chain: Chain, layer: int) -> LayerEvidence:
    """What was found in a layer, less its weight decay."""
    decay = chain.decays[layer]
    dW = []
    for i, (probe, answer) in enumerate(zip(case.probes, case.answers, strict=True)):
        k = probe.l2 if decay is None else float(decay[i])
        found = answer.W[layer]
        rest = found - k * probe.W[layer] if k else found
        rounding_noise = 1e-13 * float(np.abs(found).max(initial=0))
        dW.append(rest if np.abs(rest).max(initial=0) > rounding_noise else np.zeros_like(rest))
    db = tuple(answer.b[layer] for answer in case.answers if answer.b)
    if not all(map(usable, db)):
        db = ()  # its form is wrong, and said to be
    return LayerEvidence(tuple(dW), db, chain.inputs[layer], case.quantities(layer), case.tolerance)


def right_delta(case: Case, chain: Chain, layer: int) -> tuple[Arrays, Arrays]:
    """The right delta of a layer for what came down to it, and what f' multiplies."""
    deltas, errors = [], []
    for i, probe in enumerate(case.probes):
        reading = chain.readings[i]
        if layer == case.layers - 1:
            deltas.append(next(output_deltas(probe, reading)).value)
            errors.append(loss_slope(probe, reading))
        else:
            back = chain.deltas[layer + 1][i] @ probe.W[layer + 1]
            slope = reading.slope(layer)
            assert slope is not None  # softmax is an output activation
            deltas.append(back * slope)
            errors.append(back)
    return tuple(deltas), tuple(errors)


@dataclass(frozen=True)
class _Option:
    """One way in which dW, or db, may have come about.

    Attributes:
        delta: the delta it takes, and what is wrong with that; None for the right one.
        own: what is wrong with the array itself.
        whole: whether that is said of all of it, the L2 term included.
        factors: (P,), what the right array is multiplied by, if by anything.
    """

    cost: float
    delta: Arrays | None
    delta_mistakes: Mistakes
    own: Mistakes
    whole: bool = False
    factors: Array | None = None


WAY_BACK = "averaged over the samples on the way back"
RIGHT = _Option(0.0, None, (), ())


@dataclass(frozen=True)
class _Layer:
    """One layer that is not right, and all that is known of it."""

    case: Case
    chain: Chain
    layer: int
    evidence: LayerEvidence
    right: Arrays
    errors: Arrays

    def explained(self) -> list[Chain]:
        """The chains that explain this layer, or say that it is not explained."""
        zero = any(not any(a.any() for a in of_W) for of_W in (self._whole(), self.evidence.dW))
        if zero and not any(array.any() for array in self.evidence.db):
            zeros = tuple(np.zeros_like(delta) for delta in self.right)
            both = bool(self.evidence.db)
            name, what = ("gradient zero", "dW and db are") if both else ("dW zero", "dW is")
            say = ((name, f"{what} all zeros"),)
            return [
                self._chain(self._at(say, "delta"), 1 + 0.3 * (not both), zeros),
                self._chain(self._at(say, "dW"), 1 + 0.3 * both, self.right),
            ]
        together, alone_W, alone_b = self.evidence.explain(self._guesses())
        found = [*self._joint(together), *self._proportional()]
        if not together or (self.evidence.db and self.evidence.exact(self.right)[1]):
            found += self._apart(alone_W, alone_b)
        if min((chain.cost for chain in found), default=np.inf) - self.chain.cost > 1.9:
            found += combinations(
                self.case,
                self.chain,
                self.layer,
                self.evidence,
                self.right,
                self.errors,
                self._decayed(None),
            )
        return found or self._unknown()

    def _guesses(self) -> list[list[Guess]]:
        guesses = []
        implied, _ = self.evidence.implied()
        clipped = clipped_to("delta", implied, self.right) if implied is not None else None
        layers = self.case.layers
        for i, probe in enumerate(self.case.probes):
            reading = self.chain.readings[i]
            with np.errstate(all="ignore"):
                if self.layer == layers - 1:
                    of_probe = list(output_deltas(probe, reading))
                    if implied is not None:
                        of_probe.append(paired_otherwise(probe, reading, implied[i]))
                else:
                    deltas = self.chain.above(self.chain.deltas, i, layers)
                    errors = self.chain.above(self.chain.errors, i, layers)
                    of_probe = list(hidden_deltas(probe, reading, self.layer, deltas, errors))
            guesses.append(of_probe if clipped is None else [*of_probe, clipped[i]])
        return guesses

    def _at(self, mistakes: Mistakes, tensor: str) -> list[Mistake]:
        names = {WAY_BACK: "averaged before the outer product"} if tensor == "dW" else {}
        return [Mistake(names.get(name, name), self.layer, tensor, say) for name, say in mistakes]

    def _decayed(self, scale: Array | None) -> list[Mistake]:
        return decay_mistakes(self.case, self.chain, self.layer, scale)

    def _chain(
        self, mistakes: Sequence[Mistake], cost: float, delta: Arrays, scale: Array | None = None
    ) -> Chain:
        return self.chain.add(self.layer, mistakes, cost, delta, self.errors, scale)

    def _scale(self, factors: Array) -> Array | None:
        """The factor of the whole gradient, L2 term and all, if there is one: that of delta, unless
        the L2 term here is as it should be.
        """
        k, l2 = self.chain.decays[self.layer], self.case.probes[0].l2
        if k is None or not l2 or np.allclose(k, l2, rtol=1e-6):
            return self.chain.scale
        return factors if self.chain.scale is None else self.chain.scale * factors

    # ── One wrong delta for dW and db ──────────────────────────────────────────────────────────

    def _joint(self, explanations: Sequence[Explanation]) -> Iterator[Chain]:
        """It is handed down as it is, or used in this layer only, or only its factor is."""
        for e in explanations:
            scale = self._scale(e.factors)
            decayed = self._decayed(scale)
            both = (*e.guess, *e.factor)
            cost = e.cost + len(decayed)
            yield self._chain([*self._at(both, "delta"), *decayed], cost, e.scaled, scale)
            if self.layer == 0:
                continue
            decayed = self._decayed(e.factors)
            here = [*self._at(both, "dW"), *decayed]
            # dearer, so that what is wrong with dW and db alike is not called certain to stay here
            # where the same mistake in every layer, such as f' with a wrong sign, explains it too
            yield self._chain(here, e.cost + len(decayed) + 0.5, self.right)
            if e.guess and e.factor:
                mixed = [*self._at(e.guess, "delta"), *self._at(e.factor, "dW"), *decayed]
                yield self._chain(mixed, e.cost + len(decayed) + 0.3, e.values)

    def _proportional(self) -> Iterator[Chain]:
        """The right delta by a factor that is not made of sizes: that of a normalised gradient, or
        of no known rule.
        """
        factors = self.evidence.proportional(self.right)
        if factors is None or self.evidence.read(factors, "delta"):
            return
        cost, mistake = self._length(factors)
        deltas = tuple(f * d for f, d in zip(factors, self.right, strict=True))
        found = self._at((mistake,), "delta")
        yield self._chain(found, cost, deltas, self._scale(factors))

    def _length(self, factors: Array) -> tuple[float, tuple[str, str]]:
        """What a right direction of a wrong length is: a gradient made of a fixed length, or
        unknown.
        """
        shown = ", ".join(f"{f:.4g}" for f in factors)
        say = f"it has the right direction, but {shown} times the right length"
        for rule, lengths in lengths_of(self.case, self.evidence, self.right).items():
            rest = factors * lengths
            if np.allclose(rest, rest[0], rtol=max(1e2 * self.case.tolerance, 1e-8)):
                name = "root of the loss" if rule == ROOT else "gradient normalised"
                return 1.5, (name, f"{say}: {rest[0]:.4g} over {rule}")
        return 2.5, (UNKNOWN, say)

    def _alone_in_length(self, tensor: str) -> list[_Option]:
        """dW or db that has the right direction, but not the right length."""
        if tensor == "dW":
            right = [d.T @ below for d, below in zip(self.right, self.evidence.below, strict=True)]
            found = self.evidence.dW
        else:
            right, found = [d.sum(axis=0) for d in self.right], self.evidence.db
        if any(array.size < 2 for array in found):
            return []
        fits = [fit(r.reshape(1, -1), f.ravel()) for r, f in zip(right, found, strict=True)]
        if any(f.miss[0] > self.case.tolerance for f in fits):
            return []
        factors = np.array([f.factor[0] for f in fits])
        if self.evidence.read(factors, tensor):
            return []
        cost, mistake = self._length(factors)
        return [_Option(cost, None, (), (mistake,))]

    # ── dW and db by themselves ────────────────────────────────────────────────────────────────

    def _apart(
        self, alone_W: Sequence[Explanation], alone_b: Sequence[Explanation]
    ) -> Iterator[Chain]:
        """dW and db have mistakes of their own; at least one of the two can be explained."""
        of_W = self._options(alone_W, "dW")
        of_b = self._options(alone_b, "db") if self.evidence.db else [RIGHT]
        if not of_W and not (of_b and self.evidence.db):
            return
        for W in of_W or [self._unexplained("dW")]:
            for b in of_b or [self._unexplained("db")]:
                yield from self._pair(W, b)

    def _options(self, explanations: Sequence[Explanation], tensor: str) -> list[_Option]:
        found = self.evidence.dW if tensor == "dW" else self.evidence.db
        right_W, right_b = self.evidence.exact(self.right)
        if right_W if tensor == "dW" else right_b:
            return [RIGHT]
        raw = self._whole() if tensor == "dW" else found
        if not any(array.any() for array in raw):
            return self._zero(tensor)
        options = [
            _Option(e.cost, e.values if e.guess else None, e.guess, e.factor, factors=e.factors)
            for e in explanations
        ]
        trials = [(found, 0.0)]
        if tensor == "dW" and self.case.probes[0].l2:
            trials.append((raw, 1.0))  # the L2 term went through the mistake with the rest
        for values, decayed in trials:
            guesses = self._array_guesses(values, tensor, decayed)
            options += [
                _Option(e.cost + 0.05, None, (), (*e.guess, *e.factor), bool(decayed))
                for e in self.evidence.explain_array(values, guesses, tensor)
            ]
        options += self._decayed_bias() if tensor == "db" else self._decayed_weights()
        options += self._alone_in_length(tensor)
        if tensor == "dW":
            options += self._decayed_otherwise()
        return sorted(options, key=lambda option: option.cost)[:4]

    def _zero(self, tensor: str) -> list[_Option]:
        """dW or db that holds nothing: not even rounding, or what sums to 0 over the units."""
        zero = (f"{tensor} zero", f"{tensor} is all zeros")
        options = [_Option(1.0, None, (), (zero,), True)]
        sums_to_nothing = all(
            np.abs(delta.sum(axis=1)).max() < 1e-12 * np.abs(delta).max() for delta in self.right
        )
        if tensor == "db" and sums_to_nothing:
            rounding_noise = self.layer in self.case.rounding_noise
            say = "db is zero" + (" but for rounding" if rounding_noise else "")
            say += ", as delta's sum over the units is: it may be summed over these"
            summed = ("db summed over everything", say)
            options.append(_Option(0.7 if rounding_noise else 1.1, None, (), (summed,), True))
        return options

    def _whole(self) -> Arrays:
        """dW as it was found, its L2 term and all."""
        return tuple(answer.W[self.layer] for answer in self.case.answers)

    def _array_guesses(self, found: Arrays, tensor: str, decayed: float) -> list[list[Guess]]:
        guesses, right = [], []
        for delta, error, below, probe, reading in zip(
            self.right, self.errors, self.evidence.below, self.case.probes, self.chain.readings,
            strict=True,
        ):  # fmt: skip
            if tensor == "dW":
                decay = decayed * probe.l2 * probe.W[self.layer]
                guesses.append(list(weight_gradients(delta, below, decay)))
                right.append(delta.T @ below + decay)
            else:
                b = probe.b[self.layer]
                z, a = reading.z[self.layer], reading.a[self.layer]
                guesses.append(list(bias_gradients(delta, error, below, b, z, a)))
                right.append(delta.sum(axis=0))
        for i, of_probe in enumerate(guesses):
            inputs = [arrays[i] for arrays in self.chain.inputs]
            of_probe += of_other_layers(self.case.answers[i], inputs, self.layer, tensor)
        clipped = clipped_to(tensor, found, right)
        if clipped is None:
            return guesses
        return [[*of_probe, clip] for of_probe, clip in zip(guesses, clipped, strict=True)]

    def _decayed_weights(self) -> list[_Option]:
        """dW that holds another multiple of W, where its span does not tell which."""
        if self.chain.decays[self.layer] is not None:
            return []
        W = tuple(probe.W[self.layer] for probe in self.case.probes)
        products = [
            delta.T @ below for delta, below in zip(self.right, self.evidence.below, strict=True)
        ]
        whole = self._whole()
        factors, explained = self.evidence.sum_of(whole, list(zip(products, W, strict=True)))
        if not explained or not np.allclose([f[0] for f in factors], 1, rtol=1e-3):
            return []
        k = np.array([f[1] for f in factors])
        mistakes = name_decay(self.case, self.layer, k, None)
        return [_Option(1.0, None, (), tuple((m.name, m.say) for m in mistakes), True)]

    def _decayed_otherwise(self) -> Iterator[_Option]:
        """dW that holds a multiple of sign(W), an L1 term, or of another layer's W."""
        of_sign = [np.sign(probe.W[self.layer]) for probe in self.case.probes]
        terms = [("L1 for L2", f"sign(W[{self.layer}])", of_sign)]
        for other in range(self.case.layers):
            of_other = [probe.W[other] for probe in self.case.probes]
            shapes = [V.shape for V in of_other]
            if other != self.layer and shapes == [p.W[self.layer].shape for p in self.case.probes]:
                terms.append(("L2 of another layer's W", f"W[{other}]", of_other))
        for mistake, what, arrays in terms:
            columns = [
                (delta.T @ below, term)
                for delta, below, term in zip(self.right, self.evidence.below, arrays, strict=True)
            ]
            factors, explained = self.evidence.sum_of(self._whole(), columns)
            if explained and np.allclose([f[0] for f in factors], 1, rtol=1e-3):
                say = f"dW holds {float(np.mean([f[1] for f in factors])):.4g} times {what}"
                yield _Option(1.0, None, (), ((mistake, say),), True)

    def _decayed_bias(self) -> list[_Option]:
        """db that holds a multiple of b."""
        b = tuple(probe.b[self.layer] for probe in self.case.probes)
        sums = tuple(delta.sum(axis=0) for delta in self.right)
        factors, explained = self.evidence.sum_of(self.evidence.db, list(zip(sums, b, strict=True)))
        if not explained or not np.allclose([f[0] for f in factors], 1, rtol=1e-6):
            return []
        k = np.array([f[1] for f in factors])
        if not np.allclose(k, k.mean(), rtol=1e-5):
            return []
        say = f"db holds {k.mean():.4g} times b"
        return [_Option(1.0, None, (), (("L2 on the bias", say),))]

    def _pair(self, W: _Option, b: _Option) -> Iterator[Chain]:
        decayed = [] if W.whole else self._decayed(None)
        if decayed and W.factors is not None:  # the L2 term may have been multiplied with the rest
            decayed = min(decayed, self._decayed(W.factors), key=len)
        cost = W.cost + b.cost + len(decayed)
        own = [*self._at(W.own, "dW"), *self._at(b.own, "db"), *decayed]
        if W.delta_mistakes and W.delta_mistakes == b.delta_mistakes:
            cost -= len(W.delta_mistakes)
            assert W.delta is not None
            yield self._chain([*self._at(W.delta_mistakes, "delta"), *own], cost, W.delta)
            if self.layer == 0:
                return
            yield self._chain([*self._at(W.delta_mistakes, "dW"), *own], cost + 0.2, self.right)
            return
        here = [*self._at(W.delta_mistakes, "dW"), *self._at(b.delta_mistakes, "db"), *own]
        yield self._chain(here, cost, self.right)
        if self.layer == 0:
            return
        if W.delta is not None:
            down = [*self._at(W.delta_mistakes, "delta"), *self._at(b.delta_mistakes, "db"), *own]
            yield self._chain(down, cost + 0.2, W.delta)
        if b.delta is not None:
            down = [*self._at(b.delta_mistakes, "delta"), *self._at(W.delta_mistakes, "dW"), *own]
            yield self._chain(down, cost + 0.2, b.delta)

    # ── What nothing explains ──────────────────────────────────────────────────────────────────

    def _unexplained(self, tensor: str) -> _Option:
        W, b = self.evidence.deviation(self.right)
        cost, mistake = self._nameless(W if tensor == "dW" else b, tensor)
        return _Option(cost, None, (), (mistake,))

    def _nameless(self, share: float, tensor: str) -> tuple[float, tuple[str, str]]:
        """An error that no formula explains: rounding to a lower precision, or unknown."""
        for limit, name in self.case.coarse:
            if share < limit:
                say = f"{tensor} is off by {share:.1e} of its largest entry, as rounding would be"
                return 1.2, (name, say)
        return UNKNOWN_COST, (UNKNOWN, f"{tensor} is off by {share:.2g} of its largest entry")

    def _unknown(self) -> list[Chain]:
        """The delta that dW implies is what was handed down, or else the right one."""
        shares = self.evidence.deviation(self.right)
        implied, agrees = self.evidence.implied()
        if implied is not None and agrees:
            cost, mistake = self._nameless(max(shares), "delta")
            if mistake[0] == UNKNOWN:
                cost, mistake = pattern(self.case, implied, self.right) or (cost, mistake)
            _, of_W = self._nameless(max(shares), "dW")
            return [
                self._chain(self._at((mistake,), "delta"), cost, implied),
                self._chain(self._at((of_W,), "dW"), cost + 0.2, self.right),
            ]
        W, b = self._unexplained("dW"), self._unexplained("db")
        arrays = [W] if not self.evidence.db else [W, b]
        found = [
            m for option, tensor in zip(arrays, ("dW", "db"), strict=False)
            for m in self._at(option.own, tensor)
        ]  # fmt: skip
        cost = max(option.cost for option in arrays) + 0.2 * (len(arrays) - 1)
        chains = [self._chain(found, cost, self.right)]
        if implied is not None:
            chains.append(self._chain(found, cost + 0.2, implied))
        return chains
