"""Which NumPy calls make up a layer, when every array that they touch is there beforehand?

Nothing here computes: each function *adds calls to a plan*, and the plan is run later, many times,
on the same buffers. An activation or a loss is thus written once and serves every
batch size, layout and dtype. The figures behind each choice are in docs/fast_numpy.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpbench.backends.numpy_common.plan import Plan
from bpbench.network import LEAKY_RELU_SLOPE, Array

# ── Activations: z becomes a in place; an error by a becomes one by z in place ─────────────────

Kept = Any
"""An array like z where an activation keeps more than a, else None."""


@dataclass(frozen=True)
class Activation:
    """How one activation is planned; a unit is a row, a sample a column.

    Attributes:
        forward: (plan, z, kept): turns z, (n_l, m), into a, and fills ``kept``.
        backward: (plan, error, a, kept): turns dL/da, (n_l, m), into dL/dz; may overwrite a and
            kept.
        keeps: whether ``kept``, (n_l, m), is needed: where f' cannot be had from a alone.
        sign: what W and b are stored times: -1 makes the product give -z.
    """

    forward: Callable[[Plan, Array, Kept], None]
    backward: Callable[[Plan, Array, Array, Kept], None]
    keeps: bool = False
    sign: int = 1


def _nothing(plan: Plan, *arrays: Any) -> None:
    """The identity, and its derivative."""


def _sigmoid(plan: Plan, z: Array, kept: Kept) -> None:
    """1 / (1 + e^-z), where z holds -z already: there is no call for the minus sign."""
    plan.call(np.exp, z, z)
    plan.call(np.add, z, plan.constant(1), z)
    plan.call(np.reciprocal, z, z)


def _sigmoid_error(plan: Plan, error: Array, a: Array, kept: Kept) -> None:
    """error * a (a - 1), the derivative by -z; a is used up."""
    plan.call(np.multiply, error, a, error)
    plan.call(np.subtract, a, plan.constant(1), a)
    plan.call(np.multiply, error, a, error)


def _tanh(plan: Plan, z: Array, kept: Kept) -> None:
    plan.call(np.tanh, z, z)


def _tanh_error(plan: Plan, error: Array, a: Array, kept: Kept) -> None:
    """error * (1 - a^2); a is used up."""
    plan.call(np.multiply, a, a, a)
    plan.call(np.subtract, plan.constant(1), a, a)
    plan.call(np.multiply, error, a, error)


def _relu(plan: Plan, z: Array, kept: Kept) -> None:
    plan.call(np.maximum, z, plan.constant(0), out=z)


def _relu_error(plan: Plan, error: Array, a: Array, kept: Kept) -> None:
    mask = plan.scratch(a, "bool")
    plan.call(np.greater, a, plan.constant(0), mask)
    plan.call(np.multiply, error, mask, error)


def _leaky_relu(plan: Plan, z: Array, kept: Kept) -> None:
    """max(z, slope z); its derivative is max(1[z > 0], slope)."""
    slope = plan.constant(LEAKY_RELU_SLOPE)
    mask = plan.scratch(z, "bool")
    plan.call(np.greater, z, plan.constant(0), mask)
    plan.call(np.maximum, mask, slope, out=kept)
    plan.call(np.multiply, z, kept, z)


def _elu(plan: Plan, z: Array, kept: Kept) -> None:
    """max(z, 0) + (e^min(z, 0) - 1); its derivative is e^min(z, 0)."""
    low = plan.scratch(z)
    plan.call(np.minimum, z, plan.constant(0), out=low)
    plan.call(np.exp, low, kept)
    plan.call(np.expm1, low, low)
    plan.call(np.maximum, z, plan.constant(0), out=z)
    plan.call(np.add, z, low, z)


def _softplus(plan: Plan, z: Array, kept: Kept) -> None:
    """max(z, 0) + log(1 + e^-|z|), for np.logaddexp takes 80 times as long; f' is the sigmoid."""
    plan.call(np.negative, z, kept)
    _sigmoid(plan, kept, None)
    tail = plan.scratch(z)
    plan.call(np.abs, z, tail)
    plan.call(np.negative, tail, tail)
    plan.call(np.exp, tail, tail)
    plan.call(np.log1p, tail, tail)
    plan.call(np.maximum, z, plan.constant(0), out=z)
    plan.call(np.add, z, tail, z)


def _gelu(plan: Plan, z: Array, kept: Kept) -> None:
    """z times the normal distribution function; f' adds z times the density to that function."""
    from scipy.special import ndtr  # here, so that only networks with gelu need SciPy's time

    density = plan.scratch(z)
    plan.call(np.multiply, z, z, density)
    plan.call(np.multiply, density, plan.constant(-0.5), density)
    plan.call(np.exp, density, density)
    plan.call(np.multiply, density, plan.constant((2 * np.pi) ** -0.5), density)
    plan.call(np.multiply, density, z, density)
    plan.call(ndtr, z, kept)
    plan.call(np.multiply, z, kept, z)
    plan.call(np.add, kept, density, kept)


