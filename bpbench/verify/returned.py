"""What did a person's function return? Gradients, in whatever form people give them.

Lists, tuples or dictionaries; flat or one pair for each layer; with the loss or without; arrays of
NumPy, torch, JAX or TensorFlow. What cannot be meant becomes a finding, not an exception.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpbench.network import Array
from bpbench.verify.findings import Finding

_LOSS = {"loss", "cost", "j", "l", "error", "objective", "e"}
_DERIVED = re.compile(r"^(?:gradients?|grads?|nabla|delta|d|g)_?")
_NUMBERED = r"^(?:d|g|grads?|gradients?|nabla|delta)?[_ ]?(?:{})s?[_ ]?(\d*)$"
_NAMES = {"W": "w|weight|kernel|theta|syn", "b": "b|bias|biase"}
_BY_NUMBER = {kind: re.compile(_NUMBERED.format(names)) for kind, names in _NAMES.items()}
"""dW1, grad_b2, weights; the number may be missing."""
_BY_NAME = {
    kind: re.compile(rf"{_DERIVED.pattern}(?:{names})\w*$") for kind, names in _NAMES.items()
}
"""dWh, dw_out, grad_b_hidden: layers by names of their own, in the order in which they come."""


BACKWARDS = -1
"""The order of lists that begin with the output layer, which is a mistake."""


@dataclass(frozen=True)
class Expected:
    """What a function should return, in its own layout.

    Attributes:
        W: the shape of each W as it was given.
        b: the number of units of each layer; empty without biases.
        samples: m.
        columns: whether samples are columns.
        order: that of ``Returned``, as it was where the shapes told; it decides where they do not.
        names: those of the function's parameters W, and b, by layer, where each has one of its own.
    """

    W: tuple[tuple[int, ...], ...]
    b: tuple[int, ...]
    samples: int
    columns: bool
    order: int = 0
    names: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """How many arrays of each kind there should be."""
        return len(self.W)


@dataclass(frozen=True)
class Returned:
    """What was returned, sorted out.

    Attributes:
        W: by layer, in the layout of the function; None where it cannot be used.
        b: by layer, (n_l,); None where it cannot be used.
        loss: where one came with the gradients.
        problems: what is wrong with the form.
        order: which of several arrangements the arrays came in.
        dtypes: of the arrays.
        arrays: those that came as arrays of NumPy, themselves.
    """

    W: tuple[Array | None, ...]
    b: tuple[Array | None, ...]
    loss: float | None = None
    problems: tuple[Finding, ...] = ()
    order: int = 0
    dtypes: frozenset[str] = frozenset()
    arrays: tuple[Array, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether at least one gradient can be looked at."""
        return any(array is not None for array in (*self.W, *self.b))


@dataclass
class _Parts:
    """The pieces of a result before their shapes are looked at."""

    W: list[Any] = field(default_factory=list)
    b: list[Any] = field(default_factory=list)
    loss: Any = None
    order: int = 0


def sort_out(value: Any, expected: Expected) -> Returned:
    """Find the gradients in what a function returned."""
    value = _plain(value)
    try:
        parts = None if value is None else _parts(value, expected)
    except (TypeError, ValueError):
        parts = None
    if parts is not None and (parts.W or parts.b):
        return _checked(parts, expected)
    if value is None:
        name, say = "nothing returned", "the function returns nothing; end it with: return dW, db"
    else:
        name = "result not understood"
        say = f"the function returns {_described(value)}; expected (dW, db) or (loss, dW, db), "
        say += f"with {expected.layers} arrays in each"
    problem = Finding(name, None, None, say)
    return Returned((None,) * expected.layers, (None,) * len(expected.b), None, (problem,))


def to_numpy(value: Any) -> Array:
    """An array of NumPy from one of NumPy, torch, JAX or TensorFlow, or from numbers in lists."""
    if hasattr(value, "detach"):  # torch
        value = value.detach().cpu()
    if hasattr(value, "numpy") and not isinstance(value, np.ndarray):  # torch, TensorFlow
        value = value.numpy()
    array = np.asarray(value)
    if array.dtype.kind == "c":
        if array.imag.any():
            raise TypeError("complex numbers")
        return array.real
    if array.dtype.kind not in "fiub":
        array = array.astype(np.float64)  # objects that are numbers; others raise
    return array


