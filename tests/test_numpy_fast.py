"""The buffers of numpy's mode ``fast`` change nothing: not the numbers, not what was handed out."""

import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpbench import MLP, SGD, Adam, RMSProp, get_backend, initial_parameters
from bpbench.activations import ACTIVATIONS, hidden_activations
from bpbench.backends.numpy_common import plan as numpy_plan
from bpbench.backends.numpy_fast import kernels as numpy_kernels
from bpbench.backends.numpy_fast import model as numpy_fast
from bpbench.backends.numpy_fast import passes as numpy_pass
from bpbench.losses import LOSSES

FAST = get_backend("numpy", mode="fast", dtype="float64")
REFERENCE = get_backend("numpy", mode="reference", dtype="float64")
OPTIMIZERS = [
    SGD(0.05),
    SGD(0.05, l2=0.02),
    SGD(0.02, momentum=0.9, l2=0.02),
    SGD(0.02, momentum=0.9, nesterov=True),
    RMSProp(0.002, decay=0.9, l2=0.02),
    Adam(0.002, l2=0.02),
]
ACTIVE = [name for name in hidden_activations() if name != "identity"]


def _problem(network, rows, rng):
    x = rng.standard_normal((rows, network.sizes[0]))
    y = rng.random((rows, network.sizes[-1]))
    return x, y / y.sum(axis=1, keepdims=True) if network.loss == "cross_entropy" else y


def _assert_trains_like_the_reference(network, optimizer, batches, rng, scale=1.0, relative=1e-9):
    """Train both on the same orders, one for each (steps, batch) of ``batches``."""
    parameters = initial_parameters(network, 5, "scaled_normal")
    parameters = type(parameters)(tuple(scale * W for W in parameters.W), parameters.b)
    x, y = _problem(network, 50, rng)
    fast, reference = FAST.model(network, parameters), REFERENCE.model(network, parameters)
    for shape in batches:
        order = rng.integers(0, 50, shape)
        expected = reference.train(x, y, order, optimizer)
        assert fast.train(x, y, order, optimizer) == pytest.approx(expected, rel=relative)
    found, expected = fast.parameters().arrays, reference.parameters().arrays
    for name, array in expected.items():
        error = np.abs(found[name] - array).max()
        assert error <= relative * np.abs(array).max(), f"{name}: {error}"


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_optimizer_and_loss_trains_like_the_equations(loss, optimizer, rng):
    for bias in (True, False):
        network = MLP((5, 8, 6, 3), ("sigmoid", "elu"), LOSSES[loss].allowed[-1], loss, bias)
        _assert_trains_like_the_reference(network, optimizer, [(70, 8), (3, 5), (10, 8)], rng)


@pytest.mark.parametrize("output", ACTIVATIONS)
def test_every_activation_trains_like_the_equations(output, rng):
    network = MLP((4, 7, 6, 5), (ACTIVE[len(output) % len(ACTIVE)], "identity"), output)
    _assert_trains_like_the_reference(network, SGD(0.05), [(30, 6)], rng)
    hidden = MLP((4, 7, 6, 2), output if output != "softmax" else "tanh", "identity")
    _assert_trains_like_the_reference(hidden, SGD(0.01, l2=0.1), [(30, 6)], rng)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_networks_agree_with_the_equations(data):
    sizes = data.draw(st.lists(st.integers(1, 90), min_size=2, max_size=6))
    loss = data.draw(st.sampled_from(sorted(LOSSES)))
    hidden = data.draw(st.lists(st.sampled_from(hidden_activations()), min_size=len(sizes) - 2,
                                max_size=len(sizes) - 2))  # fmt: skip
    network = MLP(tuple(sizes), tuple(hidden), data.draw(st.sampled_from(LOSSES[loss].allowed)),
                  loss, data.draw(st.booleans()))  # fmt: skip
    rows, l2 = data.draw(st.integers(1, 60)), data.draw(st.sampled_from([0.0, 0.3]))
    rng = np.random.default_rng(len(sizes) + rows)
    x, y = _problem(network, rows, rng)
    parameters = initial_parameters(network, rows, "scaled_normal")
    fast, reference = FAST.model(network, parameters), REFERENCE.model(network, parameters)
    for target in ({"y": y}, {"cotangent": y}):
        found = fast.backpropagate(x, **target, l2=l2)
        expected = reference.backpropagate(x, **target, l2=l2)
        assert "y" not in target or found.loss == pytest.approx(expected.loss, rel=1e-11)
        for name in ("z", "a", "delta"):
            for one, other in zip(getattr(found, name), getattr(expected, name), strict=True):
                assert np.abs(one - other).max() <= 1e-11 * np.abs(other).max() + 1e-300
        pairs = zip((*found.gradients.W, *found.gradients.b, found.input_gradient),
                    (*expected.gradients.W, *expected.gradients.b, expected.input_gradient),
                    strict=True)  # fmt: skip
        for one, other in pairs:
            assert one.shape == other.shape
            assert np.abs(one - other).max() <= 1e-11 * np.abs(other).max() + 1e-300


