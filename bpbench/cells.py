"""What is one cell? One question about one training, on one backend, as one worker answers it.

A ``Point`` is a training with nothing left to vary; a ``Cell`` is a question about it on one
backend, mode, device, dtype, thread count and seed, and has one result file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bpbench.datasets import BatchOrder, Dataset
from bpbench.errors import UsageError, unknown
from bpbench.losses import check_targets
from bpbench.network import MLP, SCHEMES, Parameters, initial_parameters
from bpbench.optimizers import Optimizer

QUESTIONS = ("verify", "train", "speed")
"""What can be asked, in the order in which the answers are found."""

DEFAULT_MODE = "default"
"""Stands for the mode of a backend that only the backend itself knows."""

Initial = str | Parameters | Callable[[MLP, int], Parameters]


@dataclass(frozen=True, eq=False)
class Point:
    """One training with nothing left to vary.

    Attributes:
        experiment: the experiment's name.
        varied: what tells this point from the others, as text.
        The others are those of ``Experiment``.
    """

    experiment: str
    varied: Mapping[str, str]
    network: MLP
    data: Dataset
    optimizer: Optimizer
    epochs: int
    batch_size: int
    initial: Initial
    shuffle: bool
    drop_last: bool

    def __post_init__(self) -> None:
        what = f"Experiment {self.experiment!r}{_at(self.varied)}"
        for name, kind in (("network", MLP), ("data", Dataset), ("optimizer", Optimizer)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise UsageError(
                    f"{what}: {name} is a {type(value).__name__}; expected a bpbench "
                    + {"network": "MLP", "data": "Dataset", "optimizer": "optimizer"}[name]
                )
        check_whole(f"{what}: epochs", self.epochs)
        for name in ("shuffle", "drop_last"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{what}: {name} is {getattr(self, name)!r}; expected a bool")
        self._check_data(what)
        rows = self.data.train.rows
        if not (isinstance(self.batch_size, int | np.integer) and 1 <= self.batch_size <= rows):
            raise UsageError(
                f"{what}: batch_size is {self.batch_size!r}; expected a whole number from 1 to "
                f"{rows}, the rows of the training data"
            )
        self._check_initial(what)

    def parameters(self, seed: int) -> Parameters:
        """Where training starts from, in float64.

        Raises:
            UsageError: a function given as ``initial`` that returns anything else.
        """
        if isinstance(self.initial, str):
            return initial_parameters(self.network, seed, self.initial)
        if isinstance(self.initial, Parameters):
            return self.initial
        made = self.initial(self.network, seed)
        if not isinstance(made, Parameters):
            raise UsageError(
                f"Experiment {self.experiment!r}: initial returned a {type(made).__name__}; "
                "expected bpbench.Parameters(W, b)"
            )
        made.check(self.network)
        return made

    def order(self, seed: int) -> BatchOrder:
        """Which rows each step sees."""
        return BatchOrder(self.data.train.rows, self.batch_size, seed, self.shuffle, self.drop_last)

    def describe(self) -> dict[str, Any]:
        """The point as plain data, the data set by its name and digest."""
        return {
            "experiment": self.experiment,
            "point": dict(self.varied),
            "network": self.network.describe(),
            "network_text": str(self.network),
            "data": self.data.name,
            "data_digest": _data_digest(self.data),
            "optimizer": self.optimizer.describe(),
            "epochs": int(self.epochs),
            "batch_size": int(self.batch_size),
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }

    def _check_data(self, what: str) -> None:
        columns = (self.data.train.x.shape[1], self.data.train.y.shape[1])
        expected = (self.network.sizes[0], self.network.sizes[-1])
        if columns != expected:
            raise UsageError(
                f"{what}: data {self.data.name!r} has {columns[0]} inputs and {columns[1]} "
                f"outputs, but the network has {expected[0]} and {expected[1]} "
                f"(sizes {self.network.sizes})"
            )
        for name, part in self.data.parts.items():
            where = f"{what}: the {name} outputs of data {self.data.name!r}: "
            check_targets(self.network.loss, part.y, where)

    def _check_initial(self, what: str) -> None:
        if isinstance(self.initial, str):
            if self.initial not in SCHEMES:
                raise unknown(f"{what}: initial", self.initial, SCHEMES)
        elif isinstance(self.initial, Parameters):
            self.initial.check(self.network)
        elif not callable(self.initial):
            raise UsageError(
                f"{what}: initial is a {type(self.initial).__name__}; expected the name of a "
                "scheme, Parameters, or a function of (network, seed)"
            )


@dataclass(frozen=True)
class Cell:
    """One question about one point, on one backend, mode, device, dtype, threads and seed.

    ``mode`` is DEFAULT_MODE for a backend of another package or file whose mode was not named.
    """

    question: str
    point: Point
    backend: str
    mode: str
    device: str
    dtype: str
    threads: int
    seed: int

    @cached_property
    def id(self) -> str:
        """A file name that people can read, with a digest of everything that defines the cell."""
        backend = self.backend.rpartition(":")[2]
        words = [self.question, backend, self.mode, self.device, self.dtype]
        words += [f"t{self.threads}", f"s{self.seed}"]
        words += [f"{name}={value}" for name, value in self.point.varied.items()]
        text = re.sub(r"[^A-Za-z0-9.=+_-]+", "_", "-".join(words))
        initial = self.point.initial
        if not isinstance(initial, str):
            initial = self.point.parameters(self.seed).digest()
        definition = self._described(initial, _backend_identity(self.backend))
        total = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()
        return f"{text[:150]}-{total[:10]}"

    def describe(self) -> dict[str, Any]:
        """The cell as plain data, as its result file holds it."""
        initial = self.point.initial
        text = "given" if isinstance(initial, Parameters) else value_text(initial)
        return {"id": self.id, **self._described(text, self.backend)}

    def _described(self, initial: str, backend: str) -> dict[str, Any]:
        return {
            "question": self.question,
            **self.point.describe(),
            "initial": initial,
            "backend": backend,
            "mode": self.mode,
            "device": self.device,
            "dtype": self.dtype,
            "threads": self.threads,
            "seed": self.seed,
        }


def value_text(value: Any) -> str:
    """A varied value as tables and file names show it."""
    match value:
        case Dataset():
            return value.name
        case Parameters():
            return f"given {value.digest()[:6]}"
        case float() | np.floating():
            return f"{value:g}" if float(f"{value:g}") == value else repr(float(value))
        case tuple() | list():
            return "-".join(map(value_text, value))
        case _ if callable(value):
            return getattr(value, "__name__", "function")
    return str(value)


# ── Checks ───────────────────────────────────────────────────────────────────────────────────────


def check_whole(subject: str, value: Any) -> None:
    """Raise UsageError unless ``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise UsageError(f"{subject} is {value!r}; expected a whole number of at least 1")


def _at(varied: Mapping[str, str]) -> str:
    at = ", ".join(f"{name}={value}" for name, value in varied.items())
    return f" at {at}" if at else ""


@lru_cache(maxsize=64)
def _data_digest(data: Dataset) -> str:
    return data.digest()


def _backend_identity(name: str) -> str:
    """What a backend is: its name or, for a class in a file, the class and the file's bits."""
    if ".py:" not in name:
        return name
    path, _, kind = name.rpartition(":")
    return f"{kind} {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}"
