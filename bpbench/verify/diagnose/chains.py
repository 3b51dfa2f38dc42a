"""What is to be explained, and what is an explanation of it?

A ``Chain`` is one explanation of everything from the output down to some layer. Each layer is
judged on the delta that was really handed down to it; the chain of fewest mistakes is the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.evidence import Arrays
from bpbench.verify.diagnose.mistakes.context import Context
from bpbench.verify.diagnose.mistakes.row import kind
from bpbench.verify.diagnose.probe import Answer, Probe, usable
from bpbench.verify.diagnose.readings import Reading

UNKNOWN = kind("unknown", "look at how this array is made: nothing known explains it").name


class Mistake(NamedTuple):
    """A mistake at a place: the name, the layer, the tensor, and what was seen."""

    name: str
    layer: int
    tensor: str
    say: str


@dataclass(frozen=True)
class Case:
    """What is to be explained.

    Attributes:
        probes: at least two, so that no factor fits by accident.
        answers: what was found for each.
        tolerance: the largest deviation that rounding explains, as a share of the largest entry.
        coarse: (largest deviation, name) of the roundings to a lower precision, the finest first.
        rounding_noise: the layers whose db was zero but for rounding, and is zero in ``answers``.
    """

    probes: tuple[Probe, ...]
    answers: tuple[Answer, ...]
    tolerance: float
    coarse: tuple[tuple[float, str], ...] = ()
    rounding_noise: frozenset[int] = frozenset()

    @property
    def layers(self) -> int:
        """How many layers have weights."""
        return self.probes[0].network.layers

    def usable(self, layer: int) -> bool:
        """Whether every dW of a layer can be looked at."""
        return all(usable(answer.W[layer]) for answer in self.answers)

    def quantities(self, layer: int) -> dict[str, Array]:
        """What factors in a layer may be made of, in each probe."""
        sizes = [probe.network.sizes for probe in self.probes]
        m = np.array([float(probe.samples) for probe in self.probes])
        units = {"n_L": self.layers, "n_1": 0, "n_out": layer + 1, "n_in": layer}
        units["n_above"] = layer + 2
        named: dict[int, str] = {}
        for name, index in units.items():  # the output's units are n_L alone, and so on
            named.setdefault(min(index, self.layers), name)
        return {
            "m": m,
            **({"m - 1": m - 1} if (m > 1).all() else {}),
            **{name: np.array([float(s[i]) for s in sizes]) for i, name in named.items()},
        }


@dataclass(frozen=True)
class Chain:
    """One explanation, from the output down to the layer that was last explained.

    Attributes:
        readings: the forward pass in each probe.
        inputs: by layer, what multiplies delta in its dW.
        decays: by layer, the multiple of W in its dW, (P,); None where it cannot be told.
        cost: of all its mistakes.
        mistakes: from the output back.
        deltas: by layer, the delta handed down.
        errors: by layer, what f' was multiplied by.
        scale: (P,), the factor of everything found so far.
    """

    readings: tuple[Reading, ...]
    inputs: tuple[Arrays, ...]
    decays: tuple[Array | None, ...]
    cost: float = 0.0
    mistakes: tuple[Mistake, ...] = ()
    deltas: dict[int, Arrays] = field(default_factory=dict)
    errors: dict[int, Arrays] = field(default_factory=dict)
    scale: Array | None = None

    def add(
        self,
        layer: int,
        mistakes: Sequence[Mistake],
        cost: float,
        delta: Arrays,
        error: Arrays,
        scale: Array | None = None,
    ) -> Chain:
        """The chain with one more layer explained."""
        return replace(
            self,
            cost=self.cost + cost,
            mistakes=(*self.mistakes, *mistakes),
            deltas={**self.deltas, layer: delta},
            errors={**self.errors, layer: error},
            scale=self.scale if scale is None else scale,
        )

    @property
    def unknown(self) -> bool:
        """Whether something stays unexplained."""
        return any(mistake.name == UNKNOWN for mistake in self.mistakes)

    def contexts(self, case: Case, layer: int) -> list[Context]:
        """What formulas may use at a layer, in each probe."""
        every = range(case.layers)
        return [
            Context(
                probe,
                reading,
                layer,
                [self.deltas[j][i] if j in self.deltas else None for j in every],
                [self.errors[j][i] if j in self.errors else None for j in every],
                [arrays[i] for arrays in self.inputs],
                answer,
            )
            for i, (probe, reading, answer) in enumerate(
                zip(case.probes, self.readings, case.answers, strict=True)
            )
        ]