# ── Whatever is tuned for speed leaves the numbers alone ───────────────────────────────────────

TUNED = {
    "everything in small blocks": [(numpy_plan, "BLOCK_BYTES", 100)],
    "each layer updated by itself": [(numpy_fast, "ONE_UPDATE_BYTES", 0)],
    "two steps gathered at a time": [(numpy_fast, "CHUNK_STEPS", 2)],
    "b in the first W": [(numpy_pass, "FOLDED_INPUTS", 10**9)],
    "b not in the first W": [(numpy_pass, "FOLDED_INPUTS", 0)],
    "f' layer by layer": [(numpy_pass, "SHARED_SLOPES", 0)],
    "softmax always shifted": [(numpy_kernels, "SAFE", 0.0)],
    "rows predicted three at a time": [(numpy_fast, "PREDICTED", 3)],
}


@pytest.mark.parametrize("tuned", TUNED)
@pytest.mark.parametrize("optimizer", [SGD(0.05), SGD(0.05, l2=0.1, momentum=0.5), Adam(0.01)],
                         ids=lambda o: type(o).__name__ + str(o.l2))  # fmt: skip
def test_no_tuning_constant_changes_the_result(tuned, optimizer, rng, monkeypatch):
    for owner, name, value in TUNED[tuned]:
        monkeypatch.setattr(owner, name, value)
    for network in (
        MLP((17, 9, 8, 4), ("sigmoid", "gelu"), "softmax", "cross_entropy"),
        MLP((3, 5, 4, 2)),
        MLP((3, 6, 2), "silu", "sigmoid", "binary_cross_entropy"),
    ):
        _assert_trains_like_the_reference(network, optimizer, [(7, 6), (1, 4), (3, 6)], rng)
        parameters = initial_parameters(network, 3)
        x, _ = _problem(network, 7, rng)
        expected = REFERENCE.model(network, parameters).predict(x)
        assert FAST.model(network, parameters).predict(x) == pytest.approx(expected, rel=1e-12)


def test_layers_wider_than_a_block_train_like_the_equations(rng):
    network = MLP((20, 400, 300, 90), ("tanh", "sigmoid"), "softmax", "cross_entropy")
    assert max(numpy_plan.BLOCK_BYTES, numpy_fast.ONE_UPDATE_BYTES) < 8 * 400 * 300
    _assert_trains_like_the_reference(network, SGD(0.5), [(4, 200), (1, 3)], rng)


# ── Numbers at the edge ────────────────────────────────────────────────────────────────────────


