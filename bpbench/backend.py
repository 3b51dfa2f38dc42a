"""What must a framework be able to do? Backend and Model, the one interface that all share.

People call the methods of the first half of ``Model``: they check and convert what is given,
once, for every backend. Whoever adds a backend writes the second half: ten small methods on arrays
that already lie on the device. Nothing here computes a gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from bpbench.errors import Unsupported, UsageError, unknown
from bpbench.losses import check_targets
from bpbench.network import MLP, Array, Parameters
from bpbench.optimizers import OPTIMIZERS, Optimizer

T = TypeVar("T")
Formula = TypeVar("Formula")
DeviceArray = Any
"""An array of the framework's own kind, on the backend's device and in its dtype."""


@dataclass(frozen=True)
class Gradients(Generic[T]):
    """The gradient of the mean loss by W and b: ``W[l]`` (n_l, n_{l-1}), ``b[l]`` (n_l,)."""

    W: tuple[T, ...]
    b: tuple[T, ...]


@dataclass(frozen=True)
class Backpropagation(Generic[T]):
    """Everything that one forward and one backward pass computes.

    Tuples run over the layers that have weights, from 0; the input is in none of them.

    Attributes:
        loss: mean over the rows, the l2 term included; None where a cotangent was given.
        z: (m, n_l) each, pre-activations.
        a: (m, n_l) each, activations; ``a[-1]`` is the output.
        delta: (m, n_l) each, the derivative of the mean loss by z, without the l2 term.
        gradients: by W and b; the l2 term is part of those by W.
        input_gradient: (m, n_1), by x.
    """

    loss: T | float | None
    z: tuple[T, ...]
    a: tuple[T, ...]
    delta: tuple[T, ...]
    gradients: Gradients[T]
    input_gradient: T


@dataclass(frozen=True)
class Data:
    """A data set on the device: x (rows, n_1) and y (rows, n_L)."""

    x: DeviceArray
    y: DeviceArray
    rows: int


@dataclass(frozen=True)
class Batches:
    """Steps to train, on the device: ``order`` (steps, batch) holds rows of ``data``."""

    data: Data
    order: DeviceArray
    shape: tuple[int, int]


class Backend(ABC):
    """One framework in one mode, on one device, in one dtype.

    Args:
        mode: one of ``modes``; the first where None.
        device: one of ``devices``.
        dtype: one of ``dtypes``.

    Raises:
        UsageError: a mode, device or dtype that this backend does not have.
        Unsupported: a combination that cannot be had, with the reason.
    """

    name: ClassVar[str]
    modes: ClassVar[tuple[str, ...]]
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float64")

    def __init__(
        self, mode: str | None = None, device: str = "cpu", dtype: str = "float32"
    ) -> None:
        self.mode = self.modes[0] if mode is None else mode
        self.device = device
        self.dtype = dtype
        if self.mode not in self.modes:
            raise unknown(f"backend {self.name!r}: mode", mode, self.modes)
        if device not in self.devices:
            raise unknown(f"backend {self.name!r}: device", device, self.devices)
        if dtype not in self.dtypes:
            raise unknown(f"backend {self.name!r}: dtype", dtype, self.dtypes)

    @abstractmethod
    def model(self, network: MLP, parameters: Parameters) -> Model:
        """Put ``network`` with ``parameters`` on the device, ready to train.

        Raises:
            UsageError: parameters of another network.
            Unsupported: an activation or a loss that this backend has no formula for.
        """

    def formula(self, kind: str, name: str, table: Mapping[str, Formula]) -> Formula:
        """What a table of this backend's own formulas has under a name.

        Args:
            kind: of what the table has formulas, as the message says it: "loss".
            name: of the one that is wanted.

        Raises:
            Unsupported: the table does not have it; the message names those that it has.
        """
        if name not in table:
            raise Unsupported(
                f"{self.name}:{self.mode} has no formula for {kind} {name!r}; "
                f"it has: {', '.join(table)}"
            )
        return table[name]

    def require(
        self, network: MLP, activations: Mapping[str, Any], losses: Mapping[str, Any]
    ) -> None:
        """Raise Unsupported unless the tables have the network's activations and its loss."""
        for name in network.activations:
            self.formula("activation", name, activations)
        self.formula("loss", network.loss, losses)

    def __repr__(self) -> str:
        return f"<backend {self.name}:{self.mode} on {self.device} in {self.dtype}>"


