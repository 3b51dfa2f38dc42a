"""What torch's modes must do beyond what every backend must: steps that are compiled together."""

import numpy as np
import pytest

import bpbench
from bpbench import MLP, SGD, Adam, Parameters, initial_parameters
from bpbench.verify.verdict import judge

torch = pytest.importorskip("torch")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_a_step_of_manual_rounds_each_weight_once_however_many_threads_share_its_gradient():
    network = MLP((1024, 10), output="identity")
    rng = np.random.default_rng(0)
    x, y = rng.random((512, 1024)).astype("float32"), np.zeros((512, 10), "float32")
    given = initial_parameters(network, 0).astype("float32")
    order, optimizer = np.arange(512)[None], SGD(1e-6)
    model, exact = (
        bpbench.get_backend(spec, dtype=dtype).model(network, given.astype(dtype))
        for spec, dtype in (("torch:manual", "float32"), ("numpy", "float64"))
    )
    model.train(x, y, order, optimizer)
    exact.train(x.astype("float64"), y.astype("float64"), order, optimizer)
    W = exact.parameters().W[0]
    off = abs(model.parameters().W[0] - W)
    assert (off <= 1.01 * np.spacing(abs(W).astype("float32")) / 2).mean() > 0.99


def test_orders_of_any_length_train_unrolled_as_the_equations_do_and_compile_nothing_anew():
    from torch._dynamo.utils import counters

    from bpbench.backends.torch_backend import UNROLLED_LAYERS

    network = MLP((5, 8, 3), "tanh", "softmax", "cross_entropy")
    together = UNROLLED_LAYERS // network.layers
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((40, 5)), np.eye(3)[rng.integers(3, size=40)]
    given, optimizer = initial_parameters(network, 1), Adam(0.01, l2=0.1)
    model, exact = (
        bpbench.get_backend(spec, dtype="float64").model(network, given)
        for spec in ("torch:unrolled", "numpy")
    )
    compiled = []
    for steps in (1, together + 1, together - 1, together, 3 * together + 2):
        order = rng.integers(0, 40, (steps, 6))
        losses, expected = (each.train(x, y, order, optimizer) for each in (model, exact))
        assert losses == pytest.approx(expected, rel=1e-11)
        compiled.append(counters["stats"]["unique_graphs"])
    assert len(set(compiled)) == 1
    for name, array in model.parameters().arrays.items():
        assert array == pytest.approx(exact.parameters().arrays[name], rel=1e-9, abs=1e-12)


def test_compiled_elu_and_cross_entropy_do_not_cancel_in_float32():
    network = MLP((6, 20, 8), "elu", "sigmoid", "binary_cross_entropy")
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((5, 6)) * 1e-3, (rng.random((5, 8)) < 0.5).astype(float)
    given = initial_parameters(network, 0)
    b = given.b[0] * 1e-3, np.linspace(-16, 16, 8)  # elu near 0; outputs near 0 and 1
    given, x, y = Parameters(given.W, b).astype("float32"), np.float32(x), np.float32(y)
    model = bpbench.get_backend("torch:compiled").model(network, given)
    report = judge(network, given, x, y, model.backpropagate(x, y), "float32")
    assert report.verdict == "right", str(report)
