"""What is learnt from, and in which order? Data sets, their parts and the batches of an epoch.

Everything is drawn by NumPy from a seed: every backend sees the same rows in the same order.
"""

from __future__ import annotations

import csv as csv_module
import gzip
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from bpbench.errors import BpbenchError, UsageError
from bpbench.network import Array, digest


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of a data set: x (rows, inputs) and y (rows, outputs), copied and frozen."""

    x: Array
    y: Array

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            try:
                array = np.array(getattr(self, name), order="C")
            except ValueError as error:
                raise UsageError(f"Dataset: {name} is no array: {error}") from error
            if array.dtype.kind not in "fiub" or array.ndim != 2 or not len(array):
                raise UsageError(
                    f"Dataset: {name} has shape {array.shape} and dtype {array.dtype}; "
                    "expected numbers of shape (rows, columns); reshape one column to (rows, 1)"
                )
            array = array if array.dtype.kind == "f" else array.astype(np.float64)
            if not np.isfinite(array).all():
                raise UsageError(f"Dataset: {name} holds nan or infinity; remove those rows")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if len(self.x) != len(self.y):
            raise UsageError(
                f"Dataset: x has {len(self.x)} rows, but y has {len(self.y)}; expected as many"
            )

    @property
    def rows(self) -> int:
        """How many samples there are."""
        return len(self.x)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples to train on and, where there are some, to validate and to test on.

    Args:
        name: as tables call it.
        train, validation, test: ``Part(x, y)`` each; the last two may be None.
    """

    name: str
    train: Part
    validation: Part | None = None
    test: Part | None = None

    def __post_init__(self) -> None:
        columns = (self.train.x.shape[1], self.train.y.shape[1])
        for name in ("validation", "test"):
            part = getattr(self, name)
            if part is not None and (part.x.shape[1], part.y.shape[1]) != columns:
                raise UsageError(
                    f"Dataset {self.name!r}: {name} has {part.x.shape[1]} inputs and "
                    f"{part.y.shape[1]} outputs, but train has {columns[0]} and {columns[1]}"
                )

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that there are, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}

    @property
    def arrays(self) -> dict[str, Array]:
        """All arrays by name: train_x, train_y, test_x, ..."""
        return {
            f"{name}_{axis}": getattr(part, axis)
            for name, part in self.parts.items()
            for axis in ("x", "y")
        }

    def digest(self) -> str:
        """A short fingerprint of every bit of the data."""
        return digest(self.arrays)

    def __str__(self) -> str:
        rows = ", ".join(f"{part.rows} {name}" for name, part in self.parts.items())
        return f"{self.name} ({rows})"


@dataclass(frozen=True)
class BatchOrder:
    """Which rows each step sees, epoch by epoch, drawn from a seed.

    Args:
        rows: how many samples there are.
        batch_size: rows per step; at most ``rows``.
        seed: the same seed gives the same order on every machine.
        shuffle: a fresh permutation every epoch; False keeps the rows in order.
        drop_last: leave out a last batch that is shorter than the others.
    """

    rows: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.rows:
            raise UsageError(
                f"batch_size is {self.batch_size}; expected a whole number from 1 to {self.rows}, "
                "the rows of the training data"
            )

    @property
    def steps(self) -> int:
        """Steps in an epoch, a short last batch included."""
        short = bool(self.rows % self.batch_size) and not self.drop_last
        return self.rows // self.batch_size + short

    def epoch(self, epoch: int) -> list[Array]:
        """The orders of one epoch, (steps, batch_size) and, for a short last batch, (1, rest)."""
        order = np.arange(self.rows)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
        full = self.rows // self.batch_size * self.batch_size
        orders = [order[:full].reshape(-1, self.batch_size)]
        if full < self.rows and not self.drop_last:
            orders.append(order[full:].reshape(1, -1))
        return orders

    def epochs(self, first: int, last: int) -> Iterator[Array]:
        """The orders of the epochs from ``first`` up to ``last``, in as few arrays as can be."""
        each = [self.epoch(epoch) for epoch in range(first, last)]
        if self.rows % self.batch_size and not self.drop_last:
            yield from (order for orders in each for order in orders)
        elif each:
            yield np.concatenate([orders[0] for orders in each])