class Model(ABC):
    """A network that lives in a backend: its parameters and its optimizer's state.

    The parameters and the state live on from one ``train`` to the next, until ``set_parameters``.
    """

    def __init__(self, backend: Backend, network: MLP, parameters: Parameters) -> None:
        self.backend = backend
        self.network = network
        self._optimizer: Optimizer | None = None
        self._given = parameters
        self.set_parameters(parameters)

    # ── What people call ───────────────────────────────────────────────────────────────────────

    def backpropagate(
        self,
        x: ArrayLike,
        y: ArrayLike | None = None,
        *,
        cotangent: ArrayLike | None = None,
        l2: float = 0.0,
    ) -> Backpropagation[Array]:
        """One forward and one backward pass; the parameters stay as they are.

        Args:
            x: (m, n_1), the inputs.
            y: (m, n_L), the expected outputs of the network's loss, or
            cotangent: (m, n_L), dL/da[-1] of a loss of one's own: the gradients are those of
                sum(cotangent * a[-1]), and loss is None.
            l2: adds 0.5 * l2 * sum of W^2 to the loss.

        Returns:
            Everything on the host, as NumPy arrays in the backend's dtype.

        Raises:
            UsageError: wrong shapes, values that are not finite, or not one of y and cotangent.

        Source: equations (1) to (9) and (12) to (15).
        """
        if (y is None) == (cotangent is None):
            raise UsageError(
                "backpropagate: give y for the network's own loss, or cotangent, not both"
            )
        if not (isinstance(l2, int | float | np.number) and 0 <= float(l2) < np.inf):
            raise UsageError(f"backpropagate: l2 is {l2!r}; expected a number, at least 0")
        inputs = self._matrix("x", x, self.network.sizes[0])
        if y is not None:
            target = self._target(y, len(inputs))
        else:
            assert cotangent is not None
            target = self._matrix("cotangent", cotangent, self.network.sizes[-1], len(inputs))
        placed = self.upload(target)
        found = self.differentiate(
            self.upload(inputs),
            None if y is None else placed,
            placed if y is None else None,
            float(l2),
        )
        return map_arrays(self.download, found)

    def train(self, x: ArrayLike, y: ArrayLike, order: ArrayLike, optimizer: Optimizer) -> Array:
        """Train one step per row of ``order``; a second call goes on where the first ended.

        Args:
            x: (rows, n_1), the inputs.
            y: (rows, n_L), the expected outputs.
            order: (steps, batch), whole numbers: the rows of x that each step sees.
            optimizer: the same in every call, until ``set_parameters``.

        Returns:
            (steps,), the loss of each batch before its step, the l2 term included.

        Raises:
            UsageError: wrong shapes, rows that do not exist, or another optimizer.

        Source: equations (10) and (11).
        """
        batches = self.batches(self.load(x, y), order)
        if not batches.shape[0]:
            return np.zeros(0, self.backend.dtype)
        return self.download(self.run(batches, optimizer))

    def predict(self, x: ArrayLike) -> Array:
        """The network's output a[-1], (m, n_L), for inputs x, (m, n_1)."""
        return self.download(self.forward(self.upload(self._matrix("x", x, self.network.sizes[0]))))

    def parameters(self) -> Parameters:
        """The parameters as they are now, on the host, in the backend's dtype."""
        W, b = self.read_parameters()
        return Parameters(tuple(map(self.download, W)), tuple(map(self.download, b)))

    def set_parameters(self, parameters: Parameters) -> None:
        """Start again from ``parameters``: the optimizer's state is reset, nothing compiled anew.

        Raises:
            UsageError: parameters of another network.
        """
        if not isinstance(parameters, Parameters):
            raise UsageError(
                f"parameters is a {type(parameters).__name__}; expected bpbench.Parameters(W, b)"
            )
        parameters.check(self.network)
        self._given = parameters
        self._optimizer = None
        self._advanced = False
        self.write_parameters(parameters.astype(self.backend.dtype))

    # ── The parts of ``train``, for whoever times them one by one ──────────────────────────────

    def load(self, x: ArrayLike, y: ArrayLike) -> Data:
        """Check a data set, x (rows, n_1) and y (rows, n_L), and put it on the device."""
        inputs = self._matrix("x", x, self.network.sizes[0])
        return Data(self.upload(inputs), self.upload(self._target(y, len(inputs))), len(inputs))

    def batches(self, data: Data, order: ArrayLike) -> Batches:
        """Check an order, (steps, batch), and put it on the device."""
        rows = np.asarray(order)
        if rows.ndim != 2 or rows.dtype.kind not in "iu" or not rows.shape[1]:
            raise UsageError(
                f"order has shape {rows.shape} and dtype {rows.dtype}; "
                "expected whole numbers of shape (steps, batch): rows of x"
            )
        if rows.size and (rows.min() < 0 or rows.max() >= data.rows):
            raise UsageError(
                f"order holds rows from {rows.min()} to {rows.max()}, "
                f"but x has the rows 0 to {data.rows - 1}"
            )
        placed = self.upload(np.ascontiguousarray(rows, np.int64))
        return Batches(data, placed, (rows.shape[0], rows.shape[1]))

    def compile(self, batches: Batches, optimizer: Optimizer) -> None:
        """Run ``batches`` once and start again, so that the next ``run`` of this shape compiles
        nothing; the parameters and the optimizer's state are then as they were.

        Raises:
            UsageError: the model has trained since its parameters were set.
        """
        if self._advanced:
            raise UsageError("compile: the model has trained already; set_parameters first")
        self.run(batches, optimizer)
        self.synchronize()
        self.set_parameters(self._given)

    def run(self, batches: Batches, optimizer: Optimizer) -> DeviceArray:
        """Train every step of ``batches`` in one call; the losses, (steps,), stay on the device.

        Raises:
            UsageError: another optimizer than that of the steps before.
        """
        if not isinstance(optimizer, Optimizer):
            raise UsageError(
                f"optimizer is a {type(optimizer).__name__}; "
                f"expected one of: {', '.join(f'bpbench.{name}' for name in OPTIMIZERS)}"
            )
        if self._optimizer is None:
            self.start(optimizer)
            self._optimizer = optimizer
        elif optimizer != self._optimizer:
            raise UsageError(
                f"this model trains by {self._optimizer}, but got {optimizer}; "
                "call set_parameters first to start again with another optimizer"
            )
        self._advanced = True
        return self.steps(batches.data.x, batches.data.y, batches.order, optimizer)

    # ── What a backend writes ──────────────────────────────────────────────────────────────────

    @abstractmethod
    def upload(self, array: Array) -> DeviceArray:
        """Put an array (of the backend's dtype, or int64 for row numbers) on the device."""

    @abstractmethod
    def download(self, array: DeviceArray) -> Array:
        """Bring an array to the host, its dtype unchanged; waits until it has been computed."""

    @abstractmethod
    def synchronize(self) -> None:
        """Return when everything asked of the device so far has been computed."""

    @abstractmethod
    def write_parameters(self, parameters: Parameters) -> None:
        """Replace the parameters; ``parameters`` is in the backend's dtype and must not be kept."""

    @abstractmethod
    def read_parameters(self) -> tuple[tuple[DeviceArray, ...], tuple[DeviceArray, ...]]:
        """W and b as they are on the device."""

    @abstractmethod
    def forward(self, x: DeviceArray) -> DeviceArray:
        """The output a[-1], (m, n_L), without a backward pass."""

    @abstractmethod
    def differentiate(
        self, x: DeviceArray, y: DeviceArray | None, cotangent: DeviceArray | None, l2: float
    ) -> Backpropagation[DeviceArray]:
        """One forward and one backward pass for y, or for a cotangent of a[-1].

        An autodiff framework finds ``delta[l]`` as the gradient by a zero added to ``z[l]``.
        """

    @abstractmethod
    def start(self, optimizer: Optimizer) -> None:
        """Make the optimizer's state as it is before its first step.

        Raises:
            Unsupported: an optimizer that the backend has no formula for (``Backend.formula``).
        """

    @abstractmethod
    def steps(
        self, x: DeviceArray, y: DeviceArray, order: DeviceArray, optimizer: Optimizer
    ) -> DeviceArray:
        """Train one step per row of ``order`` and return the losses before each, (steps,)."""

    # ── Checks ─────────────────────────────────────────────────────────────────────────────────

    def _matrix(self, name: str, values: ArrayLike, columns: int, rows: int | None = None) -> Array:
        try:
            given = np.asarray(values)
            array = np.ascontiguousarray(given, self.backend.dtype)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name} is no array of real numbers: {error}") from error
        if given.ndim != 2 or given.shape[1] != columns or not len(given):
            expected = "m" if rows is None else rows
            remedy = (
                "; reshape it to (m, 1)" if columns == 1 and given.ndim == 1 else
                "; rows are samples" if given.ndim == 2 and given.shape[0] == columns else ""
            )  # fmt: skip
            raise UsageError(
                f"{name} has shape {given.shape}; expected ({expected}, {columns}){remedy}"
            )
        if rows is not None and len(given) != rows:
            raise UsageError(f"{name} has {len(given)} rows, but x has {rows}; expected as many")
        if not np.isfinite(array).all():
            raise UsageError(f"{name} holds nan or infinity in {self.backend.dtype}; remove it")
        return array

    def _target(self, y: ArrayLike, rows: int) -> Array:
        target = self._matrix("y", y, self.network.sizes[-1], rows)
        check_targets(self.network.loss, target)
        return target


def map_arrays(
    function: Callable[[DeviceArray], Array], found: Backpropagation[DeviceArray]
) -> Backpropagation[Array]:
    """The same backpropagation with ``function`` applied to every array, and the loss a float."""

    def each(arrays: tuple[DeviceArray, ...]) -> tuple[Array, ...]:
        return tuple(function(array) for array in arrays)

    return Backpropagation(
        loss=None if found.loss is None else float(function(found.loss)),
        z=each(found.z),
        a=each(found.a),
        delta=each(found.delta),
        gradients=Gradients(each(found.gradients.W), each(found.gradients.b)),
        input_gradient=function(found.input_gradient),
    )
