"""Every backend and mode computes what the hand-written equations compute, and trains like them."""

import numpy as np
import pytest

import bpbench
from bpbench import MLP, SGD, Adam, Parameters, RMSProp, UsageError, initial_parameters
from bpbench.activations import hidden_activations
from bpbench.verify.verdict import judge

from .conftest import COMPILED

WIDE = [
    MLP((7, 5, 11, 3, 17, 6, 4), ("sigmoid", "tanh", "relu", "leaky_relu", "elu"),
        "softmax", "cross_entropy"),
    MLP((3, 9, 2, 13, 5, 2), ("softplus", "gelu", "silu", "identity"),
        "sigmoid", "binary_cross_entropy", bias=False),
]  # fmt: skip
"""Two networks that hold every hidden activation between them; enough where each compiles."""
NETWORKS = [
    *WIDE,
    MLP((300, 257, 3), "relu", "softmax"),
    MLP((1, 1, 1), "tanh"),
    *(MLP((4, 6, 3), "tanh", output) for output in hidden_activations()),
]
OPTIMIZERS = [
    SGD(0.3),
    SGD(0.1, l2=0.01, momentum=0.9),
    SGD(0.1, momentum=0.9, nesterov=True),
    RMSProp(0.01),
    Adam(0.01, l2=0.1),
]


def _problem(network, rng, rows):
    x = rng.standard_normal((rows, network.sizes[0]))
    y = rng.random((rows, network.sizes[-1]))
    return x, y / y.sum(axis=1, keepdims=True) if network.loss == "cross_entropy" else y


def _tensors(found):
    """Every array of a backpropagation by name."""
    return {
        f"{name}[{layer}]": array
        for name, arrays in {
            "z": found.z, "a": found.a, "delta": found.delta,
            "dW": found.gradients.W, "db": found.gradients.b, "dx": (found.input_gradient,),
        }.items()
        for layer, array in enumerate(arrays)
    }  # fmt: skip


def _assert_close(found, expected, relative):
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.shape == expected[name].shape, name
        scale = np.abs(expected[name]).max()
        assert np.abs(array - expected[name]).max() <= relative * scale + 1e-300, name


@pytest.mark.parametrize(("dtype", "relative"), [("float64", 1e-11), ("float32", 1e-3)])
def test_backpropagation_agrees_with_the_equations(spec, dtype, relative, rng):
    backend = bpbench.get_backend(spec, dtype=dtype)
    truth = bpbench.get_backend("numpy", dtype="float64")
    quick = spec in COMPILED and dtype == "float32"  # the same code: one pass is enough
    large = [] if spec == "jax:eager" else NETWORKS[2:3]  # it compiles no loops: scan's operations
    networks = NETWORKS if spec not in COMPILED else WIDE[1:] if quick else [*WIDE, *large]
    for index, network in enumerate(networks):
        parameters = initial_parameters(network, index, "scaled_normal").astype(dtype)
        x, y = _problem(network, rng, rows=(23, 40, 300, 1)[index % 4])
        x, y = x.astype(dtype), y.astype(dtype)
        x[1:2] = 0  # without biases it stays at 0: every derivative at exactly 0
        model, exact = backend.model(network, parameters), truth.model(network, parameters)
        for given in ({"y": y, "l2": 0.1}, {"cotangent": y - 0.5})[: 1 if quick else 2]:
            found, expected = model.backpropagate(x, **given), exact.backpropagate(x, **given)
            assert {array.dtype.name for array in _tensors(found).values()} == {dtype}
            _assert_close(_tensors(found), _tensors(expected), relative)
            assert (found.loss is None) == ("cotangent" in given)
            assert found.loss is None or found.loss == pytest.approx(expected.loss, rel=relative)
        _assert_close({"a": model.predict(x)}, {"a": exact.predict(x)}, relative)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_a_hundred_steps_lead_where_the_equations_lead(spec, optimizer, rng):
    network = MLP((5, 8, 3), "tanh", "softmax", "cross_entropy")
    parameters = initial_parameters(network, 1)
    x, y = _problem(network, rng, 40)
    order = rng.integers(0, 40, (100, 8))
    model = bpbench.get_backend(spec, dtype="float64").model(network, parameters)
    exact = bpbench.get_backend("numpy", dtype="float64").model(network, parameters)
    losses = model.train(x, y, order, optimizer)
    expected = exact.train(x, y, order, optimizer)
    assert losses.shape == (100,)
    _assert_close({"losses": losses}, {"losses": expected}, 1e-9)
    _assert_close(model.parameters().arrays, exact.parameters().arrays, 1e-9)


def test_k_steps_are_k_times_one_step_and_a_short_batch_goes_on_with_the_same_state(spec, rng):
    network = MLP((3, 4, 2), "relu", "sigmoid", "binary_cross_entropy")
    parameters = initial_parameters(network, 4, "he")
    x, y = _problem(network, rng, 10)
    order = rng.integers(0, 10, (6, 4))
    short = rng.integers(0, 10, (1, 3))
    backend = bpbench.get_backend(spec, dtype="float64")
    together, apart = backend.model(network, parameters), backend.model(network, parameters)
    optimizer = Adam(0.05)
    at_once = [together.train(x, y, order, optimizer), together.train(x, y, short, optimizer)]
    one_by_one = [apart.train(x, y, [rows], optimizer) for rows in order]
    one_by_one.append(apart.train(x, y, short, optimizer))
    assert np.concatenate(at_once) == pytest.approx(np.concatenate(one_by_one), rel=1e-12)
    _assert_close(together.parameters().arrays, apart.parameters().arrays, 1e-12)