def test_logits_too_large_for_their_exponentials_are_shifted_from_that_step_on(rng):
    # W grows from step to step: at first no e^z can overflow, later all would
    network = MLP((3, 6, 4), "tanh", "softmax", "cross_entropy", bias=False)
    optimizer = SGD(400.0)
    _assert_trains_like_the_reference(network, optimizer, [(6, 5)], rng, relative=1e-7)
    parameters = initial_parameters(network, 5, "scaled_normal")
    model = FAST.model(network, parameters)
    x, y = _problem(network, 50, np.random.default_rng(7))
    model.train(x, y, np.random.default_rng(1).integers(0, 50, (6, 5)), optimizer)
    assert np.abs(model.backpropagate(x, y).z[-1]).max() > np.log(np.finfo(float).max)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saturated_units_give_no_warning_and_finite_losses(dtype, rng):
    network = MLP((3, 5, 2), "sigmoid", "sigmoid", "binary_cross_entropy")
    parameters = initial_parameters(network, 0)
    parameters = type(parameters)(tuple(1e4 * W for W in parameters.W), parameters.b)
    model = get_backend("numpy", mode="fast", dtype=dtype).model(network, parameters)
    x, y = _problem(network, 20, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = model.train(x, y, rng.integers(0, 20, (5, 4)), SGD(0.1))
        assert np.isfinite(model.predict(x)).all()
        assert np.isfinite(model.backpropagate(x, y).loss)
    assert np.isfinite(losses).all()


def test_a_learning_rate_of_zero_leaves_the_parameters_and_gives_the_losses(rng):
    network = MLP((3, 5, 2), "sigmoid", "softmax", "cross_entropy")
    parameters = initial_parameters(network, 0)
    x, y = _problem(network, 20, rng)
    order = rng.integers(0, 20, (5, 4))
    model = FAST.model(network, parameters)
    losses = model.train(x, y, order, SGD(0.0))
    assert losses == pytest.approx([model.backpropagate(x[rows], y[rows]).loss for rows in order])
    assert model.parameters().digest() == parameters.digest()


# ── Buffers stay inside ────────────────────────────────────────────────────────────────────────


def test_arrays_that_were_handed_out_do_not_change_afterwards(rng):
    network = MLP((4, 6, 3), "sigmoid", "softmax", "cross_entropy")
    model = FAST.model(network, initial_parameters(network))
    x, y = _problem(network, 30, rng)
    batches = model.batches(model.load(x, y), rng.integers(0, 30, (9, 5)))
    optimizer = SGD(0.5, momentum=0.9)
    losses = model.run(batches, optimizer)
    found = model.backpropagate(x, y)
    handed_out = [losses, model.predict(x), *model.parameters().arrays.values(), *found.z,
                  *found.a, *found.delta, *found.gradients.W, *found.gradients.b,
                  found.input_gradient]  # fmt: skip
    before = [array.copy() for array in handed_out]
    later = model.run(batches, optimizer)
    model.backpropagate(x + 1, y)
    model.predict(x + 1)
    assert not np.array_equal(later, losses)
    for array, old in zip(handed_out, before, strict=True):
        assert np.array_equal(array, old)
        assert array.flags.c_contiguous


def test_batch_sizes_may_alternate_and_only_the_latest_two_are_kept(rng):
    network = MLP((4, 6, 3))
    _assert_trains_like_the_reference(
        network, Adam(0.01), [(2, 5), (1, 3), (2, 5), (3, 1), (1, 3), (2, 50)], rng
    )
    model = FAST.model(network, initial_parameters(network))
    x, y = _problem(network, 30, rng)
    for size in (5, 3, 5, 7, 5):
        model.train(x, y, rng.integers(0, 30, (2, size)), SGD(0.1))
    assert list(model.trainers) == [7, 5]


def test_training_on_and_on_allocates_nothing_that_stays(rng):
    network = MLP((30, 40, 5), "gelu", "softmax", "cross_entropy")
    model = FAST.model(network, initial_parameters(network, 0, "xavier"))
    x, y = _problem(network, 300, rng)
    data = model.load(x, y)
    long, short = (model.batches(data, rng.integers(0, 300, (200, m))) for m in (32, 9))
    optimizer = Adam(0.001)
    for batches in (long, short):
        model.run(batches, optimizer)
    tracemalloc.start()
    try:
        model.run(long, optimizer)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(3):
            model.run(long, optimizer)
            model.run(short, optimizer)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 5_000
    assert peak - before < 100_000  # NumPy's own buffers; the arrays of a chunk have 490,000


MEMORY = """
import numpy as np
from bpbench import MLP, SGD, Parameters, get_backend
from bpbench.measure.memory import peak_bytes

network = MLP((784, 1024, 1024, 10), output="softmax", loss="cross_entropy")
backend, rows, m = get_backend("numpy", mode="fast"), 2048, 512

def arrays():
    rng = np.random.default_rng(0)
    shapes = list(zip(network.sizes[1:], network.sizes))
    parameters = Parameters(
        tuple(rng.standard_normal(shape, dtype="float32") / 30 for shape in shapes),
        tuple(np.ones(n, "float32") for n, _ in shapes),
    )
    x = rng.random((rows, 784), dtype="float32")
    y = np.zeros((rows, 10), "float32")
    y[:, 0] = 1
    return parameters, x, y

small = MLP((784, 8, 10), output="softmax", loss="cross_entropy")
from bpbench import initial_parameters
backend.model(small, initial_parameters(small)).train(  # BLAS makes its own buffers now
    np.ones((m, 784)), np.eye(10)[np.zeros(m, int)], np.arange(m)[None], SGD(0.1))
interpreter = peak_bytes()
parameters, x, y = arrays()
model = backend.model(network, parameters)
model.train(x, y, np.random.default_rng(1).integers(0, rows, (2, m)), SGD(0.1))
taken = peak_bytes() - interpreter
weights = sum(array.nbytes for array in parameters.arrays.values())
activations = 4 * m * sum(network.sizes[1:])
print(taken / (2 * weights + activations + x.nbytes + y.nbytes))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_large_network_takes_little_more_memory_than_its_arrays():
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.3