def _silu(plan: Plan, z: Array, kept: Kept) -> None:
    """a = z s with the sigmoid s; f' = s + a (1 - s)."""
    plan.call(np.negative, z, kept)
    _sigmoid(plan, kept, None)
    plan.call(np.multiply, z, kept, z)
    rest = plan.scratch(z)
    plan.call(np.subtract, plan.constant(1), kept, rest)
    plan.call(np.multiply, rest, z, rest)
    plan.call(np.add, kept, rest, kept)


def _times_kept(plan: Plan, error: Array, a: Array, kept: Kept) -> None:
    """error * f'(z), kept from the forward pass."""
    plan.call(np.multiply, error, kept, error)


def _sum_of_units(plan: Plan, units: Array, total: Any) -> None:
    """Add up the rows of (n, m) into (m,): a product with ones, four times as fast as np.sum."""
    plan.call(np.ones(len(units), plan.dtype).dot, units, total)


def _softmax(plan: Plan, z: Array, kept: Kept) -> None:
    """e^(z - max z) over its sum.

    A unit is a row, so that the largest is found across rows, entry by entry in vector registers:
    1.0 us for 10 x 64, where the same along rows of 10 takes 3.5.
    """
    largest, total = plan.empty(2, z.shape[1])
    plan.call(np.maximum.reduce, z, 0, None, largest)
    plan.call(np.subtract, z, largest, z)
    plan.call(np.exp, z, z)
    _sum_of_units(plan, z, total)
    plan.call(np.divide, z, total, z)


def _softmax_error(plan: Plan, error: Array, a: Array, kept: Kept) -> None:
    """a * (error - sum(error * a)), the product with the whole Jacobian."""
    product, total = plan.scratch(a), plan.empty(a.shape[1])
    plan.call(np.multiply, error, a, product)
    _sum_of_units(plan, product, total)
    plan.call(np.subtract, error, total, error)
    plan.call(np.multiply, error, a, error)


ACTIVATIONS = {
    "identity": Activation(_nothing, _nothing),
    "sigmoid": Activation(_sigmoid, _sigmoid_error, sign=-1),
    "tanh": Activation(_tanh, _tanh_error),
    "relu": Activation(_relu, _relu_error),
    "leaky_relu": Activation(_leaky_relu, _times_kept, keeps=True),
    "elu": Activation(_elu, _times_kept, keeps=True),
    "softplus": Activation(_softplus, _times_kept, keeps=True),
    "gelu": Activation(_gelu, _times_kept, keeps=True),
    "silu": Activation(_silu, _times_kept, keeps=True),
    "softmax": Activation(_softmax, _softmax_error),
}


def with_shared_slopes(units: Array, slopes: Array) -> tuple[Activation, Activation]:
    """Sigmoids for the hidden layers and for the last, whose derivatives are computed at once.

    For the tiniest networks, where two calls of 0.2 us less for each layer but one are a tenth of
    a step.

    Args:
        units: (n,), a of all layers, one after the other.
        slopes: (n,), which the last layer's forward pass fills with a (a - 1) of all layers; what
            ``kept`` of each layer must be a part of.
    """

    def last(plan: Plan, z: Array, kept: Kept) -> None:
        _sigmoid(plan, z, kept)
        plan.call(np.subtract, units, plan.constant(1), slopes)
        plan.call(np.multiply, slopes, units, slopes)

    hidden = Activation(_sigmoid, _times_kept, keeps=True, sign=-1)
    return hidden, replace(hidden, forward=last)


# ── Losses: what a step computes of them, and what waits until many steps are over ─────────────

STEP_SLOTS = (
    "x", "columns", "columns_dot", "y", "scaled_y", "weight", "for_loss", "squares", "total",
    "penalty",
)  # fmt: skip
"""What differs from step to step: the batch, and what the loss will be computed from.

x (m, n_1), columns its transpose and columns_dot that one's method; y (n_L, m), scaled_y the same
times ``scale``, weight (m,) the sums of scaled_y over the outputs; for_loss (n_L, m), and squares,
which sums its squares; total (m,); penalty (), the sum of W^2.
"""


SAFE = 0.9
"""Up to this part of the largest exponent, 80 in float32, a softmax takes e^z as it is; the rest is
for sums and quotients."""


@dataclass(frozen=True)
class LastLayer:
    """What the error of the output is made from, and where it goes.

    Attributes:
        activation: f.
        z: (n_L, m), the array that holds z, or the slot for_loss.
        kept: (n_L, m), what f keeps.
        delta: (n_L, m), to be filled with ``scale`` times the derivative of the summed loss by z.
        scale: ().
        output: (n_L, m), to be filled with a[-1]; None where nobody wants it.
    """

    activation: Activation
    z: Any
    kept: Kept
    delta: Array
    scale: Array
    output: Array | None


