"""Does a formula explain what one layer's dW and db are, in every probe at once?

``LayerEvidence`` holds what was found in one layer, probe by probe; guesses for delta, dW or db are
fitted to it. A guess explains it where it fits in every probe, by a factor that can be named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.fits import (
    Factor,
    Fit,
    Quantities,
    combine,
    fit,
    fit_together,
    read_factor,
    sketch,
)
from bpbench.verify.diagnose.guesses import Guess

Mistakes = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Explanation:
    """A guess that fits, with one reading of its factor.

    Attributes:
        cost: how many mistakes it takes, with a little more for the far-fetched.
        guess: those of the guess.
        factor: those of its factor.
        values: what the guess gives in each probe.
        factors: (P,), what it is multiplied by.
    """

    cost: float
    guess: Mistakes
    factor: Mistakes
    values: tuple[Array, ...]
    factors: Array

    @property
    def scaled(self) -> tuple[Array, ...]:
        """The values with their factors."""
        return tuple(f * value for f, value in zip(self.factors, self.values, strict=True))


@dataclass(frozen=True)
class LayerEvidence:
    """What was found in one layer.

    Attributes:
        dW: (n_out, n_in) in each probe, less the part that is a multiple of W.
        db: (n_out,) in each probe, or none.
        below: (m, n_in) in each probe, what multiplies delta in dW.
        quantities: what factors may be made of.
        tolerance: the largest deviation that rounding explains, as a share of the largest entry.
    """

    dW: tuple[Array, ...]  # noqa: N815  # as the equations write it
    db: tuple[Array, ...]
    below: tuple[Array, ...]
    quantities: Quantities
    tolerance: float

    @property
    def probes(self) -> int:
        """How many probes there are."""
        return len(self.dW)

    def exact(self, deltas: Sequence[Array]) -> tuple[bool, bool]:
        """Whether dW, and db, are right for these deltas (m, n_out), one for each probe."""
        right_W = all(
            self._close(found, delta.T @ below)
            for found, delta, below in zip(self.dW, deltas, self.below, strict=True)
        )
        right_b = all(
            self._close(found, delta.sum(axis=0))
            for found, delta in zip(self.db, deltas, strict=False)
        )
        return right_W, right_b

    def _close(self, found: Array, predicted: Array) -> bool:
        size = max(np.abs(predicted).max(initial=0), np.abs(found).max(initial=0))
        return bool((np.abs(found - predicted) <= self.tolerance * size).all())

    def deviation(self, deltas: Sequence[Array]) -> tuple[float, float]:
        """How far dW and db are from what these deltas give, as a share of the largest entry."""
        return (
            max(
                _share(found, delta.T @ below)
                for found, delta, below in zip(self.dW, deltas, self.below, strict=True)
            ),
            max(
                (_share(f, d.sum(axis=0)) for f, d in zip(self.db, deltas, strict=False)),
                default=0.0,
            ),
        )

    # ── Guesses of delta ───────────────────────────────────────────────────────────────────────

    def explain(
        self, guesses: Sequence[Sequence[Guess]]
    ) -> tuple[list[Explanation], list[Explanation], list[Explanation]]:
        """The guesses of delta that explain dW and db together, dW alone, and db alone.

        Args:
            guesses: for each probe.
        """
        keys, values = aligned(guesses)
        together, alone_W, alone_b = [], [], []
        for i in range(self.probes):
            both, W, b = self._fits(i, values[i])
            together.append(both)
            alone_W.append(W)
            alone_b.append(b)
        return (
            self._read(keys, values, together, "delta"),
            self._read(keys, values, alone_W, "dW"),
            self._read(keys, values, alone_b, "db") if self.db else [],
        )

    def _fits(self, i: int, deltas: Array) -> tuple[Fit, Fit, Fit]:
        mix = sketch(self.below[i].shape[1])
        below = self.below[i] if mix is None else self.below[i] @ mix
        dW = self.dW[i] if mix is None else self.dW[i] @ mix
        count = len(deltas)
        predicted = (np.swapaxes(deltas, 1, 2) @ below).reshape(count, -1)
        alone = fit(predicted, dW.ravel())
        if not self.db:
            return alone, alone, alone
        sums = deltas.sum(axis=1)
        return (
            fit_together((predicted, sums), (dW.ravel(), self.db[i])),
            alone,
            fit(sums, self.db[i]),
        )

    def _read(
        self,
        keys: Sequence[Mistakes],
        values: Sequence[Array],
        fits: Sequence[Fit],
        tensor: str,
    ) -> list[Explanation]:
        found = []
        fitting = np.all([f.miss <= self.tolerance for f in fits], axis=0)
        for k in map(int, np.flatnonzero(fitting)):
            factors = np.array([f.factor[k] for f in fits])
            own = tuple(v[k] for v in values)
            for reading in self.read(factors, tensor):
                # later guesses are the rarer mistakes
                cost = len(keys[k]) + 0.0005 * k + reading.cost
                key = _of_db(keys[k]) if tensor == "db" else keys[k]
                found.append(Explanation(cost, key, reading.mistakes, own, factors))
        found.sort(key=lambda e: e.cost)
        # all that fit give the same arrays but for a factor: the commonest name for them is enough
        return [e for e in found if e.guess == found[0].guess]

    def read(self, factors: Array, tensor: str) -> list[Factor]:
        """What the factors of the probes may be."""
        return read_factor(factors, self.quantities, tensor, max(20 * self.tolerance, 1e-9))

    # ── Guesses of dW or of db ─────────────────────────────────────────────────────────────────

    def explain_array(
        self, found: Sequence[Array], guesses: Sequence[Sequence[Guess]], tensor: str
    ) -> list[Explanation]:
        """The guesses of ``found`` itself (dW or db, one for each probe) that explain it."""
        keys, values = aligned(guesses)
        flat = [v.reshape(len(keys), -1) for v in values]
        fits = [fit(v, f.ravel()) for v, f in zip(flat, found, strict=True)]
        return self._read(keys, values, fits, tensor)

    def combined(self, columns: Sequence[Sequence[Array]]) -> tuple[list[Array], bool]:
        """Fit sums of a few deltas: ``columns`` holds some (m, n_out) for each probe.

        Returns:
            the coefficients in each probe, and whether they explain dW and db.
        """
        coefficients, explained, spare = [], True, 0
        for i, deltas in enumerate(columns):
            mix = sketch(self.below[i].shape[1])
            below = self.below[i] if mix is None else self.below[i] @ mix
            dW = self.dW[i] if mix is None else self.dW[i] @ mix
            parts = [(d.T @ below).ravel() / _size(dW) for d in deltas]
            target = dW.ravel() / _size(dW)
            if self.db:
                size = _size(self.db[i])
                parts = [
                    np.concatenate([part, d.sum(axis=0) / size])
                    for part, d in zip(parts, deltas, strict=True)
                ]
                target = np.concatenate([target, self.db[i] / size])
            found, miss = combine(parts, target)
            explained &= miss <= self.tolerance
            spare += len(target) - len(deltas)
            coefficients.append(found)
        return coefficients, explained and spare >= 6

    def sum_of(
        self, found: Sequence[Array], columns: Sequence[Sequence[Array]]
    ) -> tuple[list[Array], bool]:
        """Fit sums of a few arrays to ``found`` (one for each probe), as ``combined`` does."""
        fits = [
            combine([column.ravel() for column in c], f.ravel())
            for c, f in zip(columns, found, strict=True)
        ]
        spare = sum(f.size - len(c) for c, f in zip(columns, found, strict=True))
        return [weights for weights, _ in fits], spare >= 3 and all(
            miss <= self.tolerance for _, miss in fits
        )

    def proportional(self, deltas: Sequence[Array]) -> Array | None:
        """The factors, (P,), by which these deltas explain dW and db; None where they do not."""
        fits = [self._fits(i, delta[None])[0] for i, delta in enumerate(deltas)]
        if any(f.miss[0] > self.tolerance for f in fits):
            return None
        return np.array([f.factor[0] for f in fits])

    # ── The delta that was used ────────────────────────────────────────────────────────────────

    def implied(self) -> tuple[tuple[Array, ...] | None, bool]:
        """The delta that dW tells of, (m, n_out) in each probe, and whether db agrees.

        None where there are more samples than inputs, or where no delta gives this dW.
        """
        deltas, agree = [], True
        loose = max(1e3 * self.tolerance, 1e-8)
        for i, (dW, below) in enumerate(zip(self.dW, self.below, strict=True)):
            if below.shape[0] > below.shape[1]:
                return None, False
            delta = np.linalg.lstsq(below.T, dW.T, rcond=None)[0]
            if _share(dW, delta.T @ below) > loose:
                return None, False
            if self.db:
                agree &= _share(self.db[i], delta.sum(axis=0)) <= loose
            deltas.append(delta)
        return tuple(deltas), agree


def _of_db(mistakes: Mistakes) -> Mistakes:
    """The same mistakes by their names in db."""
    names = {"rows overwritten in a loop": "db of one sample"}
    return tuple((names.get(name, name), say) for name, say in mistakes)


def aligned(guesses: Sequence[Sequence[Guess]]) -> tuple[list[Mistakes], list[Array]]:
    """The guesses that every probe has, and their values, (K, ...) for each probe."""
    tables = [_numbered(of_probe) for of_probe in guesses]
    keys = [key for key in tables[0] if all(key in table for table in tables[1:])]
    values = [np.stack([table[key] for key in keys]) for table in tables]
    for stacked in values:
        stacked[~np.isfinite(stacked)] = 0  # a guess that is nan somewhere explains nothing
    return [mistakes for mistakes, _ in keys], values


def _numbered(guesses: Iterable[Guess]) -> dict[tuple[Mistakes, int], Array]:
    """Guesses by their mistakes and, where several have the same, their number."""
    table: dict[tuple[Mistakes, int], Array] = {}
    for guess in guesses:
        number = 0
        while (guess.mistakes, number) in table:
            number += 1
        table[guess.mistakes, number] = guess.value
    return table


def _size(array: Array) -> float:
    return max(float(np.abs(array).max(initial=0)), 1e-300)


def _share(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max(initial=0)) / max(_size(expected), _size(found))
