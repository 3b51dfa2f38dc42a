"""Which network is meant: its sizes, activations and loss, and the parameters it starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from bpbench.activations import ACTIVATIONS, hidden_activations
from bpbench.activations import LEAKY_RELU_SLOPE as LEAKY_RELU_SLOPE  # for backends, as is Array
from bpbench.arithmetic import Array as Array
from bpbench.errors import UsageError, unknown
from bpbench.losses import LOSSES


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron and the loss it is trained on.

    a^(1) = x; z^(l) = W^(l) a^(l-1) + b^(l); a^(l) = f(z^(l)).

    Args:
        sizes: (n_1, ..., n_L), units per layer, the input first; at least two layers.
        hidden: the activation of every hidden layer, or one name per hidden layer.
        output: the activation of the last layer.
        loss: "half_squared_error" (sum_j (o_j - y_j)^2 / 2), "binary_cross_entropy" (sigmoid
            outputs, summed over them) or "cross_entropy" (softmax outputs); mean over the rows.
        bias: False for a network without b.

    Raises:
        UsageError: a size, a name or a combination that cannot be meant.

    Source: equations (1) to (5).
    """

    sizes: tuple[int, ...]
    hidden: str | tuple[str, ...] = "sigmoid"
    output: str = "sigmoid"
    loss: str = "half_squared_error"
    bias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", _sizes(self.sizes))
        if not isinstance(self.hidden, str):
            object.__setattr__(self, "hidden", tuple(self.hidden))
            if len(self.hidden) != self.layers - 1:
                raise UsageError(
                    f"MLP: hidden has {len(self.hidden)} activations, but sizes {self.sizes} has "
                    f"{self.layers - 1} hidden layers; give one name, or one per hidden layer"
                )
        for name in (self.hidden,) if isinstance(self.hidden, str) else self.hidden:
            if name in ACTIVATIONS and not ACTIVATIONS[name].hidden:
                raise UsageError(
                    f"MLP: {name} is an output activation; hidden layers take one of: "
                    + ", ".join(hidden_activations())
                )
            if name not in ACTIVATIONS:
                raise unknown("MLP: hidden activation", name, hidden_activations())
        if self.output not in ACTIVATIONS:
            raise unknown("MLP: output activation", self.output, ACTIVATIONS)
        if self.loss not in LOSSES:
            raise unknown("MLP: loss", self.loss, LOSSES)
        if self.output not in LOSSES[self.loss].allowed:
            fitting = [repr(name) for name, row in LOSSES.items() if self.output in row.allowed]
            raise UsageError(
                f"MLP: loss {self.loss!r} goes with output {LOSSES[self.loss].output!r}, not "
                f"{self.output!r}; change the output, or use loss {' or '.join(fitting)}"
            )
        if not isinstance(self.bias, bool):
            raise UsageError(f"MLP: bias is {self.bias!r}; expected True or False")

    @property
    def layers(self) -> int:
        """The number of layers that have weights, L - 1."""
        return len(self.sizes) - 1

    @property
    def activations(self) -> tuple[str, ...]:
        """The activation of each layer that has weights, the output's last."""
        hidden = (self.hidden,) * (self.layers - 1) if isinstance(self.hidden, str) else self.hidden
        return (*hidden, self.output)

    def describe(self) -> dict[str, Any]:
        """The fields as plain data; ``MLP(**description)`` makes the network again."""
        return asdict(self)

    def __str__(self) -> str:
        hidden = self.hidden if isinstance(self.hidden, str) else "/".join(self.hidden)
        bias = "" if self.bias else ", no bias"
        return f"{'-'.join(map(str, self.sizes))} {hidden}, {self.output}, {self.loss}{bias}"


def _sizes(sizes: Iterable[int]) -> tuple[int, ...]:
    try:
        found = tuple(sizes)
    except TypeError:
        found = ()
    whole = all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 1 for n in found
    )
    if len(found) < 2 or not whole:
        raise UsageError(
            f"MLP: sizes is {sizes!r}; expected two or more whole numbers of at least 1, "
            "inputs first, such as (784, 30, 10)"
        )
    return tuple(int(n) for n in found)


