"""What is a contract, and on what is it tried? A sentence, a test, and small networks."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bpbench.activations import hidden_activations
from bpbench.backend import Backend, Model
from bpbench.errors import Unsupported
from bpbench.losses import LOSSES
from bpbench.network import MLP, Array, Parameters, initial_parameters
from bpbench.verify.diagnose.probe import Probe, draw


@dataclass(frozen=True)
class Subject:
    """One way of running a backend."""

    kind: type[Backend]
    mode: str
    device: str
    dtype: str

    def model(self, network: MLP, parameters: Parameters) -> Model:
        """A fresh model."""
        backend = self.kind(mode=self.mode, device=self.device, dtype=self.dtype)
        return backend.model(network, parameters)

    def exists(self) -> bool:
        """Whether the backend can be had in this way at all."""
        try:
            self.kind(mode=self.mode, device=self.device, dtype=self.dtype)
        except Unsupported:
            return False
        return True

    def refuses(self, network: MLP) -> bool:
        """Whether the backend has no formula for something in a network."""
        try:
            self.model(network, initial_parameters(network))
        except Unsupported:
            return True
        return False

    def __str__(self) -> str:
        return f"{self.mode}, {self.device}, {self.dtype}"

    @property
    def close(self) -> float:
        """The relative deviation that the dtype allows where formulas are the same."""
        return 1e-11 if self.dtype == "float64" else 2e-4


Test = Callable[[Subject], list[str]]
"""Tries a contract and says what breaks it."""


def kept_in(contracts: list[tuple[str, Test]]) -> Callable[[str], Callable[[Test], Test]]:
    """A decorator that puts a test among the contracts, with the sentence that it tries."""

    def contract(sentence: str) -> Callable[[Test], Test]:
        def decorated(test: Test) -> Test:
            contracts.append((sentence, test))
            return test

        return decorated

    return contract


@dataclass(frozen=True)
class Contract:
    """One contract of one way of running a backend."""

    sentence: str
    subject: Subject
    test: Test

    @property
    def way(self) -> str:
        """Mode, device and dtype."""
        return str(self.subject)

    def __str__(self) -> str:
        return f"{self.sentence} ({self.way})"

    def keep(self) -> list[str]:
        """Try the contract; what the backend raises breaks it too.

        Raises:
            Unsupported: the backend says that it cannot be run in this way.
        """
        try:
            with np.errstate(all="ignore"):
                return self.test(self.subject)
        except Unsupported:
            raise
        except Exception as error:  # noqa: BLE001  # what a backend raises is a broken contract
            return [f"raises {type(error).__name__}: {error}{_line(error)}"]


def _line(error: Exception) -> str:
    """The last line of somebody's own code that the error came through."""
    ours = str(Path(__file__).parent.parent)
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(ours) and "site-packages" not in frame.filename
    ]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


# ── Networks ───────────────────────────────────────────────────────────────────────────────────

ENTROPY = MLP((7, 5, 4), "tanh", "softmax", "cross_entropy")
BINARY = MLP((4, 6, 3), "sigmoid", "sigmoid", "binary_cross_entropy", bias=False)
SQUARED = MLP((5, 4, 3), "silu", "softmax")
"""The Jacobian of a softmax that no cross-entropy cancels."""
CORNERED = MLP((5, 6, 7, 3), ("relu", "leaky_relu"), "identity")
TRAINED = MLP((5, 7, 3), "tanh", "softmax", "cross_entropy")


def every_network(refused: Callable[[MLP], bool] = lambda network: False) -> list[MLP]:
    """Every hidden activation, one above the other, every loss, and what those leave out.

    Args:
        refused: whether a backend lacks what a network needs; one activation or loss that it lacks
            leaves out nothing else.
    """
    hidden = tuple(name for name in hidden_activations() if not refused(_with_hidden(name)))
    tower = MLP((6, *(5 + i % 6 for i in range(len(hidden))), 3), hidden, "identity")
    losses = map(_with_loss, LOSSES)
    return [tower, *(network for network in (BINARY, SQUARED, *losses) if not refused(network))]


def lacking(subject: Subject) -> list[str]:
    """The hidden activations and the losses that a backend refuses."""
    hidden = [name for name in hidden_activations() if subject.refuses(_with_hidden(name))]
    return [*hidden, *(name for name in LOSSES if subject.refuses(_with_loss(name)))]


def _with_hidden(name: str) -> MLP:
    return MLP((2, 2, 2), name)


def _with_loss(name: str) -> MLP:
    return MLP((7, 5, 4), "tanh", LOSSES[name].output, name)


def case(network: MLP, samples: int = 6, seed: int = 0, l2: float = 0.0) -> Probe:
    """Parameters and data for a network, exact in float32."""
    return draw(network, samples, seed, l2, "conformance")


def apart(one: Array, other: Array) -> float:
    """The largest difference of two arrays, as a share of the larger one's largest entry."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if a.shape != b.shape:
        return float("inf")
    size = max(float(np.abs(a).max(initial=0)), float(np.abs(b).max(initial=0)))
    gap = float(np.abs(a - b).max(initial=0))
    if not np.isfinite(gap):
        return float("inf")
    return gap / size if size else 0.0


def furthest(one: Parameters, other: Parameters) -> float:
    """The largest ``apart`` of the arrays of two sets of parameters."""
    if one.sizes != other.sizes or len(one.b) != len(other.b):
        return float("inf")
    return max(apart(a, b) for a, b in zip((*one.W, *one.b), (*other.W, *other.b), strict=True))
