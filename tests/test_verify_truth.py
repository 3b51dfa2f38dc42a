"""The truth that judges, itself held to account without any backpropagation."""

import itertools
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy.special import erf

from bpbench import MLP, SGD, Adam, Parameters, RMSProp, initial_parameters
from bpbench.activations import ACTIVATIONS, hidden_activations
from bpbench.arithmetic import extended
from bpbench.arithmetic.doubledouble import DoubleDouble
from bpbench.losses import LOSSES
from bpbench.verify import truth
from bpbench.verify.tolerance import parts

OUTPUTS = [(output, loss) for loss, row in LOSSES.items() for output in row.allowed]
CORNERED = ("relu", "leaky_relu")


# ── Against differences of an independent forward pass ─────────────────────────────────────────


def complex_activation(name, z):
    """f(z) of a complex array, by the textbook formula."""
    if name == "softmax":
        e = np.exp(z - z.real.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    above = z.real > 0
    return {
        "identity": lambda: z,
        "sigmoid": lambda: 1 / (1 + np.exp(-z)),
        "tanh": lambda: np.tanh(z),
        "relu": lambda: np.where(above, z, 0),
        "leaky_relu": lambda: np.where(above, z, 0.01 * z),
        "elu": lambda: np.where(above, z, np.exp(z) - 1),
        "softplus": lambda: np.log(1 + np.exp(z)),
        "gelu": lambda: z * (1 + erf(z / np.sqrt(2))) / 2,
        "silu": lambda: z / (1 + np.exp(-z)),
    }[name]()


def complex_loss(network, W, b, x, y, l2=0.0, cotangent=None):
    """The mean loss, from probabilities, as equation (5) writes it."""
    a = x
    for layer, name in enumerate(network.activations):
        a = complex_activation(name, a @ W[layer].T + (b[layer] if b else 0))
    if cotangent is not None:
        return (cotangent * a).sum()
    if network.loss == "half_squared_error":
        total = ((a - y) ** 2).sum() / 2
    elif network.loss == "cross_entropy":
        total = -(y * np.log(a)).sum()
    elif network.loss == "binary_cross_entropy":
        total = -(y * np.log(a) + (1 - y) * np.log(1 - a)).sum()
    else:
        raise NotImplementedError(f"write {network.loss} here, independently of its row")
    return total / len(x) + 0.5 * l2 * sum((w**2).sum() for w in W)


def problem(hidden, output="sigmoid", loss="half_squared_error", bias=True, seed=1):
    rng = np.random.default_rng(seed)
    network = MLP((4, 5, 3), hidden=hidden, output=output, loss=loss, bias=bias)
    parameters = initial_parameters(network, seed, "normal")
    x, y = rng.standard_normal((6, 4)), rng.random((6, 3))
    return network, parameters, x, y / y.sum(axis=1, keepdims=True)


def assert_complex_step_agrees(network, parameters, x, y, **more):
    """d loss along a random direction: by one complex step of 1e-30, and by the gradients."""
    rng = np.random.default_rng(5)
    arrays = [*parameters.W, *parameters.b, x]
    along = [rng.standard_normal(array.shape) for array in arrays]
    moved = [array + 1e-30j * d for array, d in zip(arrays, along, strict=True)]
    W, b = moved[: network.layers], moved[network.layers : -1]
    step = complex_loss(network, W, b, moved[-1], y, **more).imag / 1e-30
    given = None if "cotangent" in more else y
    found = truth.backpropagate(network, parameters, x, given, **more, dtype="float64")
    gradients = (*found.gradients.W, *found.gradients.b, found.input_gradient)
    backwards = [(g * d).sum() for g, d in zip(gradients, along, strict=True)]
    assert sum(backwards) == pytest.approx(step, rel=2e-13, abs=1e-14 * np.abs(backwards).sum())


@pytest.mark.parametrize("hidden", hidden_activations())
@pytest.mark.parametrize(("output", "loss"), OUTPUTS)
def test_the_gradients_are_those_of_a_complex_step(hidden, output, loss):
    assert_complex_step_agrees(*problem(hidden, output, loss))


@pytest.mark.parametrize(("output", "loss"), [("softmax", "cross_entropy"), ("gelu", None)])
def test_l2_a_missing_bias_and_a_cotangent_are_those_of_a_complex_step(output, loss):
    for bias in (True, False):
        given = problem("tanh", output, loss or "half_squared_error", bias)
        assert_complex_step_agrees(*given, l2=0.3)
        assert_complex_step_agrees(*given, cotangent=np.linspace(-1, 2, 18).reshape(6, 3))


@pytest.mark.parametrize("hidden", hidden_activations())
@pytest.mark.parametrize(("output", "loss"), OUTPUTS)
def test_the_gradients_are_those_of_central_differences_in_extended_precision(hidden, output, loss):
    network, parameters, x, y = problem(hidden, output, loss, seed=3)
    found = truth.backpropagate(network, parameters, x, y, l2=0.1, dtype="longdouble")
    step = np.longdouble(1e-6)
    for layer, row in itertools.product(range(2), range(3)):
        losses = []
        for sign in (1, -1):
            W = [w.astype(np.longdouble) for w in parameters.W]
            W[layer][row, 1] += sign * step
            moved = Parameters(tuple(W), parameters.b)
            losses.append(
                truth.backpropagate(network, moved, x, y, l2=0.1, dtype="longdouble").loss
            )
        slope = float((losses[0] - losses[1]) / (2 * step))
        assert float(found.gradients.W[layer][row, 1]) == pytest.approx(slope, rel=1e-8, abs=1e-11)


@pytest.mark.parametrize(("output", "loss"), OUTPUTS)
def test_delta_is_the_derivative_by_z_of_the_loss(output, loss):
    # A bias moves every row's z; one row alone makes db the derivative by that row's z.
    network, parameters, x, y = problem("silu", output, loss)
    found = truth.backpropagate(network, parameters, x[:1], y[:1], dtype="float64")
    for layer in range(2):
        assert found.gradients.b[layer] == pytest.approx(found.delta[layer][0])


# ── Against 75 digits ──────────────────────────────────────────────────────────────────────────


def sigmoid(z):
    return 1 / (1 + mpmath.exp(-z))


def normal_cdf(z):
    return mpmath.erfc(-z / mpmath.sqrt(2)) / 2


def normal_density(z):
    return mpmath.exp(-z * z / 2) / mpmath.sqrt(2 * mpmath.pi)


EXACT = {
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "tanh": (mpmath.tanh, lambda z: mpmath.sech(z) ** 2),
    "elu": (lambda z: z if z > 0 else mpmath.expm1(z), lambda z: mpmath.exp(min(z, 0))),
    "softplus": (lambda z: mpmath.log1p(mpmath.exp(z)), sigmoid),
    "gelu": (lambda z: z * normal_cdf(z), lambda z: normal_cdf(z) + z * normal_density(z)),
    "silu": (lambda z: z * sigmoid(z), lambda z: sigmoid(z) * (1 + z * sigmoid(-z))),
}
HARD = [-80, -30.5, -9, -3.001, -3, -1.3, -0.4, -1e-9, 0, 1e-12, 0.7, 2.999, 3, 5.5, 17, 40, 90]


def digits(values):
    """An array of any precision as mpmath numbers, every bit of it."""
    if isinstance(values, DoubleDouble):
        pairs = zip(values.high.ravel(), values.low.ravel(), strict=True)
        return [mpmath.mpf(float(h)) + mpmath.mpf(float(low)) for h, low in pairs]
    heads = values.astype(np.float64)
    tails = (values - heads).astype(np.float64)
    pairs = zip(heads.ravel(), tails.ravel(), strict=True)
    return [mpmath.mpf(float(h)) + mpmath.mpf(float(tail)) for h, tail in pairs]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(
    ("dtype", "unit"),
    [("float64", 2.0**-53), ("longdouble", 2.0**-64), ("doubledouble", 2.0**-104)],
)
def test_activations_are_exact_where_naive_formulas_cancel(name, dtype, unit):
    if dtype == "longdouble" and dtype != extended.EXTENDED:
        unit = 2.0**-53
    # Relative to the value, but for gelu, whose cancellation near -3 is below any backend's.
    with mpmath.workprec(250):
        values = ACTIVATIONS[name].careful(extended.as_array(np.array(HARD, float), dtype))
        for found, exact in zip(values, EXACT[name], strict=True):
            for got, z in zip(digits(found), HARD, strict=True):
                right = exact(mpmath.mpf(z))
                size = max(abs(right), abs(z) + 1) if name == "gelu" else abs(right)
                assert abs(got - right) <= 40 * unit * size, (name, z)


def test_the_double_double_functions_are_exact_to_100_bits():
    rng = np.random.default_rng(0)
    z = DoubleDouble(np.concatenate([rng.standard_normal(40) * 30, rng.standard_normal(40) * 1e-4]))
    z = z / 3.0  # both halves in use
    functions = [
        (np.exp, mpmath.exp, z), (np.expm1, mpmath.expm1, z), (np.log1p, mpmath.log1p, abs(z)),
        (np.log, mpmath.log, abs(z)), (np.sqrt, mpmath.sqrt, abs(z)),
        (lambda v: 1.0 / v, lambda v: 1 / v, z), (lambda v: v * v - 2.0, lambda v: v * v - 2, z),
    ]  # fmt: skip
    with mpmath.workprec(300):
        for function, exact, arguments in functions:
            for got, v in zip(digits(function(arguments)), digits(arguments), strict=True):
                assert abs(got - exact(v)) <= 2.0**-100 * abs(exact(v))
        total = digits(z.sum(axis=0).high.reshape(1))[0] + digits(z.sum(axis=0).low.reshape(1))[0]
        assert abs(total - sum(digits(z))) < 2.0**-100 * sum(abs(v) for v in digits(z))


@pytest.mark.parametrize("terms", [1, 3, 784])
def test_products_of_slices_are_exact_to_the_extended_precision(terms):
    rng = np.random.default_rng(terms)
    A = rng.standard_normal((3, terms)) * np.exp(3 * rng.standard_normal((3, terms)))
    B = rng.standard_normal((terms, 4))
    short = extended._product_of_slices(A.astype(np.longdouble), B.astype(np.longdouble), 64)
    long = extended.matmul(DoubleDouble(A), DoubleDouble(B))
    for i, j in itertools.product(range(3), range(4)):
        products = [
            Fraction(float(p)) * Fraction(float(q)) for p, q in zip(A[i], B[:, j], strict=True)
        ]
        size = float(sum(abs(p) for p in products))
        got = Fraction(float(long.high[i, j])) + Fraction(float(long.low[i, j]))
        assert abs(float(got - sum(products))) <= 2.0**-100 * size
        rest = float(short[i, j] - np.longdouble(float(sum(products))))
        missing = float(sum(products) - Fraction(float(sum(products))))
        assert (
            abs(rest - missing) <= 2.0**-50 * 2.0 ** -min(extended.LONGDOUBLE_BITS - 52, 12) * size
        )


# ── The precisions agree ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("output", "loss"), OUTPUTS)
def test_extended_precision_and_its_stand_in_agree_with_float64(output, loss):
    for hidden in hidden_activations():
        given = problem(hidden, output, loss)
        double, long, fallback = (
            dict(parts(truth.backpropagate(*given, l2=0.1, dtype=dtype)))
            for dtype in ("float64", "longdouble", "doubledouble")
        )
        for place, value in double.items():
            size = np.abs(value).max()
            # some fifty roundings: a softmax errs by as many as its z is large
            assert np.abs((value - long[place]).astype(float)).max() <= 1e-14 * size
            both = fallback[place].high.astype(np.longdouble) + fallback[place].low
            off = np.abs(np.asarray(long[place] - both, float)).max()
            assert off <= (1e-17 if extended.EXTENDED == "longdouble" else 3e-15) * size


def test_the_precision_above_float64_is_more_than_float64():
    assert truth.precision_above("float32") == "float64"
    assert truth.precision_above("float64") == extended.EXTENDED
    third = extended.as_array(np.ones(1), extended.EXTENDED) / 3.0
    assert float((third * 3.0 - 1.0).astype(float)[0]) == 0
    assert float((third - 1 / 3).astype(float)[0]) != 0


# ── Training ───────────────────────────────────────────────────────────────────────────────────


def by_hand(optimizer, steps, w, x, y):
    """Training of the network a = w x on one sample, with plain numbers."""
    m = v = 0.0
    losses = []
    for t in range(1, steps + 1):
        losses.append((w * x - y) ** 2 / 2 + optimizer.l2 * w * w / 2)
        g = (w * x - y) * x + optimizer.l2 * w
        if isinstance(optimizer, SGD):
            v = optimizer.momentum * v + g
            change = g + optimizer.momentum * v if optimizer.nesterov else v
        elif isinstance(optimizer, RMSProp):
            v = optimizer.decay * v + (1 - optimizer.decay) * g**2
            change = g / (v**0.5 + optimizer.epsilon)
        else:
            m = optimizer.beta1 * m + (1 - optimizer.beta1) * g
            v = optimizer.beta2 * v + (1 - optimizer.beta2) * g**2
            mean, square = m / (1 - optimizer.beta1**t), v / (1 - optimizer.beta2**t)
            change = mean / (square**0.5 + optimizer.epsilon)
        w -= optimizer.learning_rate * change
    return losses, w


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.1), SGD(0.1, l2=0.5), SGD(0.1, momentum=0.9), SGD(0.1, momentum=0.9, nesterov=True),
        RMSProp(0.05, epsilon=0.1), Adam(0.05), Adam(0.05, l2=0.2, epsilon=0.3),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float64", "doubledouble"])
def test_training_follows_each_optimizers_formula(optimizer, dtype):
    network = MLP((1, 1), output="identity", bias=False)
    start = Parameters(W=([[0.7]],))
    order = np.zeros((9, 1), int)
    losses, final = truth.train(network, start, [[1.5]], [[-0.4]], order, optimizer, dtype=dtype)
    expected, w = by_hand(optimizer, 9, 0.7, 1.5, -0.4)
    assert losses == pytest.approx(expected, rel=1e-12)
    assert final.W[0][0, 0] == pytest.approx(w, rel=1e-12)