def test_set_parameters_and_compile_start_again(spec, rng):
    network = MLP((3, 4, 1), "silu", "identity")
    parameters = initial_parameters(network, 4, "xavier")
    x, y = _problem(network, rng, 10)
    optimizer = RMSProp(0.05)
    model = bpbench.get_backend(spec, dtype="float64").model(network, parameters)
    batches = model.batches(model.load(x, y), rng.integers(0, 10, (5, 4)))
    model.compile(batches, optimizer)
    _assert_close(model.parameters().arrays, parameters.arrays, 0)
    first = model.download(model.run(batches, optimizer))
    model.synchronize()
    with pytest.raises(UsageError, match="has trained already"):
        model.compile(batches, optimizer)
    with pytest.raises(UsageError, match=r"trains by RMSProp.*set_parameters first"):
        model.run(batches, SGD(0.1))
    after = model.parameters()
    model.set_parameters(parameters)
    assert np.array_equal(model.download(model.run(batches, optimizer)), first)
    assert model.parameters().digest() == after.digest()


def test_nothing_that_is_handed_over_is_modified_or_kept(spec, rng):
    network = MLP((3, 4, 2))
    W = [rng.standard_normal((4, 3)), rng.standard_normal((2, 4))]
    b = [rng.standard_normal(4), rng.standard_normal(2)]
    parameters = Parameters(W, b)
    x, y = _problem(network, rng, 6)
    order = rng.integers(0, 6, (3, 2))
    before = [array.copy() for array in (x, y, order, *parameters.W, *parameters.b)]
    for array in (x, y, order):
        array.flags.writeable = False  # a write into them would raise
    model = bpbench.get_backend(spec, dtype="float64").model(network, parameters)
    kept = model.parameters()
    digest = kept.digest()
    found = model.backpropagate(x, y)
    model.train(x, y, order, SGD(0.5))
    assert kept.digest() == digest
    assert not any(np.shares_memory(a, b) for a in found.a for b in model.backpropagate(x, y).a)
    for array, old in zip((x, y, order, *parameters.W, *parameters.b), before, strict=True):
        assert np.array_equal(array, old)


def test_lists_integers_and_strided_arrays_are_taken(spec):
    network = MLP((2, 3, 1))
    model = bpbench.get_backend(spec, dtype="float64").model(network, initial_parameters(network))
    x = [[0, 0], [0, 1], [1, 0], [1, 1]]
    strided = np.array(x, dtype=np.int8).repeat(2, axis=0)[::2, ::-1][:, ::-1]
    expected = model.predict(x)
    assert np.array_equal(model.predict(strided), expected)
    assert model.train(x, [[0], [1], [1], [0]], np.zeros((0, 4), int), SGD(1)).shape == (0,)


# ── Where the frameworks disagree: the convention, at exactly those inputs ─────────────────────

AT = {
    # activation: [(z, f'(z)), ...]
    "relu": [(0.0, 0.0), (-0.0, 0.0), (1e-300, 1.0)],
    "leaky_relu": [(0.0, 0.01), (-1.0, 0.01), (1.0, 1.0)],
    "elu": [(0.0, 1.0), (-1.0, np.exp(-1))],
    "softplus": [(21.0, 1 / (1 + np.exp(-21))), (20.5, 1 / (1 + np.exp(-20.5)))],
    "gelu": [(1.0, 1.0833154705876864)],  # the erf form; the tanh form has 1.0829640
    "tanh": [(5.0, 1.8158323094380705e-04)],
    "sigmoid": [(-40.0, 4.248354255291589e-18), (0.0, 0.25)],
}


@pytest.mark.parametrize("activation", AT)
def test_a_derivative_follows_the_convention_where_frameworks_disagree(spec, activation):
    points, expected = map(np.array, zip(*AT[activation], strict=True))
    one = MLP((1, 1), output=activation, bias=False)
    model = bpbench.get_backend(spec, dtype="float64").model(one, Parameters(W=([[1.0]],)))
    found = model.backpropagate(points[:, None], cotangent=np.ones((len(points), 1)))
    assert found.delta[0].ravel() == pytest.approx(expected, rel=1e-11)


def test_cross_entropies_are_computed_from_logits_where_probabilities_saturate(spec):
    z = np.array([[800.0, -800.0]])
    backend = bpbench.get_backend(spec, dtype="float64")
    identity = Parameters(W=(np.eye(2),))
    binary = MLP((2, 2), output="sigmoid", loss="binary_cross_entropy", bias=False)
    found = backend.model(binary, identity).backpropagate(z, [[0, 1]])
    assert found.loss == pytest.approx(1600)
    assert found.delta[0] == pytest.approx(np.array([[1, -1]]))
    classes = MLP((2, 2), output="softmax", loss="cross_entropy", bias=False)
    found = backend.model(classes, identity).backpropagate(z, [[0, 1]])
    assert found.loss == pytest.approx(1600)
    assert found.delta[0] == pytest.approx(np.array([[1, -1]]))


@pytest.mark.parametrize("activation", ["softplus", "gelu", "silu"])
@pytest.mark.parametrize("spec", ["torch:eager", "jax:eager"], indirect=True)
def test_what_overflows_within_a_derivative_only_is_not_called_wrong(spec, activation):
    # the error is 4e31, and 4e48 times e^z, or 1e43 times z, is more than float32 holds; what comes
    # of it would not be
    z, w = (40.0, 1e15) if activation == "softplus" else (3e11, 1e10)
    network = MLP((1, 2, 1), activation, "identity", bias=False)
    parameters = Parameters((np.full((2, 1), z), np.full((1, 2), w)))
    x, y = np.ones((1, 1)), np.zeros((1, 1))
    model = bpbench.get_backend(spec, dtype="float32").model(network, parameters)
    found = model.backpropagate(x, y)
    report = judge(network, parameters, x, y, found, "float32")
    assert report.verdict != "wrong", str(report)
