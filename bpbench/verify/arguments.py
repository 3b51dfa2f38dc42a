"""How does a person's function want its arguments? Layouts of arrays, and the names of parameters.

The face of ``check`` is ``my_gradients(W, b, x, y)``; a function whose parameters have other names
that tell their meaning (X, labels; W1, b1, W2, b2; params) gets them as it asks.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.probe import Probe

WEIGHTS = {"out_in": "(n_out, n_in)", "in_out": "(n_in, n_out)"}
SAMPLES = {
    "rows": "samples in rows",
    "columns": "samples in columns",
    "one vector": "one sample at a time, as a vector",
    "one column": "one sample at a time, as a column",
    "one row": "one sample at a time, as a row",
}
BIASES = {"flat": "(n,)", "row": "(1, n)", "column": "(n, 1)"}
_BIAS_RANKS = {
    "rows": ("flat", "row", "column"),
    "columns": ("column", "flat", "row"),
    "one vector": ("flat", "column", "row"),
    "one column": ("column", "flat", "row"),
    "one row": ("row", "flat", "column"),
}
"""The forms of b that go with each way of laying out samples, the likeliest first."""
LABELS = {"as given": "", "flat": "y as (m,)", "classes": "y as class numbers"}


@dataclass(frozen=True)
class Layout:
    """How arrays lie in someone's code.

    Attributes:
        weights: "out_in" for W (n_out, n_in), "in_out" for (n_in, n_out).
        samples: "rows" or "columns" of x and y; "one vector", "one column" or "one row" for a
            function of a single sample, whose gradients are then averaged over the batch.
        biases: "flat" (n,), "row" (1, n) or "column" (n, 1).
        labels: y "as given", "flat" (m,) for one output, or "classes": numbers instead of one-hot.
    """

    weights: str = "out_in"
    samples: str = "rows"
    biases: str = "flat"
    labels: str = "as given"

    def __str__(self) -> str:
        parts = [f"W {WEIGHTS[self.weights]}", SAMPLES[self.samples]]
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
        if self.samples == "one vector":
            return array.reshape(-1)
        return np.array(array.T if self.columns else array, order="C")

    @property
    def columns(self) -> bool:
        """Whether a sample is a column."""
        return self.samples in ("columns", "one column")

    @property
    def single(self) -> bool:
        """Whether the function takes one sample at a time."""
        return self.samples.startswith("one")


def layouts(
    probe: Probe, weights: str | None, samples: str | None, labels: str | None
) -> list[Layout]:
    """The layouts of whole batches that may be meant, the likeliest first.

    Args:
        weights, samples, labels: what the caller has said; None where not.
    """
    kinds = [labels] if labels else ["as given"]
    if not labels and probe.network.sizes[-1] == 1:
        kinds.append("flat")
    if not labels and probe.network.loss == "cross_entropy":
        kinds.append("classes")
    found = []
    for kind in kinds:
        for rank in range(3 if probe.b else 1):
            for s in [samples] if samples else ["rows", "columns"]:
                for w in [weights] if weights else list(WEIGHTS):
                    found.append(Layout(w, s, _BIAS_RANKS[s][rank], kind))
    return found


def single_layouts(
    probe: Probe, weights: str | None, samples: str | None, labels: str | None
) -> list[Layout]:
    """The layouts of functions that take one sample at a time."""
    if samples not in (None, "one vector", "one column", "one row"):
        return []
    kinds = [samples] if samples else ["one vector", "one column"]
    return [layout for kind in kinds for layout in layouts(probe, weights, kind, labels)]


# ── Names of parameters ────────────────────────────────────────────────────────────────────────

_ROLES = {
    "W": {"w", "ws", "weights", "weight", "weight_matrices", "thetas"},
    "b": {"b", "bs", "bias", "biases", "bias_vectors"},
    "x": {"x", "xs", "input", "inputs", "data", "features", "x_train", "x_batch", "xb", "batch_x"},
    "y": {"y", "ys", "t", "target", "targets", "label", "labels", "y_true", "y_train", "y_batch",
          "expected", "yb", "d", "batch_y", "desired"},
    "params": {"params", "parameters", "p", "theta", "model", "layers"},
}  # fmt: skip
_NUMBERED = re.compile(r"^(w|weights?_?|theta_?|b|bias(?:es)?_?)_?(\d+)$")


def bind(function: Callable[..., Any], layers: int, bias: bool) -> list[Callable[..., Any]]:
    """``function`` as one of (W, b, x, y), by the names of its parameters where they tell; several
    where one parameter may hold W and b in several forms.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin or compiled function tells no signature
        return [function]
    asked = (p for p in parameters if p.default is p.empty)
    names = [p.name for p in asked if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if any(p.kind is p.KEYWORD_ONLY and p.name in names for p in parameters):
        return bind(_by_keyword(function, names), layers, bias)
    roles = [_role(name) for name in names]
    wanted = {"W", "b", "x", "y"} if bias else {"W", "x", "y"}
    if set(roles) == {"W", "b", "x", "y"} and len(roles) == 4 and roles != ["W", "b", "x", "y"]:
        return [lambda W, b, x, y: function(*[{"W": W, "b": b, "x": x, "y": y}[r] for r in roles])]
    if set(roles) == wanted and len(roles) == 3 and not bias:
        return [lambda W, b, x, y: function(*[{"W": W, "x": x, "y": y}[r] for r in roles])]
    if sorted(roles) == ["params", "x", "y"]:
        return [
            lambda W, b, x, y, form=form: function(
                *[{"params": form(W, b), "x": x, "y": y}[r] for r in roles]
            )
            for form in _FORMS
        ]
    numbered = [match for name in names if (match := _NUMBERED.match(name.lower()))]
    if len(numbered) == layers * (2 if bias else 1) and {"x", "y"} <= set(roles):
        return [lambda W, b, x, y: function(*_one_by_one(names, W, b, x, y))]
    return [function]


def _by_keyword(function: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """A function that wants its arguments by name, as one that takes them in order."""

    def ordered(*values: Any) -> Any:
        return function(**dict(zip(names, values, strict=True)))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    ordered.__signature__ = signature  # type: ignore[attr-defined]
    return ordered


def _role(name: str) -> str:
    return next((role for role, names in _ROLES.items() if name.lower() in names), "")


def _params(W: list[Array], b: list[Array]) -> dict[str, Array]:
    """{"W1": ..., "b1": ..., ...}, numbered from 1."""
    named = {f"W{i}": w for i, w in enumerate(W, 1)}
    return named | {f"b{i}": v for i, v in enumerate(b, 1)}


def _pairs(W: list[Array], b: list[Array]) -> list[tuple[Array, ...]]:
    return list(zip(W, b, strict=True)) if b else [(w,) for w in W]


_FORMS: tuple[Callable[[list[Array], list[Array]], Any], ...] = (
    _params,
    _pairs,
    lambda W, b: [dict(zip(("W", "b"), pair, strict=False)) for pair in _pairs(W, b)],
    lambda W, b: [array for pair in _pairs(W, b) for array in pair],
)
"""What a parameter such as params may hold: a dictionary, a pair or a dictionary for each layer,
or W1, b1, W2, b2, ... in a list.
"""


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
