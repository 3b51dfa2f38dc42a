"""What does an experiment script declare, and which cells does it come to?

An experiment is one training, or a grid of them: every combination of the varied fields is a
``Point``. Each question about one point on one backend, mode, device, dtype, thread count and seed
is a ``Cell``: what one worker answers and one result file holds.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from bpbench.cells import DEFAULT_MODE, QUESTIONS, Cell, Initial, Point, check_whole, value_text
from bpbench.datasets import Dataset
from bpbench.errors import UsageError, unknown
from bpbench.network import MLP
from bpbench.optimizers import OPTIMIZERS, Optimizer
from bpbench.registry import BUILT_IN, entry_points, load_file, modes_of, split_mode

DTYPES = ("float32", "float64")
WHERE_FIELDS = {"dtype": "dtype", "backend": "backends", "device": "device", "threads": "threads"}
"""What may stand in ``vary`` though it belongs to the cell, and the field that says the same."""
OWN_FIELDS = tuple(f.name for f in fields(Point) if f.name not in ("experiment", "varied"))
MLP_FIELDS = tuple(f.name for f in fields(MLP))
SHAPES = ("depth", "width")
"""Varied fields that reshape ``sizes``: how many hidden layers, and how wide all of them are."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """A question that a script asks: what is trained, how, and on which backends.

    Args:
        name: the folder of its results: letters, digits, ``_``, ``-`` and ``.``.
        network, data, optimizer: descriptions.
        epochs: passes over the training rows.
        batch_size: rows per step.
        dtype: "float32", "float64", or a sequence of them.
        seeds: how many seeds, from 0, or which; one training each.
        initial: how parameters start: the name of a scheme, Parameters, or a function of
            (network, seed) that returns them.
        shuffle: a fresh order of the rows every epoch.
        drop_last: leave out a last batch that is shorter than the others.
        backends: such as "torch", "jax:eager" or "my.py:Mine"; the five that bpbench brings, each
            in its default mode, where None.
        device, threads: one, or a sequence of them.
        vary: field -> values; a grid over any field above, any field of the network (``sizes``,
            ``hidden``, ...) or of the optimizer (``learning_rate``, ...), and ``depth`` and
            ``width`` of the hidden layers.
        questions: of "verify", "train" and "speed"; nothing is trained or timed unverified.
        notes: a sentence or more that the report prints.

    Raises:
        UsageError: anything that cannot be meant, in any combination of the varied fields.
    """

    name: str
    network: MLP
    data: Dataset
    optimizer: Optimizer
    epochs: int
    batch_size: int
    dtype: str | Sequence[str] = "float32"
    seeds: int | Sequence[int] = 1
    initial: Initial = "normal"
    shuffle: bool = True
    drop_last: bool = False
    backends: Sequence[str] | None = None
    device: str | Sequence[str] = "cpu"
    threads: int | Sequence[int] = 1
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    questions: Sequence[str] = QUESTIONS
    notes: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w.-]*", self.name, re.ASCII):
            raise UsageError(
                f"Experiment: name is {self.name!r}; expected letters, digits, '_', '-' and '.', "
                "for it names the folder of the results"
            )
        object.__setattr__(self, "vary", _varied(self))
        for name, where in WHERE_FIELDS.items():
            if name in self.vary:
                object.__setattr__(self, where, tuple(self.vary[name]))
        for dtype in _each(self.dtype):
            check_dtype(f"Experiment {self.name!r}: dtype", dtype)
        for question in self.questions:
            if question not in QUESTIONS:
                raise unknown(f"Experiment {self.name!r}: question", question, QUESTIONS)
        for threads in _each(self.threads):
            check_whole(f"Experiment {self.name!r}: threads", threads)
        for backend in self.backends or ():
            check_backend(backend)
        seed_numbers(self.seeds, f"Experiment {self.name!r}: seeds")
        assert self.points  # made here, so that every combination is checked now

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """Every combination of the varied fields, the last one varying fastest."""
        names = [name for name in self.vary if name not in WHERE_FIELDS]
        return tuple(
            _point(self, dict(zip(names, values, strict=True)))
            for values in itertools.product(*(self.vary[name] for name in names))
        )

    def cells(
        self,
        *,
        backends: Sequence[str] | None = None,
        devices: Sequence[str] | None = None,
        dtypes: Sequence[str] | None = None,
        seeds: int | Sequence[int] | None = None,
        threads: int | Sequence[int] | None = None,
        questions: Sequence[str] | None = None,
    ) -> list[Cell]:
        """Every cell, in the order in which they are best run; what is given replaces a field.

        "verify" is among the questions whenever another is, because nothing is trained or timed
        unverified. Verifying and timing take the first seed, training all of them.
        """
        for backend in backends or ():
            check_backend(backend)
        for dtype in dtypes or ():
            check_dtype("dtype", dtype)
        names = backends or self.backends or tuple(BUILT_IN)
        asked = {*(questions or self.questions), "verify"}
        numbers = seed_numbers(self.seeds if seeds is None else seeds, "seeds")
        cells = []
        for dtype, device, count, point, name in itertools.product(
            dtypes or _each(self.dtype), devices or _each(self.device),
            _each(threads or self.threads), self.points, names,
        ):  # fmt: skip
            bare, mode = full_name(name)
            for question in QUESTIONS:
                if question in asked:
                    for seed in numbers if question == "train" else numbers[:1]:
                        cells.append(Cell(question, point, bare, mode, device, dtype, count, seed))
        return cells

    def main(self) -> NoReturn:
        """What ``bpbench run SCRIPT`` does, with the options on this script's command line."""
        caller = sys._getframe(1).f_globals
        script = caller.get("__file__")
        if script is None or str(caller.get("__name__")).startswith("_bpbench_file_"):
            raise UsageError(
                f"experiment {self.name!r}: main() belongs at the end of the script, under "
                "if __name__ == '__main__':"
            )
        from bpbench.cli import main

        raise SystemExit(main(["run", script, *sys.argv[1:]]))