@dataclass(frozen=True)
class Loss:
    """How one loss is planned.

    Attributes:
        error: (plan, last): from the last layer's z to its delta.
        of_logits: whether z is the slot for_loss, where the product puts it.
        total: (for_loss, total, y, sums, spare): the sum over the rows of a batch, for k steps at
            once; for_loss, y and spare are (k, n_L, m), total and the sums of y over the outputs
            (k, m); for_loss, total and spare may be overwritten.
    """

    error: Callable[[Plan, LastLayer], None]
    of_logits: bool
    total: Callable[[Array, Array, Array, Array, Array], Array]


def _squared_error(plan: Plan, last: LastLayer) -> None:
    """(a - y) * f'(z)."""
    last.activation.forward(plan, last.z, last.kept)
    if last.output is not None:
        plan.call(np.copyto, last.output, last.z)
    plan.call(np.subtract, last.z, "y", "for_loss")
    plan.call(np.multiply, "for_loss", last.scale, last.delta)
    last.activation.backward(plan, last.delta, last.z, last.kept)


def _squared_total(for_loss: Array, total: Array, y: Array, sums: Array, spare: Array) -> Array:
    return _dots(for_loss, for_loss) / 2


def _dots(left: Array, right: Array) -> Array:
    """The sum of products of each of k steps; a third of the time of * and np.sum."""
    k = len(left)
    return np.vecdot(left.reshape(k, -1), right.reshape(k, -1))


def _binary_error(plan: Plan, last: LastLayer) -> None:
    """y - a, the derivative by -z; the division that gives a applies ``scale`` as well."""
    delta = last.delta
    plan.call(np.exp, last.z, delta)
    plan.call(np.add, delta, plan.constant(1), delta)
    if last.output is not None:
        plan.call(np.reciprocal, delta, last.output)
    plan.call(np.divide, last.scale, delta, delta)
    plan.call(np.subtract, "scaled_y", delta, delta)


def _binary_total(negated: Array, total: Array, y: Array, sums: Array, spare: Array) -> Array:
    """max(z, 0) - z y + log(1 + e^-|z|), from -z."""
    np.abs(negated, spare)
    np.log1p(np.exp(np.negative(spare, spare), spare), spare)
    product = negated * y
    product -= np.minimum(negated, 0, out=negated)  # each by itself: both may be large, and equal
    return (spare + product).reshape(len(y), -1).sum(axis=1)


def _cross_entropy_error(plan: Plan, last: LastLayer) -> None:
    """a * sum(y) - y; where nobody wants a, one product applies the 1/sum of the softmax, sum(y)
    and ``scale``."""
    delta, factor = last.delta, plan.empty(last.delta.shape[1])
    plan.call(_shift(largest=factor, outputs=len(delta)), last.z, "squares")
    plan.call(np.exp, last.z, delta)
    _sum_of_units(plan, delta, "total")
    if last.output is None:
        plan.call(np.divide, "weight", "total", factor)
        plan.call(np.multiply, delta, factor, delta)
    else:
        plan.call(np.divide, delta, "total", last.output)
        plan.call(np.multiply, last.output, "weight", delta)
    plan.call(np.subtract, delta, "scaled_y", delta)


def _shift(largest: Array, outputs: int) -> Callable[[Array, Callable[[], float]], None]:
    """A function that takes the largest z of each sample off, where else e^z might overflow.

    To find and subtract it is half the cost of a small softmax (1.8 us for 10 x 64). No z is larger
    than the root of the sum of all z^2, and one product, 0.3 us, tells whether that is moderate.

    Args:
        largest: (m,), room.
        outputs: n_L; a single one is always shifted, which makes its loss exactly 0.
    """
    exponent = SAFE * float(np.log(np.finfo(largest.dtype).max))
    limit = exponent**2 if outputs > 1 else 0.0

    def shift(z: Array, squares: Callable[[], float]) -> None:
        if not squares() < limit:  # nan is none
            np.maximum.reduce(z, axis=0, out=largest)
            np.subtract(z, largest, z)

    return shift


def _cross_entropy_total(
    shifted: Array, total: Array, y: Array, sums: Array, spare: Array
) -> Array:
    """-sum y log a, where log a = z - log sum e^z, whatever both z were shifted by."""
    np.subtract(shifted, np.log(total, total)[:, None], shifted)  # first: log a may be tiny
    return -_dots(shifted, y)


LOSSES = {
    "half_squared_error": Loss(_squared_error, False, _squared_total),
    "binary_cross_entropy": Loss(_binary_error, True, _binary_total),
    "cross_entropy": Loss(_cross_entropy_error, True, _cross_entropy_total),
}
