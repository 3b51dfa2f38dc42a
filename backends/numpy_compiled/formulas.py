"""What are the formulas of activations, for vectors of LLVM's? Nothing here knows of memory.

Their arguments and results are instructions of the program that is being compiled: see
vectors.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bpbench.backends.numpy_compiled.vectors import INT32, Vector, call
from bpbench.network import LEAKY_RELU_SLOPE

# ── Exponential and logarithm, within about one unit of the last place ─────────────────────────


def _series(x: Vector, coefficients: list[float]) -> Vector:
    """c[0] + c[1] x + c[2] x^2 + ..."""
    total = x.like(x.operand(coefficients[-1]))
    for coefficient in reversed(coefficients[:-1]):
        total = total.times_plus(x, coefficient)
    return total


def _reduced_exp(x: Vector) -> tuple[Vector, Any]:
    """e^r - 1 and k, whole numbers, where x = k ln 2 + r and |r| <= ln(2) / 2.

    A number as large as 1.5 * 2^fraction has no room for fractions: what is added to it is
    rounded, and its last bits are k. No conversion is needed, which nan would make undefined.
    """
    kind = x.kind
    large = 1.5 * 2.0**kind.fraction
    rounded = x.times_plus(1 / math.log(2), large)
    k = x.builder.sub(rounded.as_integers(), x.like(x.operand(large)).as_integers())
    whole = rounded - large
    high, low = kind.ln2
    r = whole.times_plus(-low, whole.times_plus(-high, x))
    tail = _series(r, [1 / math.factorial(n) for n in range(2, kind.exp_terms + 1)])
    return (r * r).times_plus(tail, r), k


def _power_of_two(x: Vector, k: Any) -> Vector:
    """2^k, for exponents of normal numbers."""
    biased = x.builder.add(k, x.integer(x.kind.bias))
    return x.from_integers(x.builder.shl(biased, x.integer(x.kind.fraction)))


def exp(x: Vector) -> Vector:
    """e^x; 0 and infinity where it ends, subnormal numbers before, nan of nan."""
    low, high = x.kind.exponents
    part, k = _reduced_exp(x.at_least(low).at_most(high))
    half = x.builder.ashr(k, x.integer(1))  # in two factors, because 2^k itself may not exist
    one, other = (_power_of_two(x, n) for n in (half, x.builder.sub(k, half)))
    return part.times_plus(one, one) * other


def expm1(x: Vector) -> Vector:
    """e^x - 1 without the cancellation near 0, for x below 80."""
    part, k = _reduced_exp(x.at_least(-80.0).at_most(80.0))
    scale = _power_of_two(x, k)
    return part.times_plus(scale, scale - 1.0)


def log1p(x: Vector) -> Vector:
    """log(1 + x) for x from 0 to 1: 2 artanh(x / (2 + x))."""
    return _twice_artanh(x, x + 2.0)


def _twice_artanh(above: Vector, below: Vector) -> Vector:
    w = above / below
    terms = [2 / (2 * n + 1) for n in range(1, above.kind.log_terms + 1)]
    square = w * w
    return (w * square).times_plus(_series(square, terms), w + w)


def log(x: Vector) -> Vector:
    """log x for normal numbers above 0; infinity and nan stay what they are."""
    kind, builder = x.kind, x.builder
    bits = x.as_integers()
    # the exponent of x times sqrt(2), so that the fraction lies from sqrt(1/2) to sqrt(2)
    root = x.like(x.operand(math.sqrt(0.5))).as_integers()
    k = builder.ashr(builder.sub(bits, root), x.integer(kind.fraction))
    fraction = x.from_integers(builder.sub(bits, builder.shl(k, x.integer(kind.fraction))))
    whole = x.like(builder.sitofp(k, x.type))
    high, low = kind.ln2
    near = _twice_artanh(fraction - 1.0, fraction + 1.0)
    found = whole.times_plus(high, whole.times_plus(low, near))
    return found.where(x.below(math.inf), x)


# ── Activations ────────────────────────────────────────────────────────────────────────────────


def sigmoid(z: Vector) -> Vector:
    """1 / (1 + e^-z); e^-z may overflow to infinity, which rightly gives 0."""
    return 1.0 / (exp(-z) + 1.0)


def tanh(z: Vector) -> Vector:
    """t / (t + 2) where t = e^(2 |z|) - 1; it is 1 from 20 on."""
    t = expm1(z.magnitude().at_most(20.0) * 2.0)
    return (t / (t + 2.0)).with_sign_of(z)


def softplus(z: Vector) -> Vector:
    """log(1 + e^z)."""
    return z.at_least(0.0) + log1p(exp(-z.magnitude()))


def gaussian_cdf(z: Vector) -> Vector:
    """erfc(-z / sqrt(2)) / 2, by the C library, lane for lane."""
    builder, kind = z.builder, z.kind
    name = "erfcf" if kind.bits == 32 else "erfc"
    scaled, found = (z * -math.sqrt(0.5)).value, z.value
    for lane in range(kind.lanes):
        number = call(builder, name, [], kind.type, [builder.extract_element(scaled, INT32(lane))])
        found = builder.insert_element(found, number, INT32(lane))
    return z.like(found) * 0.5


@dataclass(frozen=True)
class Activation:
    """One activation and its derivative, entry by entry.

    Attributes:
        forward: of z: a, and what ``backward`` needs beside it, or None.
        backward: (error, a, kept): dL/dz of dL/da.
        keeps: whether ``backward`` needs more than a.
    """

    forward: Callable[[Vector], tuple[Vector, Vector | None]]
    backward: Callable[[Vector, Vector, Vector], Vector]
    keeps: bool = False


def _elu(z: Vector) -> tuple[Vector, Vector]:
    """z above 0, e^z - 1 elsewhere; its derivative is e^min(z, 0)."""
    low = z.at_most(0.0)
    return z.where(z.above(0.0), expm1(low)), exp(low)


def _gelu(z: Vector) -> tuple[Vector, Vector]:
    """z times the normal distribution function; f' adds z times the density to that function."""
    cdf = gaussian_cdf(z)
    density = exp(z * z * -0.5) * (2 * math.pi) ** -0.5
    return z * cdf, z.times_plus(density, cdf)


