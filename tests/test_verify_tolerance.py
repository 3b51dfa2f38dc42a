"""The tolerance: correct computations stay within it, and it is not wider than they need."""

from dataclasses import replace

import numpy as np
import pytest

import bpbench
from bpbench import MLP, Parameters, initial_parameters
from bpbench.activations import ACTIVATIONS, hidden_activations
from bpbench.losses import LOSSES
from bpbench.verify import runs, truth
from bpbench.verify.tolerance import distance, parts, tolerance

OUTPUTS = [(output, loss) for loss, row in LOSSES.items() for output in row.allowed]


def problem(network, dtype, seed=0, scheme="normal", rows=9, scale=1.0):
    rng = np.random.default_rng(seed)
    parameters = initial_parameters(network, seed, "normal" if scheme == "positive" else scheme)
    if scheme == "positive":
        parameters = Parameters(*(tuple(map(np.abs, v)) for v in (parameters.W, parameters.b)))
    y = rng.random((rows, network.sizes[-1]))
    y /= y.sum(axis=1, keepdims=True)
    x = scale * rng.standard_normal((rows, network.sizes[0]))
    return parameters.astype(dtype), x.astype(dtype), y.astype(dtype)


def sigmas_of(found, network, parameters, x, y, dtype, l2=0.0):
    """The largest error of each tensor in standard deviations of rounding."""
    allowed = tolerance(network, parameters, x, y, None, l2, dtype)
    found = dict(parts(found))
    return {
        place: float((distance(found[place], true) / allowed.sigma[place]).max())
        for place, true in parts(allowed.true)
    }


def by_loops(network, parameters, x, y, dtype):
    """Plain backpropagation whose products are summed term by term, as a loop would."""

    def one_by_one(A, B):
        total = np.zeros((A.shape[0], B.shape[1]), A.dtype)
        for k in range(A.shape[1]):
            total += A[:, k : k + 1] * B[k]
        return total

    before = truth.matmul
    truth.matmul = one_by_one
    try:
        W, b = list(parameters.W), list(parameters.b)
        with np.errstate(over="ignore"):  # e^-z in a sigmoid
            return truth.passes(network, W, b, x, y, None, 0.0, formulas=runs.plain)
    finally:
        truth.matmul = before


@pytest.mark.parametrize("hidden", hidden_activations())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_correct_backpropagation_stays_within_the_tolerance(hidden, dtype):
    for output, loss in OUTPUTS:
        for seed, scale in enumerate((1e-3, 1.0, 20.0)):
            network = MLP((7, 12, 9, 5), hidden=hidden, output=output, loss=loss, bias=seed != 1)
            given = problem(network, dtype, seed, scale=scale)
            model = bpbench.get_backend("numpy", dtype=dtype).model(network, given[0])
            found = model.backpropagate(*given[1:], l2=0.1)
            assert max(sigmas_of(found, network, *given, dtype, 0.1).values()) < 5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scheme", ["normal", "scaled_normal", "he", "positive"])
def test_sums_in_another_order_stay_within_the_tolerance(scheme, dtype):
    for sizes in ((1, 1), (300, 2), (60, 50, 40, 30, 20, 10), (3,) * 11):
        for hidden in ("sigmoid", "relu", "gelu"):
            network = MLP(sizes, hidden=hidden)
            given = problem(network, dtype, scheme=scheme, rows=33)
            found = by_loops(network, *given, dtype)
            assert max(sigmas_of(found, network, *given, dtype).values()) < 6


def test_formulas_that_cancel_stay_within_the_tolerance():
    # 1 - tanh(9)^2 in float32 is 0 or 1.2e-7 where the truth is 6.1e-8.
    for hidden in ("sigmoid", "tanh", "elu", "softplus", "gelu", "silu"):
        network = MLP((1, 3, 2), hidden=hidden, output="identity")
        parameters = Parameters(W=(np.ones((3, 1)), np.ones((2, 3))), b=(np.zeros(3), np.zeros(2)))
        parameters = parameters.astype("float32")
        for z in (-30, -9, -4, -1e-3, 1e-3, 4, 9, 16, 30):
            x, y = np.full((1, 1), z, "float32"), np.zeros((1, 2), "float32")
            found = truth.passes(
                network, parameters.W, parameters.b, x, y, None, 0.0, formulas=runs.plain
            )
            assert max(sigmas_of(found, network, parameters, x, y, "float32").values()) < 4


