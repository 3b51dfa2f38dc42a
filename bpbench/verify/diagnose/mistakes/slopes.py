"""What may stand in the place of f'(z)? The derivatives that people write for another's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from bpbench.network import LEAKY_RELU_SLOPE, Array
from bpbench.verify.diagnose.functions import FUNCTIONS, OF_OUTPUT
from bpbench.verify.diagnose.mistakes.context import Context, applied, slope_of, taken
from bpbench.verify.diagnose.mistakes.row import Row, kind

OUTPUT_MISSING = kind("output f' missing", "multiply dL/da by f'(z) of the output layer")
MISSING = kind("hidden f' missing", "multiply by f'(z) of this layer")
DIAGONAL = kind(
    "diagonal of the softmax Jacobian only",
    "the off-diagonal terms -a_i a_j are missing; with cross-entropy delta is a - y",
)
F = kind("f for f'", "use the derivative, not the function")
SIDES = kind("z >= 0", "the convention of all frameworks is f'(0) = 0: use z > 0")
MASK = kind("ReLU mask from the wrong place", "mask with the layer's own z")
NO_MASK = kind("mask of f' missing", "f' is 1 where z is above 0")
PRODUCT = kind("product rule: a term of f' missing", "f is a product: (u v)' = u' v + u v'")
UNBRACKETED = kind("parentheses missing in f'", "put f' in parentheses")
SWAPPED = kind("a for z, or z for a, in f'", "check which of the two each factor of f' wants")
AT_ERROR = kind("f' at the error", "f' wants z, and multiplies the error")
WRONG = kind("wrong derivative", "check the formula of f'")
NEIGHBOUR = kind("f' of another layer", "use this layer's own z")
ANOTHER = kind("f' of another activation", "use the derivative of the layer's own activation")


def _errors(c: Context) -> tuple[Array, ...]:
    """After the division by m, or before it; a - y, or y - a."""
    return c.back, c.m * c.back, -c.back, -c.m * c.back


mask, rectifier = taken("relu", "leaky_relu", "elu"), taken("relu", "leaky_relu")
SLOPES = (
    Row(OUTPUT_MISSING, "f'(z) is missing", lambda c: np.ones_like(c.z), lambda c: c.last),
    Row(MISSING, "f'(z) is missing", lambda c: np.ones_like(c.z), lambda c: not c.last),
    Row(kind("f'(a)", "the derivative wants z; it got a"), "f' is given a, not z", lambda c: c.f_prime(c.a)),
    Row(kind("z(1-z), 1-z^2", "the formula wants a; it got z"), "the formula of f' that wants a is given z",
        lambda c: c.of_output(c.z), lambda c: c.name in OF_OUTPUT),
    Row(kind("f' twice", "multiply by f'(z) once"), "f' is multiplied twice", lambda c: c.slope**2),
    Row(F, "f(z) stands in the place of f'(z)", lambda c: c.a),
    Row(kind("f f' for f'", "multiply by f'(z) alone, not by f(z) too"),
        "f(z) f'(z) stands in the place of f'(z)", lambda c: c.a * c.slope),
    Row(kind("z for f'", "multiply by f'(z), not by z"), "z stands in the place of f'(z)", lambda c: c.z),
    Row(kind("1/f' for f'", "multiply by f'(z), do not divide by it"),
        "the error is divided by f'(z)", lambda c: 1 / c.slope, lambda c: c.slope.all()),
    Row(kind("root of f'", "multiply by f'(z) itself, not by its root"), "the root of f'(z) is taken", lambda c: np.sqrt(np.abs(c.slope)),
        lambda c: not rectifier(c)),  # there it would be another slope
    Row(SIDES, "f' is 1 where z is exactly 0", lambda c: np.where(c.z >= 0, 1, c.leak), rectifier),
    Row(SIDES, "f' is halfway between both sides where z is exactly 0",
        lambda c: np.where(c.z > 0, 1, np.where(c.z == 0, (1 + c.leak) / 2, c.leak)), rectifier),
    Row(SIDES, "f' is 0 where z is exactly 0", lambda c: np.where(c.z == 0, 0, np.where(c.z > 0, 1, LEAKY_RELU_SLOPE)),
        taken("leaky_relu")),
    Row(kind("ReLU mask inverted", "f' is 1 where z is above 0"), "the mask is 1 where z < 0", lambda c: 1.0 * (c.z < 0), mask),
    Row(MASK, "the mask is that of the error c > 0", lambda c: np.where(c.back > 0, 1, c.leak), mask),
    Row(MASK, "the mask is that of the layer's input, a_{{l-1}} > 0", lambda c: np.where(c.input > 0, 1, c.leak),
        lambda c: mask(c) and c.input.shape == c.back.shape),
    Row(kind("f' at -z", "take f' at z, not at -z"), "f' is taken at -z", lambda c: c.f_prime(-c.z)),
    Row(kind("f' at the mean of z", "take f' at each sample's own z"), "f' is taken at the mean of z over the samples",
        lambda c: c.f_prime(c.z.mean(axis=0) + 0 * c.z), lambda c: c.m > 1),
    Row(kind("straight-through estimate of f'", "use the derivative of the layer's activation"),
        "f' is 1 where |z| is below 1, and 0 elsewhere", lambda c: 1.0 * (np.abs(c.z) <= 1)),
    Row(PRODUCT, "f' is s(z), without z s'(z)", lambda c: applied("sigmoid", c.z), taken("silu")),
    Row(PRODUCT, "f' is z s'(z), without s(z)", lambda c: c.z * slope_of("sigmoid", c.z), taken("silu")),
    Row(UNBRACKETED, "f' is 1 + e^-z + z e^-z / (1 + e^-z)^2, whose first terms lack the denominator",
        lambda c: 1 + np.exp(-c.z) + c.z * slope_of("sigmoid", c.z), taken("silu")),
    Row(SWAPPED, "f' is s(z) + a s'(z), not s(z) + z s'(z)",
        lambda c: applied("sigmoid", c.z) + c.a * slope_of("sigmoid", c.z), taken("silu")),
    Row(SWAPPED, "f' is z + s(z) (1 - z), not a + s(z) (1 - a)", lambda c: c.z + applied("sigmoid", c.z) * (1 - c.z), taken("silu")),
    Row(PRODUCT, "f' is the distribution function, without z times its density", lambda c: c.over_z, taken("gelu")),
    Row(PRODUCT, "f' is z times the density, without the distribution function", lambda c: slope_of("gelu", c.z) - c.over_z, taken("gelu")),
    Row(NO_MASK, "f' is e^z also above 0", lambda c: np.exp(np.minimum(c.z, 50)), taken("elu")),
    Row(NO_MASK, "f' is a + 1 also above 0", lambda c: c.a + 1, taken("elu")),
    Row(kind("f(z)/z for f'", "use the derivative: f(z) over z is another thing"),
        "f(z)/z stands in the place of f'(z)", lambda c: c.over_z),
    Row(AT_ERROR, "f' is taken at the error", lambda c, e: c.f_prime(e), each=_errors),
    Row(AT_ERROR, "the formula of f' is given the error", lambda c, e: c.of_output(e), lambda c: c.name in OF_OUTPUT, _errors),
    Row(AT_ERROR, "1 - the error stands for a (1 - a)", lambda c, e: 1 - e, taken("sigmoid"), _errors),
    Row(WRONG, "f' is s(z) s(1 - z), not s(z) (1 - s(z))", lambda c: c.a * applied("sigmoid", 1 - c.z), taken("sigmoid")),
    Row(kind("f' without the bias", "take f' at z, which has b in it"),
        "f' is taken at W a, without b", lambda c: c.f_prime(c.z - c.b), lambda c: c.biased),
)  # fmt: skip
"""In the place of f'(z), (m, n_l), of a function that works entry by entry."""

