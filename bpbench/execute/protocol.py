"""What do supervisor and worker say to each other? JSON lines; arrays go by safetensors files.

A request is ``{"id": n, "do": "steps", ...}``, answered by ``{"id": n, "ok": true, ...}`` or by
``{"id": n, "ok": false, "status": "crashed", "say": "...", "trace": "..."}``. Requests and replies
have a pipe of their own each, so that nothing that a framework prints can come between them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bpbench.backend import Backpropagation, Gradients
from bpbench.network import Array, Parameters

LONGEST_LINE = 1 << 20
"""Bytes; no message is near it, what exceeds it is garbage."""

Message = dict[str, Any]


def encode(message: Mapping[str, Any]) -> bytes:
    """One line of JSON, the line's end included."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> Message | None:
    """The message in a line, or None where it holds none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def save(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write named arrays to a safetensors file."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def load(path: str | Path) -> dict[str, Array]:
    """Read the named arrays of a safetensors file."""
    from safetensors.numpy import load_file

    return dict(load_file(path))


def numbered(arrays: Sequence[Array]) -> dict[str, Array]:
    """Arrays under names that sort as they stand: 000000, 000001, ..."""
    return {f"{i:06d}": array for i, array in enumerate(arrays)}


def in_order(arrays: Mapping[str, Array]) -> list[Array]:
    """The arrays of ``numbered``, as they stood."""
    return [arrays[name] for name in sorted(arrays)]


def parameters_of(arrays: Mapping[str, Array]) -> Parameters:
    """The parameters among named arrays (W0, W1, ..., b0, b1, ...)."""
    return Parameters(_layers(arrays, "W"), _layers(arrays, "b"))


def pack(found: Backpropagation[Array]) -> dict[str, Array]:
    """A backpropagation as named arrays: loss, z0, z1, ..., dW0, ..., input_gradient."""
    per_layer = {
        "z": found.z, "a": found.a, "delta": found.delta,
        "dW": found.gradients.W, "db": found.gradients.b,
    }  # fmt: skip
    arrays = {
        f"{name}{layer}": np.asarray(array)
        for name, several in per_layer.items()
        for layer, array in enumerate(several)
    }
    if found.loss is not None:
        arrays["loss"] = np.asarray([found.loss], np.float64)
    return arrays | {"input_gradient": np.asarray(found.input_gradient)}


def unpack(arrays: Mapping[str, Array]) -> Backpropagation[Array]:
    """What ``pack`` packed."""
    return Backpropagation(
        loss=float(arrays["loss"][0]) if "loss" in arrays else None,
        z=_layers(arrays, "z"),
        a=_layers(arrays, "a"),
        delta=_layers(arrays, "delta"),
        gradients=Gradients(_layers(arrays, "dW"), _layers(arrays, "db")),
        input_gradient=arrays["input_gradient"],
    )


def _layers(arrays: Mapping[str, Array], name: str) -> tuple[Array, ...]:
    found: list[Array] = []
    while (key := f"{name}{len(found)}") in arrays:
        found.append(arrays[key])
    return tuple(found)