def test_the_tolerance_is_no_wider_than_rounding_needs():
    # Rounding uses between a fiftieth and one standard deviation of it, at the median.
    for loss, output in (("half_squared_error", "sigmoid"), ("cross_entropy", "softmax")):
        network = MLP((40, 30, 20, 10), hidden="tanh", output=output, loss=loss)
        given = problem(network, "float32", scheme="scaled_normal", rows=20)
        found = by_loops(network, *given, "float32")
        allowed = tolerance(network, *given, None, 0.0, "float32")
        true = dict(parts(allowed.true))
        for place, value in parts(found):
            if place[0] in ("dW", "db", "z", "delta"):
                ratio = np.median(distance(value, true[place]) / allowed.sigma[place])
                assert 0.02 < ratio < 1, place


def test_standard_deviations_go_with_the_unit_roundoff():
    network = MLP((6, 5, 4), hidden="silu", output="softmax", loss="cross_entropy")
    parameters, x, y = problem(network, "float32")
    short, long = (
        tolerance(network, parameters, x, y, None, 0.1, dtype).sigma
        for dtype in ("float32", "float64")
    )
    assert short.keys() == long.keys()
    for place, value in short.items():
        assert np.shape(value) == np.shape(long[place])
        assert np.median(value / long[place]) == pytest.approx(2.0**29, rel=3)


def test_standard_deviations_of_a_cotangent_have_no_loss():
    network = MLP((3, 4, 2), bias=False)
    parameters, x, c = problem(network, "float64")
    found = tolerance(network, parameters, x, None, c, 0.0, "float64").sigma
    assert ("loss", None) not in found
    assert ("db", 0) not in found
    assert all((found["dW", layer] > 0).all() for layer in range(2))


def test_runs_of_our_own_that_stray_further_widen_the_tolerance(monkeypatch):
    network = MLP((6, 5, 4), hidden="sigmoid")
    given = problem(network, "float32")
    before = tolerance(network, *given, None, 0.0, "float32")
    assert max(before.correlation.values()) < 2
    row = ACTIVATIONS["sigmoid"]
    off = lambda z: tuple(v * np.float32(1 + 1e-4) for v in row.careful(z))  # noqa: E731
    monkeypatch.setitem(ACTIVATIONS, "sigmoid", replace(row, plain=off))
    after = tolerance(network, *given, None, 0.0, "float32")
    assert after.correlation["z", 0] < 2
    assert after.correlation["a", 0] > 50
    ratio = after.sigma["a", 0] / before.sigma["a", 0]
    widened = after.correlation["a", 0] / before.correlation["a", 0]
    assert ratio == pytest.approx(np.full(ratio.shape, widened))


@pytest.mark.parametrize("name", [name for name in hidden_activations() if name != "identity"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_activation_alone_needs_no_widening(name, dtype):
    # Were the variance too small at any z (saturated, tiny), our own runs would exceed it there.
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.standard_normal(500) * scale for scale in (1e-3, 1, 8, 60)])
    network = MLP((1, 1), output=name, bias=False)
    parameters = Parameters(W=([[1.0]],)).astype(dtype)
    x, c = z[:, None].astype(dtype), np.ones((len(z), 1), dtype)
    allowed = tolerance(network, parameters, x, None, c, 0.0, dtype)
    assert max(allowed.correlation.values()) < 2
    assert 12 * (allowed.sigma["a", 0] / np.abs(z)[:, None]).min() < 1e-5


def test_gradients_that_underflow_stay_within_the_tolerance():
    # A cotangent of 1e-35 takes deltas below float32's smallest normal number, 1.2e-38.
    network = MLP((4, 6, 3), hidden="sigmoid", output="sigmoid")
    parameters, x, c = problem(network, "float32", scale=10)
    c = (c * 1e-35).astype("float32")
    allowed = tolerance(network, parameters, x, None, c, 0.0, "float32")
    for flush in (False, True):
        found = truth.passes(network, parameters.W, parameters.b, x, None, c, 0.0)
        for place, value in parts(found):
            kept = np.where(abs(value) < np.finfo("float32").tiny, 0, value) if flush else value
            error = distance(kept, dict(parts(allowed.true))[place])
            assert (error <= 8 * allowed.sigma[place]).all(), place


def test_units_near_a_corner_are_found_and_exact_zeros_are_not():
    network = MLP((2, 3, 1), hidden="relu", output="identity")
    W = np.array([[1.0, 1.0], [1.0, -1.0], [0.0, 0.0]], "float32")
    third = np.float32(1 / 3)
    b = np.array([-2 * third, 0.5, 0], "float32")
    parameters = Parameters(W=(W, np.ones((1, 3), "float32")), b=(b, np.zeros(1, "float32")))
    x, y = np.array([[third, third]], "float32"), np.zeros((1, 1), "float32")
    allowed = tolerance(network, parameters, x, y, None, 0.0, "float32")
    assert allowed.near_corners(allowed.sigma)[0].tolist() == [[True, False, False]]
    assert not allowed.near_corners(allowed.sigma)[1].any()