# ── Data sets ──────────────────────────────────────────────────────────────────────────────────


def xor() -> Dataset:
    """The four rows of exclusive or: 2 inputs, 1 output. Source: docs/equations.md, the example."""
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    return Dataset("xor", Part(x, np.array([[0], [1], [1], [0]])))


def spiral(points: int = 100, arms: int = 3, noise: float = 0.2, seed: int = 0) -> Dataset:
    """CS231n's spiral: 2 inputs, one output per arm (one-hot).

    Arm k has radii from 0 to 1 and angles from 4k to 4(k + 1) plus normal noise; the point is
    (r sin t, r cos t).

    Source: CS231n, "Minimal neural network case study".
    """
    if points < 1 or arms < 2 or noise < 0:
        raise UsageError(
            f"spiral: points={points}, arms={arms}, noise={noise}; "
            "expected at least 1 point, 2 arms and no negative noise"
        )
    rng = np.random.default_rng(seed)
    radius = np.linspace(0, 1, points)
    x = []
    for arm in range(arms):
        t = np.linspace(arm * 4, (arm + 1) * 4, points) + rng.standard_normal(points) * noise
        x.append(np.column_stack((radius * np.sin(t), radius * np.cos(t))))
    return Dataset("spiral", Part(np.concatenate(x), one_hot(np.repeat(np.arange(arms), points))))


def digits(seed: int = 0) -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels: 64 inputs from 0 to 1, 10 classes.

    They are shuffled once by ``seed``: 1,197 to train, 300 to validate, 300 to test.

    Source: Alpaydin & Kaynak 1998 (UCI "Optical Recognition of Handwritten Digits", test part),
    in scikit-learn's order; ``digits.md`` has the licence.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        pixels, labels = file["pixels"], file["labels"]
    order = np.random.default_rng(seed).permutation(len(pixels))
    x, y = pixels[order] / 16, one_hot(labels[order], 10)
    return Dataset(
        "digits", Part(x[:-600], y[:-600]), Part(x[-600:-300], y[-600:-300]),
        Part(x[-300:], y[-300:]),
    )  # fmt: skip


def csv(
    path: str | Path,
    target: str | int = -1,
    classes: bool | None = None,
    test_share: float = 0.2,
    validation_share: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """A table of numbers with a header line; one column is what is to be learnt.

    Args:
        path: a comma-separated file with a header.
        target: the name or number of the column to learn; the last where not given.
        classes: True makes one output per value of the target (one-hot), False takes it as a
            number; None makes classes of what is not a number, or is up to 20 whole numbers.
        test_share, validation_share: the shares of the rows kept apart, drawn by ``seed``.

    Raises:
        UsageError: a file that cannot be read, or a cell that is no number, with its line.
    """
    path = Path(path)
    header, rows = _read_table(path)
    column = _column(path, header, target)
    labels = [row[column] for _, row in rows]
    x = np.array([
        [_number(path, line, header[i], cell) for i, cell in enumerate(row) if i != column]
        for line, row in rows
    ])  # fmt: skip
    if classes is None:
        classes = not all(map(_is_number, labels)) or (
            all(float(label).is_integer() for label in labels) and len(set(labels)) <= 20
        )
    if classes:
        y = one_hot(np.unique(labels, return_inverse=True)[1])
    else:
        y = np.array([[_number(path, line, header[column], row[column])] for line, row in rows])
    if not 0 <= test_share + validation_share < 1 or min(test_share, validation_share) < 0:
        raise UsageError(
            f"csv: test_share={test_share}, validation_share={validation_share}; "
            "expected shares of at least 0 that sum to less than 1"
        )
    order = np.random.default_rng(seed).permutation(len(x))
    test = round(len(x) * test_share)
    validation = round(len(x) * validation_share)
    chosen = np.split(order, [len(x) - test - validation, len(x) - test])
    parts = [Part(x[rows_], y[rows_]) if len(rows_) else None for rows_ in chosen]
    if parts[0] is None:
        raise UsageError(f"csv: {path} has {len(x)} rows, too few to keep some apart")
    return Dataset(path.stem, parts[0], parts[1], parts[2])


def mnist(folder: str | Path | None = None) -> Dataset:
    """MNIST: 784 inputs (byte / 256), 10 classes; 50,000 to train, 10,000 to validate and to test.

    The four original files (gzip IDX) are read from ``folder``; without one, from bpbench's own
    cache, into which they are downloaded when they are not there. Digests are checked.

    Raises:
        BpbenchError: a file that is missing, damaged or cannot be downloaded.

    Source: LeCun et al. 1998; the parts and the scale are Nielsen's, chapter 1.
    """
    images, labels, test_images, test_labels = (
        _mnist_file(name, sha256, None if folder is None else Path(folder))
        for name, sha256 in MNIST_FILES.items()
    )
    x, y = images.reshape(len(images), -1) / 256, one_hot(labels, 10)
    test = Part(test_images.reshape(len(test_images), -1) / 256, one_hot(test_labels, 10))
    return Dataset("mnist", Part(x[:50_000], y[:50_000]), Part(x[50_000:], y[50_000:]), test)


def one_hot(labels: ArrayLike, classes: int | None = None) -> Array:
    """(rows, classes) of 0 and 1 for whole-number labels, (rows,), that count from 0."""
    found = np.asarray(labels)
    total = int(found.max()) + 1 if classes is None else classes
    if found.ndim != 1 or found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= total:
        raise UsageError(
            f"one_hot: labels have shape {found.shape} and dtype {found.dtype}; "
            f"expected whole numbers from 0 to {total - 1} in one dimension"
        )
    rows: Array = np.eye(total)[found]
    return rows


# ── Reading files ──────────────────────────────────────────────────────────────────────────────

MNIST_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_FILES = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}
"""The four files and their sha256."""


