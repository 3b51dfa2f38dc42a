"""How does a person's function want its arguments? Layouts of arrays, and the names of parameters.

The face of ``check`` is ``my_gradients(W, b, x, y)``; a function whose parameters have other names
that tell their meaning (X, labels; W1, b1, W2, b2; params) gets them as it asks.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.probe import Probe

WEIGHTS = {"out_in": "(n_out, n_in)", "in_out": "(n_in, n_out)"}
SAMPLES = {"rows": "rows", "columns": "columns"}
BIASES = {"flat": "(n,)", "row": "(1, n)", "column": "(n, 1)"}
LABELS = {"as given": "", "flat": "y as (m,)", "classes": "y as class numbers"}


@dataclass(frozen=True)
class Layout:
    """How arrays lie in someone's code.

    Attributes:
        weights: "out_in" for W (n_out, n_in), "in_out" for (n_in, n_out).
        samples: "rows" or "columns" of x and y.
        biases: "flat" (n,), "row" (1, n) or "column" (n, 1).
        labels: y "as given", "flat" (m,) for one output, or "classes": numbers instead of one-hot.
    """

    weights: str = "out_in"
    samples: str = "rows"
    biases: str = "flat"
    labels: str = "as given"

    def __str__(self) -> str:
        parts = [f"W {WEIGHTS[self.weights]}", f"samples in {SAMPLES[self.samples]}"]
        parts += [f"b {BIASES[self.biases]}"]
        return ", ".join([*parts, *([LABELS[self.labels]] if LABELS[self.labels] else [])])

    def give(self, probe: Probe, dtype: str) -> tuple[list[Array], list[Array], Array, Array]:
        """Fresh copies of W, b, x and y, laid out so."""
        turn = self.weights == "in_out"
        W = [np.array(w.T if turn else w, dtype, order="C") for w in probe.W]
        shape = {"flat": (-1,), "row": (1, -1), "column": (-1, 1)}[self.biases]
        b = [np.array(v, dtype).reshape(shape) for v in probe.b]
        x, y = np.array(probe.x, dtype), np.array(probe.y, dtype)
        if self.labels == "classes":
            return W, b, self._samples(x), probe.y.argmax(axis=1)
        if self.labels == "flat":
            return W, b, self._samples(x), y.reshape(-1)
        return W, b, self._samples(x), self._samples(y)

    def _samples(self, array: Array) -> Array:
        return np.array(array.T if self.samples == "columns" else array, order="C")


def layouts(
    probe: Probe, weights: str | None, samples: str | None, labels: str | None
) -> Iterator[Layout]:
    """The layouts that may be meant, the likeliest first, within what the caller has said."""
    kinds = [labels] if labels else ["as given"]
    if not labels and probe.network.sizes[-1] == 1:
        kinds.append("flat")
    if not labels and probe.network.loss == "cross_entropy":
        kinds.append("classes")
    for kind in kinds:
        for form in ("natural", "flat", "other"):
            for w in [weights] if weights else list(WEIGHTS):
                for s in [samples] if samples else list(SAMPLES):
                    natural = "column" if s == "columns" else "flat"
                    other = "row" if s == "rows" else "row"
                    biases = {"natural": natural, "flat": "flat", "other": other}[form]
                    if form == "flat" and natural == "flat":
                        biases = "column"
                    if form == "natural" or probe.b:
                        yield Layout(w, s, biases, kind)


# ── Names of parameters ────────────────────────────────────────────────────────────────────────

_ROLES = {
    "W": {"w", "ws", "weights", "weight", "weight_matrices", "thetas"},
    "b": {"b", "bs", "bias", "biases", "bias_vectors"},
    "x": {"x", "xs", "input", "inputs", "data", "features", "x_train", "x_batch", "xb", "batch_x"},
    "y": {"y", "ys", "t", "target", "targets", "label", "labels", "y_true", "y_train", "y_batch",
          "expected", "yb", "d", "batch_y", "desired"},
    "params": {"params", "parameters", "p", "theta"},
}  # fmt: skip
_NUMBERED = re.compile(r"^(w|weights?_?|theta_?|b|bias(?:es)?_?)_?(\d+)$")


def bind(function: Callable[..., Any], layers: int, bias: bool) -> Callable[..., Any]:
    """``function`` as one of (W, b, x, y), by the names of its parameters where they tell."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin or compiled function tells no signature
        return function
    names = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)
    ]
    roles = [_role(name) for name in names]
    wanted = {"W", "b", "x", "y"} if bias else {"W", "x", "y"}
    if set(roles) == {"W", "b", "x", "y"} and len(roles) == 4 and roles != ["W", "b", "x", "y"]:
        return lambda W, b, x, y: function(*[{"W": W, "b": b, "x": x, "y": y}[r] for r in roles])
    if set(roles) == wanted and len(roles) == 3 and not bias:
        return lambda W, b, x, y: function(*[{"W": W, "x": x, "y": y}[r] for r in roles])
    if sorted(roles) == ["params", "x", "y"]:
        return lambda W, b, x, y: function(
            *[{"params": _params(W, b), "x": x, "y": y}[r] for r in roles]
        )
    numbered = [match for name in names if (match := _NUMBERED.match(name.lower()))]
    if len(numbered) == layers * (2 if bias else 1) and {"x", "y"} <= set(roles):
        return lambda W, b, x, y: function(*_one_by_one(names, W, b, x, y))
    return function


def _role(name: str) -> str:
    return next((role for role, names in _ROLES.items() if name.lower() in names), "")


def _params(W: list[Array], b: list[Array]) -> dict[str, Array]:
    """{"W1": ..., "b1": ..., ...}, numbered from 1."""
    named = {f"W{i}": w for i, w in enumerate(W, 1)}
    return named | {f"b{i}": v for i, v in enumerate(b, 1)}


def _one_by_one(
    names: list[str], W: list[Array], b: list[Array], x: Array, y: Array
) -> list[Array]:
    """The arguments for parameters such as X, W1, b1, W2, b2, y."""
    queues = {"w": iter(W), "t": iter(W), "b": iter(b)}
    order = sorted(
        (name for name in names if _NUMBERED.match(name.lower())),
        key=lambda name: int(_NUMBERED.match(name.lower())[2]),  # type: ignore[index]
    )
    values = {name: next(queues[name[0].lower()]) for name in order}
    return [values[n] if n in values else {"x": x, "y": y}[_role(n)] for n in names]
