"""How does a person's function want its arguments? Layouts of arrays, and the names of parameters.

The face of ``check`` is ``my_gradients(W, b, x, y)``; a function whose parameters have other names
that tell their meaning (X, labels; W1, b1, W2, b2; params) gets them as it asks.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bpbench.losses import find_loss
from bpbench.network import Array

if TYPE_CHECKING:  # the command's help needs the names of layouts, and no diagnosis
    from bpbench.verify.diagnose.probe import Probe

WEIGHTS = {"out_in": "(n_out, n_in)", "in_out": "(n_in, n_out)"}
SAMPLES = {
    "rows": "samples in rows",
    "columns": "samples in columns",
    "one vector": "one sample at a time, as a vector",
    "one column": "one sample at a time, as a column",
    "one row": "one sample at a time, as a row",
}
BIASES = {
    "flat": "(n,)",
    "row": "(1, n)",
    "column": "(n, 1)",
    "first": "first in W",
    "last": "last in W",
}
_BIAS_RANKS = {
    "rows": ("flat", "row", "column"),
    "columns": ("column", "flat", "row"),
    "one vector": ("flat", "column", "row"),
    "one column": ("column", "flat", "row"),
    "one row": ("row", "flat", "column"),
}
"""The forms of b that go with each way of laying out samples, the likeliest first."""
_FOLDED = ("first", "last")
"""b as a column of W (a row of W (n_in, n_out)), as in [b W], which people call Theta."""
_FORMS = {"flat": (-1,), "row": (1, -1), "column": (-1, 1)}
LABELS = {"as given": "", "flat": "y as (m,)", "classes": "y as class numbers"}


class Said(NamedTuple):
    """What a caller says of the layout; None where it is to be found out."""

    weights: str | None = None
    samples: str | None = None
    labels: str | None = None


@dataclass(frozen=True)
class ArrayLayout:
    """How arrays lie in someone's code.

    Attributes:
        weights: "out_in" for W (n_out, n_in), "in_out" for (n_in, n_out).
        samples: "rows" or "columns" of x and y; "one vector", "one column" or "one row" for a
            function of a single sample, whose gradients are then averaged over the batch.
        biases: "flat" (n,), "row" (1, n) or "column" (n, 1); "first" or "last" among what each
            unit multiplies by its weights, where the function adds the ones to its inputs itself.
        labels: y "as given", "flat" (m,) for one output, or "classes": numbers instead of one-hot.
    """

    weights: str = "out_in"
    samples: str = "rows"
    biases: str = "flat"
    labels: str = "as given"

    def __str__(self) -> str:
        parts = WEIGHTS[self.weights], SAMPLES[self.samples], BIASES[self.biases]
        labels = f", {LABELS[self.labels]}" if LABELS[self.labels] else ""
        return "W {}, {}, b {}".format(*parts) + labels

    def give(self, probe: Probe, dtype: str) -> tuple[list[Array], list[Array], Array, Array]:
        """Fresh copies of W, b, x and y, laid out so; no b where it is folded into W."""
        weights, b = list(probe.W), list[Array]()
        if self.folded:
            first = self.biases == "first"
            pairs = zip(weights, probe.b, strict=True)
            weights = [np.column_stack([v, w] if first else [w, v]) for w, v in pairs]
        else:
            b = [np.array(v, dtype).reshape(_FORMS[self.biases]) for v in probe.b]
        turn = self.weights == "in_out"
        W = [np.array(w.T if turn else w, dtype, order="C") for w in weights]
        x, y = self._samples(np.array(probe.x, dtype)), np.array(probe.y, dtype)
        if self.labels == "classes":
            return W, b, x, probe.y.argmax(axis=1)
        return W, b, x, y.reshape(-1) if self.labels == "flat" else self._samples(y)

    def take(
        self, W: Sequence[Array | None], b: Sequence[Array | None]
    ) -> tuple[list[Array | None], list[Array | None]]:
        """Arrays laid out so as W (n_out, n_in) and b (n_out,); what is None stays so."""
        turned = [w.T if w is not None and self.weights == "in_out" else w for w in W]
        if not self.folded:
            return turned, list(b)
        at, rest = (0, slice(1, None)) if self.biases == "first" else (-1, slice(-1))
        return (
            [None if w is None else w[:, rest] for w in turned],
            [None if w is None else w[:, at] for w in turned],
        )

    def _samples(self, array: Array) -> Array:
        if self.samples == "one vector":
            return array.reshape(-1)
        return np.array(array.T if self.columns else array, order="C")

    @property
    def folded(self) -> bool:
        """Whether b is a part of W."""
        return self.biases in _FOLDED

    @property
    def columns(self) -> bool:
        """Whether a sample is a column."""
        return self.samples in ("columns", "one column")

    @property
    def single(self) -> bool:
        """Whether the function takes one sample at a time."""
        return self.samples.startswith("one")


def layouts(probe: Probe, said: Said, folded: bool, single: bool = False) -> list[ArrayLayout]:
    """The layouts that may be meant, the likeliest first.

    Args:
        said: what the caller has said of them.
        folded: whether b is a part of W.
        single: those of functions of one sample at a time, not of whole batches.
    """
    labels = ["as given"]
    labels += ["flat"] if probe.network.sizes[-1] == 1 else []
    labels += ["classes"] if find_loss(probe.network.loss).classes else []
    ranks = range(1 if not probe.b else 2 if folded else 3)
    samples = ["one vector", "one column"] if single else ["rows", "columns"]
    possible = itertools.product(
        [said.labels] if said.labels else labels,
        ranks,
        [said.samples] if said.samples else samples,
        [said.weights] if said.weights else WEIGHTS,
    )
    found = [
        ArrayLayout(weights, kind, (_FOLDED if folded else _BIAS_RANKS[kind])[rank], label)
        for label, rank, kind, weights in possible
    ]
    return sorted(found, key=lambda layout: samples.index(layout.samples)) if single else found


# ── Names of parameters ────────────────────────────────────────────────────────────────────────

_ROLES = tuple(
    (role, re.compile(names))
    for role, names in (
        ("W", "ws?|weights?|weight_matrices|thetas"),
        ("b", "bs?|bias|biases|bias_vectors"),
        ("x", "xs?|xb|data"),
        ("y", "[ytd]|ys|yb"),
        ("params", "params|parameters|p|theta|model|layers"),
        ("", "(w|theta|syn|kernel|b_|bias).*"),  # weights_hidden_output holds no outputs
        ("x", "(x_|inputs?_).*|.*(_x|inputs?|features?|images?|samples?)"),
        ("y", "(y_|outputs?_|targets?_|labels?_|expected|desired).*"),
        ("y", ".*(_y|outputs?|targets?|labels?|answers?)"),
    )
)
"""What the whole name of a parameter, in small letters, tells of it: the first that fits."""
_ONE_OF_MANY = {"W": re.compile(r"w|theta|syn|kernel"), "b": re.compile(r"b")}
"""How the names of arrays for single layers begin: W1, theta_2, syn0, wh; b1, bias_out."""


@dataclass(frozen=True)
class Form:
    """A way to call someone's function.

    Attributes:
        call: (W, b, x, y) -> what it returns.
        folded: whether it wants b as a part of W.
        names: those of its parameters W, and b, by layer, where each has one of its own.
    """

    call: Callable[..., Any]
    folded: bool = False
    names: tuple[str, ...] = ()


def bind(function: Callable[..., Any], layers: int, bias: bool) -> list[Form]:
    """``function`` as one of (W, b, x, y), by the names of its parameters where they tell; several
    where one parameter may hold W and b in several forms.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin or compiled function tells no signature
        return [Form(function)]
    asked = (p for p in parameters if p.default is p.empty)
    names = [p.name for p in asked if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    by_name = any(p.kind is p.KEYWORD_ONLY and p.name in names for p in parameters)

    # Python itself complains of too many or too few
    in_order = Form(
        (lambda *values: function(**dict(zip(names, values, strict=False))))
        if by_name
        else function
    )
    data = _data(names)
    if data is None:
        return [in_order]
    rest = [name for name in names if name not in data.values()]

    def form(wanted: Sequence[str], values: Values, folded: bool = False) -> Form:
        def call(W: list[Array], b: list[Array], x: Any, y: Any) -> Any:
            given = dict(zip(wanted, values(W, b), strict=True)) | {data["x"]: x, data["y"]: y}
            return function(**given) if by_name else function(*(given[name] for name in names))

        return Form(call, folded, tuple(wanted) if values is _one_by_one else ())

    if len(rest) == 1:
        only_W = form(rest, lambda W, b: [W], folded=bias)
        several = [form(rest, _in_one(hold)) for hold in _HOLDERS]
        return [only_W, *several] if _role(rest[0]) == "W" else [*several, only_W]
    if sorted(map(_role, rest)) == ["W", "b"]:
        return [form(sorted(rest, key=_role), lambda W, b: [W, b])]
    each = {kind: _one_of_many(rest, kind) for kind in _ONE_OF_MANY}
    counts = len(each["W"]), len(each["b"])
    if sum(counts) == len(rest) and counts in ((layers, layers * bias), (layers, 0)):
        return [form([*each["W"], *each["b"]], _one_by_one, bias and not counts[1])]
    if len(rest) == layers * (1 + bias):
        pairs = [*rest[:: 1 + bias], *(rest[1::2] if bias else ())]
        return [form(order, _one_by_one) for order in (pairs, rest)]
    return [in_order]


Values = Callable[[list[Array], list[Array]], Any]
"""W and b -> what the parameters that are to hold them are given."""


def _one_by_one(W: list[Array], b: list[Array]) -> Sequence[Array]:
    """For parameters that hold one array each: those for W, then those for b."""
    return (*W, *b)


def _in_one(hold: Values) -> Values:
    """For one parameter that holds all of W and b in one way."""
    return lambda W, b: [hold(W, b)]


def _data(names: Sequence[str]) -> dict[str, str] | None:
    """Which parameters are x and y; None where that cannot be told."""
    found = {}
    for role in ("x", "y"):
        mine = [name for name in names if _role(name) == role]
        if len(mine) > 1:  # t and d may be anything
            mine = [name for name in mine if len(name) > 1 or name.lower() == role]
        if len(mine) != 1:
            return None
        found[role] = mine[0]
    return found


def _role(name: str) -> str:
    """What a parameter's name tells of it: W, b, x, y, params, or nothing."""
    return next((role for role, names in _ROLES if names.fullmatch(name.lower())), "")


def _params(W: list[Array], b: list[Array]) -> dict[str, Array]:
    """{"W1": ..., "b1": ..., ...}, numbered from 1."""
    named = {f"W{i}": w for i, w in enumerate(W, 1)}
    return named | {f"b{i}": v for i, v in enumerate(b, 1)}


def _pairs(W: list[Array], b: list[Array]) -> list[tuple[Array, ...]]:
    return list(zip(W, b, strict=True)) if b else [(w,) for w in W]


_HOLDERS: tuple[Values, ...] = (
    _params,
    _pairs,
    lambda W, b: [dict(zip(("W", "b"), pair, strict=False)) for pair in _pairs(W, b)],
    lambda W, b: [array for pair in _pairs(W, b) for array in pair],
    lambda W, b: {"W": W, "b": b},
    lambda W, b: {"weights": W, "biases": b},
    lambda W, b: {"W": dict(enumerate(W, 1)), "b": dict(enumerate(b, 1))},
)
"""What a parameter such as params may hold: a dictionary, a pair or a dictionary for each layer,
W1, b1, W2, b2, ... in a list, or W and b of all layers by their names.
"""


def _one_of_many(names: list[str], kind: str) -> list[str]:
    """The names of arrays of one kind for single layers, by their numbers where they have any, else
    as they come."""
    mine = [n for n in names if not _role(n) and _ONE_OF_MANY[kind].match(n.lower())]
    numbers = {name: re.search(r"\d+$", name) for name in mine}
    if all(numbers.values()):
        mine.sort(key=lambda name: int(numbers[name][0]))  # type: ignore[index]
    return mine