def _mnist_file(name: str, sha256: str, folder: Path | None) -> Array:
    if folder is None:
        path = _cached_mnist(name, sha256)
    else:
        path = folder / name
        if not path.is_file():
            raise BpbenchError(
                f"mnist: there is no {name} in {folder}; expected the four original files: "
                + ", ".join(MNIST_FILES)
            )
    packed = path.read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != sha256:
        raise BpbenchError(
            f"mnist: {path} has sha256 {found[:8]}…, expected {sha256[:8]}…: it is damaged or not "
            "the original; remove it and get it again"
        )
    raw = gzip.decompress(packed)
    dimensions = raw[3]
    shape = struct.unpack(f">{dimensions}I", raw[4 : 4 + 4 * dimensions])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _cached_mnist(name: str, sha256: str) -> Path:
    import pooch
    import requests

    try:
        found = pooch.retrieve(
            MNIST_MIRROR + name, f"sha256:{sha256}", name, pooch.os_cache("bpbench")
        )
    except (OSError, ValueError, requests.RequestException) as error:
        raise BpbenchError(
            f"mnist: {name} is not in {pooch.os_cache('bpbench')} and cannot be downloaded from "
            f"{MNIST_MIRROR} ({error}); give the folder that holds the four original files: "
            "datasets.mnist(folder)"
        ) from error
    return Path(found)


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv_module.reader(file)
            lines = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv_module.Error) as error:
        raise UsageError(f"csv: {path} cannot be read: {error}") from error
    if len(lines) < 2 or len(lines[0][1]) < 2:
        raise UsageError(f"csv: {path} has too little in it; expected a header line and rows")
    (_, header), rows = lines[0], lines[1:]
    for line, row in rows:
        if len(row) != len(header):
            raise UsageError(
                f"csv: {path}, line {line} has {len(row)} cells; the header has {len(header)}"
            )
    return header, rows


def _column(path: Path, header: list[str], target: str | int) -> int:
    if isinstance(target, str) and target in header:
        return header.index(target)
    if isinstance(target, int) and -len(header) <= target < len(header):
        return target % len(header)
    raise UsageError(f"csv: {path} has no column {target!r}; it has: {', '.join(header)}")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(path: Path, line: int, name: str, cell: str) -> float:
    if not _is_number(cell):
        raise UsageError(f"csv: {path}, line {line}, column {name!r}: {cell!r} is no number")
    return float(cell)