def _silu(z: Vector) -> tuple[Vector, Vector]:
    """a = z s with the sigmoid s; its derivative is s + a (1 - s)."""
    s = sigmoid(z)
    a = z * s
    return a, a.times_plus(1.0 - s, s)


def _leaky_relu(z: Vector) -> tuple[Vector, None]:
    return z.where(z.above(0.0), z * LEAKY_RELU_SLOPE), None


def _times_kept(error: Vector, a: Vector, kept: Vector) -> Vector:
    """error * f'(z), kept from the forward pass."""
    return error * kept


ACTIVATIONS = {
    "identity": Activation(lambda z: (z, None), lambda error, a, kept: error),
    "sigmoid": Activation(
        lambda z: (sigmoid(z), None), lambda error, a, kept: error * (a * (1.0 - a))
    ),
    "tanh": Activation(lambda z: (tanh(z), None), lambda error, a, kept: error * (1.0 - a * a)),
    "relu": Activation(
        lambda z: (z.at_least(0.0), None),
        lambda error, a, kept: error * a.like(a.operand(1.0)).where(a.above(0.0), 0.0),
    ),
    "leaky_relu": Activation(  # a has the sign of z
        _leaky_relu,
        lambda error, a, kept: error * a.like(a.operand(1.0)).where(a.above(0.0), LEAKY_RELU_SLOPE),
    ),
    "elu": Activation(_elu, _times_kept, keeps=True),
    "softplus": Activation(lambda z: (softplus(z), sigmoid(z)), _times_kept, keeps=True),
    "gelu": Activation(_gelu, _times_kept, keeps=True),
    "silu": Activation(_silu, _times_kept, keeps=True),
}
"""All but softmax, which mixes entries; the order gives each its number in a compiled step."""
