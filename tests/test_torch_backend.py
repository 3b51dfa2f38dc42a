"""What torch's modes must do beyond what every backend must: steps that are compiled together."""

import numpy as np
import pytest

import bpbench
from bpbench import MLP, Adam, initial_parameters

torch = pytest.importorskip("torch")


def test_orders_of_any_length_train_unrolled_as_the_equations_do_and_compile_nothing_anew():
    from torch._dynamo.utils import counters

    from backends.torch_backend import UNROLLED_LAYERS

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
