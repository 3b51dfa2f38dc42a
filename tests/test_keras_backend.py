"""Does Keras compute the equations on each of its engines, and train without compiling anew?

A process has one engine: this file runs on jax, and has itself run by pytest in a process of its
own for each of the others.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bpbench
from bpbench import (
    MLP,
    SGD,
    Adam,
    MissingBackend,
    RMSProp,
    Unsupported,
    UsageError,
    initial_parameters,
)
from bpbench.backends import keras_backend

ENGINE = os.environ.get("BPBENCH_TEST_KERAS_ENGINE", "jax")
OTHERS = ("tensorflow", "torch") if ENGINE == "jax" else ()
DTYPE, CLOSE = ("float32", 1e-4) if ENGINE == "torch" else ("float64", 1e-11)

NETWORKS = [
    # without biases a row of zeros stays at 0 through these: every derivative at exactly 0
    MLP((5, 6, 4, 7, 3, 5, 4, 2),
        ("relu", "leaky_relu", "tanh", "elu", "gelu", "silu"),
        "sigmoid", "binary_cross_entropy", bias=False),
    MLP((3, 8, 5, 4, 3), ("softplus", "sigmoid", "identity"), "softmax", "cross_entropy"),
    MLP((4, 3), output="softmax"),
]  # fmt: skip
OPTIMIZERS = [
    SGD(0.3, l2=0.02),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.9, nesterov=True),
    RMSProp(0.01),
    Adam(0.01, l2=0.1),
]


@pytest.fixture(autouse=True)
def _installed(request):
    needed = (
        [ENGINE] if "engine" not in request.fixturenames else [request.getfixturevalue("engine")]
    )
    for package in ("keras", *needed):
        if importlib.util.find_spec(package) is None:
            required = request.config.getoption("--require-backends")
            (pytest.fail if required else pytest.skip)(f"{package} is not installed")


@pytest.fixture
def backend():
    return bpbench.get_backend("keras", ENGINE, dtype=DTYPE)


@pytest.fixture
def truth():
    return bpbench.get_backend("numpy", dtype="float64")


def problem(network, rng, rows=20, dtype=DTYPE):
    """x, y and parameters that are the same numbers in dtype and in float64; read-only."""
    x = rng.standard_normal((rows, network.sizes[0])).astype(dtype)
    y = rng.random((rows, network.sizes[-1])).astype(dtype)
    if network.loss == "cross_entropy":
        y /= y.sum(axis=1, keepdims=True)
    x.flags.writeable = y.flags.writeable = False
    parameters = bpbench.initial_parameters(network, 3, "scaled_normal").astype(dtype)
    return x, y, parameters


def assert_close(found, expected, relative=CLOSE):
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for index, (array, exact) in enumerate(zip(found, expected, strict=True)):
        error = np.abs(np.asarray(array) - exact).max()
        assert error <= relative * np.abs(exact).max(), f"array {index} is {error:.1e} off"


def tensors(found):
    gradients = (*found.gradients.W, *found.gradients.b)
    return [*found.z, *found.a, *found.delta, *gradients, found.input_gradient]


def arrays(model):
    return model.parameters().arrays.values()


if ENGINE != "jax":  # of keras:jax, test_adapters asks the same

    @pytest.mark.parametrize("network", NETWORKS, ids=str)
    def test_backpropagation_agrees_with_the_equations(backend, truth, network, rng):
        x, y, parameters = problem(network, rng)
        x = np.concatenate([x, np.zeros_like(x[:1])])
        y = np.concatenate([y, y[:1]])
        model, exact = backend.model(network, parameters), truth.model(network, parameters)
        for given in ({"y": y}, {"y": y, "l2": 0.1}, {"cotangent": y - 0.5, "l2": 0.1}):
            found, expected = model.backpropagate(x, **given), exact.backpropagate(x, **given)
            assert {array.dtype.name for array in tensors(found)} == {DTYPE}
            assert_close(tensors(found), tensors(expected))
            assert found.loss == (expected.loss and pytest.approx(expected.loss, rel=CLOSE))
        assert_close([model.predict(x)], [exact.predict(x)])

    @pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
    def test_training_agrees_and_a_short_last_batch_goes_on(backend, truth, optimizer, rng):
        network = MLP((5, 8, 3), "tanh", "softmax", "cross_entropy")
        x, y, parameters = problem(network, rng, 40)
        order, short = rng.integers(0, 40, (100, 8)), rng.integers(0, 40, (1, 3))
        model, exact = backend.model(network, parameters), truth.model(network, parameters)
        for rows in (order, short, order[:2]):
            losses = model.train(x, y, rows, optimizer)
            assert losses.dtype == DTYPE
            assert_close([losses], [exact.train(x, y, rows, optimizer)], 100 * CLOSE)
        assert_close(arrays(model), arrays(exact), 100 * CLOSE)


def test_once_compiled_nothing_is_compiled_again(backend, rng, monkeypatch):
    """Neither for the same batches, nor for other data, order and parameters of their shapes."""
    compiled = []
    loss = keras_backend.mean_loss
    monkeypatch.setattr(
        keras_backend, "mean_loss", lambda *given: compiled.append("traced") or loss(*given)
    )
    if ENGINE == "jax":
        import jax

        jax.monitoring.register_event_duration_secs_listener(
            lambda event, _, **__: compiled.append(event) if "backend_compile" in event else None
        )
    network = MLP((5, 8, 3), "tanh")
    x, y, parameters = problem(network, rng)
    model = backend.model(network, parameters)
    batches = model.batches(model.load(x, y), rng.integers(0, 20, (6, 8)))
    model.compile(batches, Adam(0.01))
    assert compiled
    assert all(np.array_equal(now, then) for now, then in zip(
        arrays(model), parameters.arrays.values(), strict=True))  # fmt: skip
    compiled.clear()
    first = model.download(model.run(batches, Adam(0.01)))
    model.synchronize()
    after = model.parameters()
    model.set_parameters(parameters)
    assert np.array_equal(model.download(model.run(batches, Adam(0.01))), first)
    assert model.parameters().digest() == after.digest()
    model.train(x[::-1], y, rng.integers(0, 20, (6, 8)), Adam(0.01))
    assert not compiled or ENGINE == "torch"  # which runs every step eagerly


def test_an_order_longer_than_the_buffer_of_losses_is_the_same_training(backend, rng, monkeypatch):
    network = MLP((3, 4, 2))
    x, y, parameters = problem(network, rng)
    order = rng.integers(0, 20, (11, 4))
    whole, parts = backend.model(network, parameters), backend.model(network, parameters)
    expected = whole.train(x, y, order, Adam(0.05))
    monkeypatch.setattr(keras_backend, "STEPS_PER_FIT", 4)
    assert np.array_equal(parts.train(x, y, order, Adam(0.05)), expected)
    assert parts.parameters().digest() == whole.parameters().digest()


def test_data_of_another_shape_goes_on_with_the_optimizers_state(backend, truth, rng):
    network = MLP((3, 4, 2), "silu")
    model = exact = None
    for rows in (20, 9, 20):
        x, y, parameters = problem(network, rng, rows)
        model = model or backend.model(network, parameters)
        exact = exact or truth.model(network, parameters)
        order = rng.integers(0, rows, (3, 4))
        found = model.train(x, y, order, RMSProp(0.05))
        assert_close([found], [exact.train(x, y, order, RMSProp(0.05))], 100 * CLOSE)
    assert_close(arrays(model), arrays(exact), 100 * CLOSE)


def test_models_of_both_dtypes_take_turns_in_one_process(truth, rng):
    import keras

    network = MLP((4, 6, 3), "tanh", "gelu")
    close = {"float32": 1e-4, "float64": 1e-10}
    models, exact = {}, {}
    before = keras.config.floatx()
    for dtype in dict.fromkeys(("float32", DTYPE)):  # float32 alone on torch
        x, y, parameters = problem(network, rng, dtype=dtype)
        models[dtype] = bpbench.get_backend("keras", ENGINE, dtype=dtype).model(network, parameters)
        exact[dtype] = truth.model(network, parameters)
        models[dtype].train(x, y, [[0, 1]], Adam(0.01))  # compiled before the next is made
        exact[dtype].train(x, y, [[0, 1]], Adam(0.01))
    for dtype in ("float32", DTYPE, "float32"):
        x, y, _ = problem(network, rng, dtype=dtype)
        order = rng.integers(0, 20, (3, 5))
        found, expected = models[dtype].backpropagate(x, y), exact[dtype].backpropagate(x, y)
        assert {array.dtype.name for array in tensors(found)} == {dtype}
        assert_close(tensors(found), tensors(expected), close[dtype])
        models[dtype].train(x, y, order, Adam(0.01))
        exact[dtype].train(x, y, order, Adam(0.01))
        assert_close(arrays(models[dtype]), arrays(exact[dtype]), close[dtype])
    assert keras.config.floatx() == before


def test_composed_activations_are_exact_where_they_are_tiny_saturated_or_at_zero(backend):
    functions, eps = keras_backend.activations(ENGINE, DTYPE), float(np.finfo(DTYPE).eps)
    z = np.array([0.0, 1e-30, -1e-30, 1e-9, -1e-9, 0.3, -0.3, 5, -5, 20, -20, 500, -500], DTYPE)
    with backend.scope():
        for name, exact in {
            "tanh": np.tanh(z),
            "leaky_relu": np.where(z > 0, z, np.asarray(0.01, DTYPE) * z),
            "elu": np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
        }.items():
            found = np.asarray(functions[name](backend.keras.ops.convert_to_tensor(z)))
            assert found.dtype == DTYPE
            assert found == pytest.approx(exact, rel=5 * eps, abs=0)
    one = MLP((1, 1), output="tanh", bias=False)
    model = backend.model(one, bpbench.Parameters(W=([[1.0]],)))
    slope = model.backpropagate(z[:, None], cotangent=np.ones((len(z), 1))).delta[0].ravel()
    assert slope == pytest.approx((1 / np.cosh(z.astype(float))) ** 2, abs=8 * eps)


# ── What a person can ask for that cannot be had ───────────────────────────────────────────────


def test_a_gpu_that_is_not_there_is_said_not_to_be_there():
    with pytest.raises(Unsupported, match=f"keras:{ENGINE} sees no cuda device"):
        bpbench.get_backend("keras", ENGINE, device="cuda")


def test_a_second_engine_in_one_process_is_an_error_that_names_the_remedy(backend):
    other = "torch" if ENGINE == "tensorflow" else "tensorflow"
    with pytest.raises(UsageError, match=rf"already runs on '{ENGINE}'.*another process"):
        bpbench.get_backend("keras", other)


def test_what_keras_has_no_formula_for_is_refused(backend):
    network = MLP((3, 4, 2), output="identity")
    given = initial_parameters(network)
    other = MLP((3, 4, 2), output="identity")
    object.__setattr__(other, "loss", "unheard_of_loss")
    with pytest.raises(Unsupported, match=f"keras:{ENGINE} has no formula for loss 'unheard_of"):
        backend.model(other, given)
    object.__setattr__(network, "hidden", "cubic")
    with pytest.raises(Unsupported, match=f"keras:{ENGINE} has no formula for activation 'cubic'"):
        backend.model(network, given)


def test_without_a_mode_it_takes_the_engine_that_runs_already():
    done = subprocess.run(
        [sys.executable, "-c",
         f"import bpbench, keras; assert keras.config.backend() == {ENGINE!r}\n"
         "print(bpbench.get_backend('keras'))\n"
         f"other = {'jax' if ENGINE == 'torch' else 'torch'!r}\n"
         "try: bpbench.get_backend('keras', other)\n"
         "except bpbench.UsageError as error: print(error)"],
        capture_output=True, text=True, env={**os.environ, "KERAS_BACKEND": ENGINE},
    )  # fmt: skip
    assert f"<backend keras:{ENGINE} on cpu in float32>" in done.stdout, done.stderr
    assert f"Keras already runs on '{ENGINE}'" in done.stdout


def test_float64_on_torch_is_unsupported_because_keras_computes_in_float32():
    with pytest.raises(Unsupported, match="computes in float32"):
        bpbench.get_backend("keras", "torch", dtype="float64")


def test_an_engine_that_is_not_installed_is_named_with_the_way_to_get_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find(name)
    )
    with pytest.raises(MissingBackend, match=r"'tensorflow'; .* pip install 'bpbench\[tensorflow"):
        bpbench.get_backend("keras", "tensorflow")


# ── The other engines ──────────────────────────────────────────────────────────────────────────

if OTHERS:

    @pytest.mark.parametrize(
        "engine", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in OTHERS]
    )
    def test_all_of_this_holds_on_another_engine(engine):
        path = Path(__file__)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
            cwd=path.parent.parent,
            env=os.environ | {"BPBENCH_TEST_KERAS_ENGINE": engine},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]

    def test_tensorflow_starts_keras_and_the_backend_takes_it():
        if importlib.util.find_spec("tensorflow") is None:
            pytest.skip("tensorflow is not installed")
        done = subprocess.run(
            [sys.executable, "-c",
             "import bpbench; bpbench.get_backend('tensorflow'); import keras\n"
             "print(bpbench.get_backend('keras'))"],
            capture_output=True, text=True,
            env={name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"},
        )  # fmt: skip
        assert "<backend keras:tensorflow on cpu in float32>" in done.stdout, done.stderr