def load(path: str | Path) -> list[Experiment]:
    """The experiments that a script declares: its module-level names, lists of them included.

    Raises:
        UsageError: there is no such file, it cannot be run, it declares no experiment, or two of
            the same name.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"there is no experiment script {path}")
    found: dict[int, Experiment] = {}
    for value in vars(load_file(file)).values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, Experiment):
                found[id(item)] = item
    if not found:
        raise UsageError(
            f"{path} declares no experiment; expected a line such as: experiment = Experiment(...)"
        )
    names = [experiment.name for experiment in found.values()]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"{path} declares two experiments called {name!r}; give each its own name"
            )
    return list(found.values())


def check_backend(name: str) -> None:
    """Raise UsageError for a backend, or a mode of a built-in one, that cannot exist.

    The modes of a backend in another package or file are known only where it is imported: in the
    worker that runs it.
    """
    bare, mode = split_mode(name)
    if bare.endswith(".py"):
        raise UsageError(f"backend {name!r} names no class; expected {bare}:YourBackend")
    if ".py:" in bare:
        if not Path(bare.rpartition(":")[0]).is_file():
            raise UsageError(f"backend {name!r}: there is no file {bare.rpartition(':')[0]}")
    elif bare in BUILT_IN:
        if mode is not None and mode not in modes_of(bare):
            raise unknown(f"backend {bare!r}: mode", mode, modes_of(bare))
    else:
        names = entry_points().names
        if bare not in names:
            raise unknown("backend", bare, {*BUILT_IN, *names})


def check_dtype(subject: str, dtype: str) -> None:
    """Raise UsageError for a dtype that no experiment can have."""
    if dtype not in DTYPES:
        raise unknown(subject, dtype, DTYPES)


def full_name(name: str) -> tuple[str, str]:
    """A backend's name and its mode; DEFAULT_MODE where only the backend itself knows its modes."""
    bare, mode = split_mode(name)
    return bare, mode or (modes_of(bare)[0] if bare in BUILT_IN else DEFAULT_MODE)