@dataclass(frozen=True, eq=False)
class Parameters:
    """The weights and biases of a network: copied, frozen and checked when made.

    Args:
        W: one (n_l, n_{l-1}) array per layer that has weights; ``W[0]`` is the equations' W^(2).
        b: one (n_l,) array per layer, or () for a network without biases.

    Raises:
        UsageError: arrays whose shapes do not fit one another, or that are not real numbers.
    """

    W: tuple[Array, ...]
    b: tuple[Array, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "W", _frozen("W", self.W))
        object.__setattr__(self, "b", _frozen("b", self.b))
        if not self.W:
            raise UsageError("Parameters: W is empty; expected one (n_l, n_{l-1}) array per layer")
        if self.b and len(self.b) != len(self.W):
            raise UsageError(
                f"Parameters: {len(self.W)} arrays in W but {len(self.b)} in b; "
                "expected as many, or b=() for a network without biases"
            )
        for layer, W in enumerate(self.W):
            if W.ndim != 2:
                raise UsageError(
                    f"Parameters: W[{layer}] has shape {W.shape}; expected (n_l, n_{{l-1}})"
                )
            if layer and W.shape[1] != self.W[layer - 1].shape[0]:
                raise UsageError(
                    f"Parameters: W[{layer}] has shape {W.shape} but the layer before it has "
                    f"{self.W[layer - 1].shape[0]} units; expected W[l] as (n_l, n_{{l-1}}); "
                    "transpose weights that are (n_in, n_out)"
                )
        for layer, b in enumerate(self.b):
            if b.shape != (len(self.W[layer]),):
                raise UsageError(
                    f"Parameters: b[{layer}] has shape {b.shape}; "
                    f"expected ({len(self.W[layer])},), one per unit of W[{layer}]"
                )

    @property
    def sizes(self) -> tuple[int, ...]:
        """(n_1, ..., n_L), as the shapes of W tell."""
        return (self.W[0].shape[1], *(W.shape[0] for W in self.W))

    @property
    def arrays(self) -> dict[str, Array]:
        """All arrays by name: W0, W1, ..., b0, b1, ..."""
        return named_arrays(self.W, self.b)

    def astype(self, dtype: DTypeLike) -> Parameters:
        """The same parameters rounded to another dtype."""
        if all(array.dtype == dtype for array in (*self.W, *self.b)):
            return self  # frozen, and so as good as a copy
        return Parameters(
            tuple(W.astype(dtype) for W in self.W), tuple(b.astype(dtype) for b in self.b)
        )

    def check(self, network: MLP) -> None:
        """Raise UsageError unless these are parameters of ``network``."""
        if self.sizes != network.sizes:
            raise UsageError(
                f"parameters are for sizes {self.sizes}, but the network has {network.sizes}; "
                "expected W[l] as (n_l, n_{l-1})"
            )
        if bool(self.b) != network.bias:
            raise UsageError(
                f"parameters have {len(self.b)} biases, but the network has bias={network.bias}; "
                + ("give one b per layer" if network.bias else "give b=()")
            )

    def digest(self) -> str:
        """A short fingerprint of every bit of the parameters, dtype and shapes included."""
        return digest(self.arrays)


def named_arrays(W: Sequence[Array], b: Sequence[Array]) -> dict[str, Array]:
    """Per-layer arrays under the names that files and messages use: W0, b0, W1, b1, ..."""
    names = {f"W{layer}": array for layer, array in enumerate(W)}
    return names | {f"b{layer}": array for layer, array in enumerate(b)}


def digest(arrays: dict[str, Array]) -> str:
    """A short fingerprint (16 hexadecimal digits) of named arrays: names, dtypes, shapes, bits."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype.str} {array.shape};".encode())
        total.update(np.ascontiguousarray(array).data)  # no copy: data may be large
    return total.hexdigest()[:16]


def _frozen(name: str, arrays: Iterable[ArrayLike]) -> tuple[Array, ...]:
    frozen = []
    for layer, given in enumerate(arrays):
        try:
            array = np.array(given, order="C")
        except ValueError as error:
            raise UsageError(f"Parameters: {name}[{layer}] is no array: {error}") from error
        if array.dtype.kind in "iub":
            array = array.astype(np.float64)
        if array.dtype.kind != "f":
            raise UsageError(
                f"Parameters: {name}[{layer}] has dtype {array.dtype}; expected real numbers"
            )
        array.flags.writeable = False
        frozen.append(array)
    return tuple(frozen)


Draw = Callable[[np.random.Generator, int, int], Array]

SCHEMES: dict[str, Draw] = {
    "normal": lambda rng, n_out, n_in: rng.standard_normal((n_out, n_in)),
    "scaled_normal": lambda rng, n_out, n_in: rng.standard_normal((n_out, n_in)) / np.sqrt(n_in),
    "xavier": lambda rng, n_out, n_in: (
        rng.uniform(-1, 1, (n_out, n_in)) * np.sqrt(6 / (n_in + n_out))
    ),
    "he": lambda rng, n_out, n_in: rng.standard_normal((n_out, n_in)) * np.sqrt(2 / n_in),
}
"""How weights start. "normal" and "scaled_normal" draw biases from N(0, 1), the others from 0."""


def initial_parameters(network: MLP, seed: int = 0, scheme: str = "normal") -> Parameters:
    """Draw the parameters that a network starts from, in float64.

    Args:
        network: whose parameters.
        seed: the same seed gives the same parameters on every machine.
        scheme: "normal" (W, b ~ N(0, 1)), "scaled_normal" (W ~ N(0, 1/n_in), b ~ N(0, 1)),
            "xavier" (W ~ U(-r, r), r^2 = 6 / (n_in + n_out), b = 0) or "he" (W ~ N(0, 2/n_in),
            b = 0).

    Source: Nielsen, chapters 1 and 3 ("normal", "scaled_normal"); Glorot & Bengio 2010;
    He et al. 2015.
    """
    if scheme not in SCHEMES:
        raise unknown("initial_parameters: scheme", scheme, SCHEMES)
    rng = np.random.default_rng(seed)
    draw_bias = scheme in ("normal", "scaled_normal")
    W, b = [], []
    for n_in, n_out in zip(network.sizes, network.sizes[1:], strict=False):
        W.append(SCHEMES[scheme](rng, n_out, n_in))
        if network.bias:
            b.append(rng.standard_normal(n_out) if draw_bias else np.zeros(n_out))
    return Parameters(tuple(W), tuple(b))