def _plain(value: Any) -> Any:
    """The value with lists for dictionaries numbered by layer, and arrays for np.matrix."""
    if isinstance(value, Mapping):
        if value and all(isinstance(key, int) for key in value):
            return [_plain(value[key]) for key in sorted(value)]
        return {key: _plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return np.asarray(value) if isinstance(value, np.matrix) else value


# ── Which piece is which ───────────────────────────────────────────────────────────────────────


def _parts(value: Any, expected: Expected) -> _Parts | None:
    held = getattr(value, "gradients", value)  # bpbench's Backpropagation holds them there
    for W, b in (("dW", "db"), ("W", "b")):
        if hasattr(held, W) and hasattr(held, b) and not _is_sequence(held):
            loss = getattr(value, "loss", None)
            return _Parts(list(getattr(held, W)), list(getattr(held, b)), loss)
    if isinstance(value, Mapping):
        return _from_mapping(_as_parameters(value, expected))
    if not _is_sequence(value):
        return None
    items = list(value)
    mappings = [item for item in items if isinstance(item, Mapping)]
    if mappings:
        merged = _Parts()
        for mapping in mappings:
            named = _as_parameters(mapping, expected)
            found = _from_mapping(named, one_layer=len(mappings) == expected.layers > 1)
            merged = _Parts(merged.W + found.W, merged.b + found.b, found.loss or merged.loss)
        scalars = [item for item in items if _is_scalar(item)]
        return _Parts(merged.W, merged.b, scalars[0] if scalars else merged.loss)
    return _from_sequence(items, expected)


def _as_parameters(mapping: Mapping[Any, Any], expected: Expected) -> Mapping[Any, Any]:
    """The mapping with dwh, grad_wout, ... by the numbers of the layers of these parameters."""
    found, layers = {}, expected.layers
    for i, name in enumerate(expected.names):
        kind, number = ("W", i + 1) if i < layers else ("b", i + 1 - layers)
        key = next((k for k in mapping if _DERIVED.sub("", str(k).lower()) == name.lower()), None)
        if key is None:
            return mapping
        found[key] = f"{kind}{number}"
    return {found.get(key, key): value for key, value in mapping.items()}


def _from_mapping(mapping: Mapping[Any, Any], one_layer: bool = False) -> _Parts:
    """Keys as people choose them: dW1, grad_b2, W, biases, cost, ...; others are left alone.

    Args:
        one_layer: whether W is one array, not a list of them.
    """
    found: dict[str, dict[int, Any]] = {"W": {}, "b": {}}
    parts = _Parts()
    for key, value in mapping.items():
        name = str(key).strip().lower()
        if name in _LOSS and _is_scalar(value):
            parts.loss = value
        elif isinstance(value, Mapping):
            inner = _from_mapping(value)
            parts.W += inner.W
            parts.b += inner.b
            parts.loss = inner.loss if parts.loss is None else parts.loss
        for kind, pattern in _BY_NUMBER.items():
            match = pattern.match(name)
            if match and not isinstance(value, Mapping):
                found[kind][int(match[1] or -1)] = value
    if not any(found.values()):
        for kind, pattern in _BY_NAME.items():
            named = [v for k, v in mapping.items() if pattern.match(str(k).strip().lower())]
            found[kind] = dict(enumerate(named))
    for numbered, target in ((found["W"], parts.W), (found["b"], parts.b)):
        if set(numbered) == {-1} and not one_layer and _listed(numbered[-1]):
            target += list(numbered[-1])
        else:
            target += [numbered[number] for number in sorted(numbered)]
    return parts


def _from_sequence(items: list[Any], expected: Expected) -> _Parts | None:
    layers, bias = expected.layers, bool(expected.b)
    loss = None
    scalars = [i for i, item in enumerate(items) if _is_scalar(item)]
    if len(scalars) == 1 and len(items) > 1:
        loss = items.pop(scalars[0])
    elif len(items) in (3, 2 * layers + 1) and _size_one(items[0]) and len(items) != 2 * layers:
        loss = np.asarray(to_numpy(items.pop(0))).reshape(())
    items = [item for item in items if item is not None] if not bias else items
    if len(items) == 1 and _is_sequence(items[0]) and (bias or _nested(items[0], 3)):
        inner = _from_sequence(list(items[0]), expected)
        return None if inner is None else _Parts(inner.W, inner.b, loss)
    both = len(items) == 2 and bias
    listed = both and layers > 1 and all(map(_listed, items))
    if listed and _fit(items[1], items[0], expected) > _fit(items[0], items[1], expected):
        items.reverse()  # (db, dW)
    if len(items) == layers and all(map(_is_pair, items)):
        W, b = ([item[i] for item in items] for i in (0, 1))
        if layers != 2 or _fit(W, b, expected) > _fit(items[0], items[1], expected):
            return _Parts(W, b, loss)
    if both and all(map(_is_sequence, items)):
        if layers > 1 or _nested(items[0], 3):
            return _Parts(list(items[0]), list(items[1]), loss)
        return _Parts([items[0]], [items[1]], loss)
    if bias and len(items) == 2 * layers:
        return _from_flat(items, expected, loss)
    if not bias and items:
        flat = list(items[0]) if len(items) <= 2 and _nested(items[0], 3) else items
        return _Parts(flat, [], loss)
    if len(items) == 2 and _is_sequence(items[0]):
        return _Parts(list(items[0]), list(np.atleast_1d(items[1])), loss)
    return None


def _from_flat(items: list[Any], expected: Expected, loss: Any) -> _Parts:
    """(dW1, db1, dW2, db2), (dW1, dW2, db1, db2), or from the output back, as the shapes tell."""
    n = expected.layers
    pairs, halves = (items[0::2], items[1::2]), (items[:n], items[n:])
    orders = [pairs, halves]
    orders += [(W[::-1], b[::-1]) for W, b in orders] + [(b, W) for W, b in orders]
    fits = [_fit(W, b, expected) for W, b in orders]
    best = max(range(len(orders)), key=lambda i: (fits[i], i == expected.order))
    return _Parts(*orders[best], loss, best)


def _fit(W: Sequence[Any], b: Sequence[Any], expected: Expected) -> int:
    """How many arrays have the expected shape."""
    fits = sum(_shape(w) == shape for w, shape in zip(W, expected.W, strict=False))
    return fits + sum(
        _shape(v) in ((n,), (n, 1), (1, n)) for v, n in zip(b, expected.b, strict=False)
    )


def _shape(value: Any) -> tuple[int, ...]:
    try:
        return tuple(to_numpy(value).shape)
    except (TypeError, ValueError):
        return (-1,)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _listed(value: Any) -> bool:
    """Whether a sequence holds arrays, not numbers."""
    return _is_sequence(value) and len(value) > 0 and not any(_is_scalar(v) for v in value)


def _nested(value: Any, depth: int) -> bool:
    """Whether a value has at least ``depth`` levels: 3 for a list of matrices."""
    while depth and (_is_sequence(value) or getattr(value, "ndim", 0)):
        if len(value) == 0:
            return False
        value, depth = value[0], depth - 1
    return depth == 0


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and not any(map(_is_scalar, item))


def _is_scalar(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return isinstance(value, int | float | np.number) or (
        shape is not None and len(tuple(shape)) == 0
    )


def _size_one(value: Any) -> bool:
    return _shape(value) in ((), (1,), (1, 1))


# ── What is wrong with its form ────────────────────────────────────────────────────────────────


def _checked(parts: _Parts, expected: Expected) -> Returned:
    problems: list[Finding] = []
    if expected.layers > 1 and len(parts.W) == expected.layers:
        turned = _fit(parts.W[::-1], (), expected)
        kept = _fit(parts.W, (), expected)
        if turned == len(parts.W) and (turned > kept or expected.order == BACKWARDS):
            parts = _Parts(parts.W[::-1], parts.b[::-1], parts.loss, BACKWARDS)
            say = "the gradients come from the output back: dW[0] is that of the last layer"
            problems.append(Finding("layers in reverse order", None, "dW", say))
    dtypes: set[str] = set()
    shapes = [(n,) for n in expected.b]
    kinds = (("dW", parts.W, expected.W, _weights), ("db", parts.b, shapes, _biases))
    for name, given, wanted, _ in kinds:
        if len(given) != len(wanted):
            say = f"{name} has {len(given)} arrays; expected {len(wanted)}, one for each layer"
            problems.append(Finding("wrong count", None, name, say))
    found: list[list[Array | None]] = []
    for name, given, wanted, fitted in kinds:
        found.append([None] * len(wanted))
        for layer, (value, shape) in enumerate(zip(given, wanted, strict=False)):
            place = f"{name}[{layer}]"
            array, problem = _numbers(value, place, dtypes)
            if array is not None:
                array, problem = fitted(array, place, shape, layer, expected)
            found[-1][layer] = array
            problems += [Finding(problem[0], layer, name, problem[1])] if problem else []
    loss = None
    if parts.loss is not None:
        loss = float(to_numpy(parts.loss).astype(np.float64).reshape(-1)[0])
    arrays = tuple(g for g in (*parts.W, *parts.b) if isinstance(g, np.ndarray))
    W, b = map(tuple, found)
    return Returned(W, b, loss, tuple(problems), parts.order, frozenset(dtypes), arrays)


_Fitted = tuple[Array | None, tuple[str, str] | None]
"""An array in its right shape, if it can be used; the name of what is wrong with it, and what to
say, if something is.
"""


def _numbers(value: Any, place: str, dtypes: set[str]) -> _Fitted:
    """One array of the result, if it is one and holds finite numbers."""
    try:
        array = to_numpy(value)
    except (TypeError, ValueError):
        return None, ("no array", f"{place} is {_described(value)}, no array of numbers")
    if array.dtype.kind == "f":
        dtypes.add(str(array.dtype))
    array = array.astype(np.float64)
    bad = int((~np.isfinite(array)).sum())
    if bad:
        say = f"{place} holds nan or infinity ({bad} of {array.size} entries)"
        return None, ("not finite", say)
    return array, None


def _weights(
    array: Array, place: str, shape: tuple[int, ...], layer: int, expected: Expected
) -> _Fitted:
    if array.shape == shape:
        return array, None
    say = f"{place} has shape {array.shape}"
    if array.shape == shape[::-1]:
        say += f", the transpose of W[{layer}]'s {shape}. Swap the two sides of the outer product"
        return array.T, ("dW transposed", say)
    say += f"; expected {shape}, that of W[{layer}]"
    m = expected.samples
    broadcast = tuple(m if n == 1 else n for n in shape)
    if layer == expected.layers - 1 and shape != broadcast == array.shape and m > 1:
        say += ". It has a row for each sample: (m, 1) - (m,) is (m, m); reshape y to (m, 1)"
        return None, ("y of shape (m,) against (m,1)", say)
    return None, ("wrong shape", say)


def _biases(
    array: Array, place: str, shape: tuple[int, ...], layer: int, expected: Expected
) -> _Fitted:
    n, m = shape[0], expected.samples
    if array.shape in ((n,), (n, 1), (1, n)):
        return array.reshape(n), None
    say = f"{place} has shape {array.shape}; expected ({n},)"
    if array.size == 1 and m > 1:
        say += ": it is summed over the units too. Sum over the samples only"
        return np.full(n, float(array.reshape(()))), ("db summed over everything", say)
    if array.shape == ((n, m) if expected.columns else (m, n)):
        say += ": it is not summed over the samples. Sum delta over the samples"
        if expected.columns:
            say += ' (a function of one sample at a time: check with samples="one column")'
        total = np.asarray(array.sum(axis=1 if expected.columns else 0))
        return total, ("db not summed over the samples", say)
    if array.shape in ((m,), (m, 1), (1, m)):
        say += ": it is summed over the units. Sum over the samples"
        return None, ("db summed over the wrong axis", say)
    return None, ("wrong shape", say)


def _described(value: Any) -> str:
    """A value as a message names it: its type, and its shape or length."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"one array of shape {tuple(shape)}"
    if isinstance(value, Mapping):
        return f"a dict with the keys {', '.join(map(repr, list(value)[:6])) or 'none'}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