def seed_numbers(seeds: int | Sequence[int], subject: str) -> tuple[int, ...]:
    """The seeds meant: 0 up to a number, or the numbers given."""
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool) and seeds >= 1:
        return tuple(range(int(seeds)))
    given = tuple(seeds) if isinstance(seeds, Sequence) and not isinstance(seeds, str) else ()
    whole = all(isinstance(n, int | np.integer) and n >= 0 for n in given)
    if not given or not whole or len(set(given)) < len(given):
        raise UsageError(
            f"{subject} is {seeds!r}; expected how many, at least 1, or a sequence of different "
            "whole numbers"
        )
    return tuple(map(int, given))


# ── The grid ───────────────────────────────────────────────────────────────────────────────────


def _varied(experiment: Experiment) -> dict[str, tuple[Any, ...]]:
    """``vary``, checked: fields that exist, each with at least one value."""
    what = f"Experiment {experiment.name!r}: vary"
    kinds: list[Any] = [experiment.optimizer, *experiment.vary.get("optimizer", ())]
    optimizer = [f.name for kind in kinds if isinstance(kind, Optimizer) for f in fields(kind)]
    allowed = {*OWN_FIELDS, *MLP_FIELDS, *optimizer, *SHAPES, *WHERE_FIELDS}
    varied = {}
    for name, values in experiment.vary.items():
        if name not in allowed:
            raise unknown(what, name, allowed)
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
            raise UsageError(f"{what}: {name} is {values!r}; expected a list of values")
        if not len(values):
            raise UsageError(f"{what}: {name} has no values")
        texts = [value_text(value) for value in values]
        for text in texts:
            if texts.count(text) > 1:
                raise UsageError(f"{what}: two values of {name} read {text!r}; tables need one")
        varied[name] = tuple(values)
    return varied


def _point(experiment: Experiment, values: dict[str, Any]) -> Point:
    """The point at which the varied fields have these values: whole descriptions first."""
    made = {name: values.get(name, getattr(experiment, name)) for name in OWN_FIELDS}
    inner = {name: value for name, value in values.items() if name not in made}
    network, optimizer = made["network"], made["optimizer"]
    if isinstance(network, MLP):
        changed = {name: value for name, value in inner.items() if name in MLP_FIELDS}
        made["network"] = _reshaped(replace(network, **changed), inner)
    if isinstance(optimizer, Optimizer):
        if optimizer.name not in OPTIMIZERS:
            raise unknown(f"Experiment {experiment.name!r}: optimizer", optimizer.name, OPTIMIZERS)
        of_optimizer = {k: v for k, v in inner.items() if k not in (*MLP_FIELDS, *SHAPES)}
        for name in of_optimizer.keys() - {f.name for f in fields(optimizer)}:
            raise UsageError(
                f"Experiment {experiment.name!r}: vary: {name} is no field of {optimizer}"
            )
        made["optimizer"] = replace(optimizer, **of_optimizer)
    return Point(experiment.name, {k: value_text(v) for k, v in values.items()}, **made)


def _reshaped(network: MLP, values: Mapping[str, Any]) -> MLP:
    """The network with another ``depth`` or ``width`` of its hidden layers, where asked for."""
    if not any(name in values for name in SHAPES):
        return network
    hidden = network.sizes[1:-1]
    depth = values.get("depth", len(hidden))
    width = values.get("width", hidden[0] if hidden else None)
    if isinstance(depth, bool) or not isinstance(depth, int | np.integer) or depth < 0:
        raise UsageError(f"vary: depth is {depth!r}; expected how many hidden layers")
    if width is None:
        raise UsageError("vary: depth of a network without hidden layers needs a width as well")
    return replace(network, sizes=(network.sizes[0], *[width] * int(depth), network.sizes[-1]))


def _each(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, str | int | np.integer) else tuple(value)
