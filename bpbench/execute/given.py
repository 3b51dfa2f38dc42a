"""What is every backend given? Parameters, data and orders, made once by NumPy, as files.

They are rounded here to the dtype that is asked about, so that no backend rounds them its own way.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bpbench.cells import Point
from bpbench.datasets import BatchOrder, Dataset
from bpbench.execute import protocol
from bpbench.network import Array, Parameters, digest

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class File:
    """A file of arrays and their digest."""

    path: Path
    digest: str


class Given:
    """The files of a run, in its scratch folder; each is made when it is first asked for.

    Attributes:
        parameters: (point, seed, dtype) -> where a training starts from; all are kept.
        data: (data set, dtype) -> train_x, train_y, test_x, ...; the last is kept.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._files: dict[tuple[object, ...], File] = {}
        self._remembered: dict[object, Any] = {}
        self._numbers = itertools.count(1)
        self.parameters = functools.cache(_parameters)
        self.data = functools.lru_cache(maxsize=1)(_data)

    def parameters_file(self, point: Point, seed: int, dtype: str) -> File:
        """The parameters, as W0, ..., b0, ..."""
        what = (point, seed, dtype)
        return self._file(("parameters", *what), lambda: self.parameters(*what).arrays)

    def data_file(self, data: Dataset, dtype: str) -> File:
        """The data, as a file."""
        return self._file(("data", data, dtype), lambda: self.data(data, dtype))

    def order_file(self, orders: Sequence[Array]) -> File:
        """Orders, (steps, batch) each, to be trained one after the other."""
        arrays = protocol.numbered(orders)
        return self._file(("order", digest(arrays)), lambda: arrays)

    def scratch(self, name: str) -> Path:
        """A path in the scratch folder, for a worker's answer."""
        return self._scratch / f"{name}.safetensors"

    def remember(self, key: object, make: Callable[[], T]) -> T:
        """What ``make`` makes, made once: all backends are judged by the same truth."""
        if key not in self._remembered:
            self._remembered[key] = make()
        return self._remembered[key]  # type: ignore[no-any-return]

    def forget(self) -> None:
        """Forget what belongs to a point that is done: its truths, and its orders' files."""
        self._remembered.clear()
        for key in [key for key in self._files if key[0] == "order"]:
            self._files.pop(key).path.unlink(missing_ok=True)

    def _file(self, key: tuple[object, ...], make: Callable[[], dict[str, Array]]) -> File:
        if key not in self._files:
            arrays, path = make(), self.scratch(f"given-{next(self._numbers)}")
            protocol.save(path, arrays)
            self._files[key] = File(path, digest(arrays))
        return self._files[key]


def _parameters(point: Point, seed: int, dtype: str) -> Parameters:
    return point.parameters(seed).astype(dtype)


def _data(data: Dataset, dtype: str) -> dict[str, Array]:
    return {name: array.astype(dtype) for name, array in data.arrays.items()}


def full_batches(order: BatchOrder, count: int) -> Array:
    """The first ``count`` batches that are not short, (count, batch_size), over as many epochs as
    it takes."""
    found: list[Array] = []
    epoch = 0
    while sum(map(len, found)) < count:
        found.append(order.epoch(epoch)[0])
        epoch += 1
    return np.concatenate(found)[:count]


def short_batch(order: BatchOrder) -> Array | None:
    """The short last batch of the first epoch, (1, rest), or None where there is none."""
    orders = order.epoch(0)
    return orders[1] if len(orders) > 1 else None


def pieces(epochs: int, most: int = 50) -> list[tuple[int, int]]:
    """Up to ``most`` pieces of equal length: (first epoch, one behind the last)."""
    length = -(-epochs // most)
    return [(first, min(first + length, epochs)) for first in range(0, epochs, length)]


def total_digest(digests: Iterable[str]) -> str:
    """One digest of several."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]
