"""Does a formula explain what one layer's dW and db are, in every probe at once?

``LayerEvidence`` holds what was found in one layer, probe by probe; guesses for delta, dW or db are
fitted to it. A guess explains it where it fits in every probe, by a factor that can be named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.costs import LATER
from bpbench.verify.diagnose.fits import Fit, combine, fit, joined, sketched
from bpbench.verify.diagnose.mistakes.factors import Quantities, read_factor
from bpbench.verify.diagnose.mistakes.row import Guess, Seen

Mistakes = tuple[Seen, ...]
Arrays = tuple[Array, ...]
"""One array for each probe."""


@dataclass(frozen=True)
class Explanation:
    """A guess that fits, with one reading of its factor.

    Attributes:
        cost: how many mistakes it takes, with a little more for the rarer.
        guess, factor: the mistakes of the guess, and those of its factor.
        values: what the guess gives in each probe.
        factors: (P,), what it is multiplied by.
    """

    cost: float
    guess: Mistakes
    factor: Mistakes
    values: Arrays
    factors: Array

    @property
    def scaled(self) -> Arrays:
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

    dW: Arrays  # noqa: N815  # as the equations write it
    db: Arrays
    below: Arrays
    quantities: Quantities
    tolerance: float

    def deviation(self, deltas: Sequence[Array]) -> tuple[float, float]:
        """How far dW and db are from what these deltas give, as a share of the largest entry."""
        of_W = [
            _share(found, delta.T @ below)
            for found, delta, below in zip(self.dW, deltas, self.below, strict=True)
        ]
        of_b = [_share(f, d.sum(axis=0)) for f, d in zip(self.db, deltas, strict=False)]
        return max(of_W), max(of_b, default=0.0)

    def exact(self, deltas: Sequence[Array]) -> tuple[bool, bool]:
        """Whether dW, and db, are right for these deltas (m, n_out), one for each probe."""
        of_W, of_b = self.deviation(deltas)
        return of_W <= self.tolerance, of_b <= self.tolerance

    def _given(self, i: int, deltas: Array) -> list[tuple[Array, Array]]:
        """What deltas, (K, m, n_out), give in a probe, and what was found: dW and, if any, db."""
        below, dW = sketched(self.below[i]), sketched(self.dW[i])
        of_W = (np.swapaxes(deltas, 1, 2) @ below).reshape(len(deltas), -1)
        pairs = [(of_W, dW.ravel())]
        return pairs if not self.db else [*pairs, (deltas.sum(axis=1), self.db[i])]

    # ── Guesses ────────────────────────────────────────────────────────────────────────────────

    def explain(self, guesses: Sequence[Sequence[Guess]]) -> dict[str, list[Explanation]]:
        """The guesses of delta, for each probe, that explain dW and db together ("delta"), dW
        alone and db alone.
        """
        keys, values = aligned(guesses)
        given = [self._given(i, deltas) for i, deltas in enumerate(values)]
        fits = {"delta": [fit(*joined(g)) for g in given], "dW": [fit(*g[0]) for g in given]}
        if self.db:
            fits["db"] = [fit(*g[1]) for g in given]
        return {tensor: self._read(keys, values, found, tensor) for tensor, found in fits.items()}

    def explain_array(
        self, found: Sequence[Array], guesses: Sequence[Sequence[Guess]], tensor: str
    ) -> list[Explanation]:
        """The guesses of ``found`` itself (dW or db, one for each probe) that explain it."""
        keys, values = aligned(guesses)
        flat = [v.reshape(len(keys), -1) for v in values]
        fits = [fit(v, f.ravel()) for v, f in zip(flat, found, strict=True)]
        return self._read(keys, values, fits, tensor)

    def _read(
        self, keys: Sequence[Mistakes], values: Sequence[Array], fits: Sequence[Fit], tensor: str
    ) -> list[Explanation]:
        found = []
        fitting = np.all([f.miss <= self.tolerance for f in fits], axis=0)
        for k in map(int, np.flatnonzero(fitting)):
            factors = np.array([f.factor[k] for f in fits])
            own = tuple(v[k] for v in values)
            for mistakes in self.read(factors, tensor):
                cost = len(keys[k]) + LATER * k + len(mistakes)
                found.append(Explanation(cost, keys[k], mistakes, own, factors))
        found.sort(key=lambda e: e.cost)
        # all that fit give the same arrays but for a factor: the commonest name for them is enough
        return [e for e in found if e.guess == found[0].guess]

    def read(self, factors: Array, tensor: str) -> list[Mistakes]:
        """What the factors of the probes may be."""
        return read_factor(factors, self.quantities, tensor, max(20 * self.tolerance, 1e-9))

    # ── Sums, and the right delta by any factor ────────────────────────────────────────────────

    def combined(self, columns: Sequence[Sequence[Array]]) -> tuple[list[Array], bool]:
        """Fit sums of a few deltas: ``columns`` holds some (m, n_out) for each probe.

        Returns:
            the coefficients in each probe, and whether they explain dW and db.
        """
        given = [joined(self._given(i, np.stack(deltas))) for i, deltas in enumerate(columns)]
        return self.sum_of([target for _, target in given], [list(v) for v, _ in given], 6)

    def sum_of(
        self, found: Sequence[Array], columns: Sequence[Sequence[Array]], spare: int = 3
    ) -> tuple[list[Array], bool]:
        """Fit sums of a few arrays to ``found`` (one for each probe), as ``combined`` does.

        Args:
            spare: so many numbers must be left over to tell whether they fit.
        """
        fits = [
            combine([column.ravel() for column in c], f.ravel())
            for c, f in zip(columns, found, strict=True)
        ]
        left = sum(f.size - len(c) for c, f in zip(columns, found, strict=True))
        fitting = left >= spare and all(miss <= self.tolerance for _, miss in fits)
        return [weights for weights, _ in fits], fitting

    def proportional(self, deltas: Sequence[Array]) -> Array | None:
        """The factors, (P,), by which these deltas explain dW and db; None where they do not."""
        fits = [fit(*joined(self._given(i, delta[None]))) for i, delta in enumerate(deltas)]
        if any(f.miss[0] > self.tolerance for f in fits):
            return None
        return np.array([f.factor[0] for f in fits])

    def implied(self) -> tuple[Arrays | None, bool]:
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


def aligned(guesses: Sequence[Iterable[Guess]]) -> tuple[list[Mistakes], list[Array]]:
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
    for mistakes, value in guesses:
        number = 0
        while (mistakes, number) in table:
            number += 1
        table[mistakes, number] = value
    return table


def _share(found: Array, expected: Array) -> float:
    size = max(float(np.abs(a).max(initial=0)) for a in (found, expected))
    return float(np.abs(found - expected).max(initial=0)) / max(size, 1e-300)