OF_SOFTMAX = (
    Row(OUTPUT_MISSING, "the softmax's Jacobian is missing", lambda c: np.ones_like(c.z)),
    Row(DIAGONAL, "only the diagonal a(1-a) of the softmax's Jacobian is used", lambda c: c.a * (1 - c.a)),
    Row(F, "a stands in the place of f'", lambda c: c.a),
)  # fmt: skip
"""In the place of the softmax's Jacobian, (m, n_L)."""


def _neighbours(c: Context) -> Iterator[tuple[int, str]]:
    """Other layers whose z fits this one, and the functions whose f' may be taken there."""
    names = c.reading.functions
    for other, z in enumerate(c.reading.z):
        if other != c.layer and z.shape[1] in (c.n, 1):
            for name in dict.fromkeys((c.name, names[other])):
                if name in FUNCTIONS and FUNCTIONS[name](z)[1] is not None:
                    yield other, name


def _names(functions: Iterable[str]) -> Callable[[Context], Iterable[str]]:
    return lambda c: [n for n in functions if n not in (c.name, "identity", "softmax")]


OF_OTHERS = (
    Row(NEIGHBOUR, "f' is taken at z[{v[0]}], not at z[{c.layer}]",
        lambda c, v: np.broadcast_to(slope_of(v[1], c.reading.z[v[0]]), c.z.shape), each=_neighbours),
    Row(ANOTHER, "f' is that of {v}", lambda c, v: slope_of(v, c.z), each=_names(FUNCTIONS)),
    Row(ANOTHER, "f' is that of {v}, taken at a", lambda c, v: slope_of(v, c.a), each=_names(FUNCTIONS)),
    Row(ANOTHER, "f' is {v}'s formula of a", lambda c, v: OF_OUTPUT[v](c.a), each=_names(OF_OUTPUT)),
    Row(ANOTHER, "f' is {v}'s formula of a, given z", lambda c, v: OF_OUTPUT[v](c.z), each=_names(OF_OUTPUT)),
)  # fmt: skip
"""In the place of f'(z), that of another layer or of another activation."""
