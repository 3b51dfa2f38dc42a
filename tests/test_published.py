"""Results that others have published or solved exactly, through the public interface."""

import numpy as np
import pytest

import bpbench
from bpbench import MLP, SGD, Parameters, datasets, initial_parameters

from .conftest import SLOW


def test_a_deep_linear_network_learns_along_its_exact_solution(spec):
    """Saxe, McClelland & Ganguli 2013: each mode follows u(t) = s e^2st / (e^2st - 1 + s/u0).

    Whitened inputs, two linear layers that start aligned and balanced at u0; t = eta * steps. At
    1,500 steps the mode of s = 3 is half-way, the others wait on their plateau.
    """
    if spec in SLOW:
        steps, eta, deviation = 75, 2e-2, 0.05  # deviation shrinks in proportion to eta
    else:
        steps, eta, deviation = 1500, 1e-3, 0.0025
    s, u0 = np.array([3, 2, 1, 0.5]), 1e-3
    network = MLP((4, 4, 4), hidden="identity", output="identity", bias=False)
    start = np.eye(4) * np.sqrt(u0)
    model = bpbench.get_backend(spec, dtype="float64").model(network, Parameters(W=(start, start)))
    x = 2 * np.eye(4)  # X^T X / 4 = I
    losses = model.train(x, x * s, np.tile(np.arange(4), (steps, 1)), SGD(eta))

    def u(t):
        growth = np.exp(2 * s * t)
        return s * growth / (growth - 1 + s / u0)

    W = model.parameters().W
    learnt = W[1] @ W[0]
    assert learnt - np.diag(np.diag(learnt)) == pytest.approx(0, abs=1e-12)
    assert np.abs(np.diag(learnt) - u(eta * steps)).max() < deviation * s.max()
    before = u(eta * np.arange(steps)[:, None])
    exact = ((s - before) ** 2).sum(axis=1) / 2
    assert np.abs(losses - exact).max() < 2 * deviation * exact[0]


def test_xor_from_zero_weights_is_a_stationary_point_of_loss_an_eighth(spec):
    network = MLP((2, 3, 1))
    zero = Parameters(W=(np.zeros((3, 2)), np.zeros((1, 3))), b=(np.zeros(3), np.zeros(1)))
    data = datasets.xor().train
    model = bpbench.get_backend(spec, dtype="float64").model(network, zero)
    found = model.backpropagate(data.x, data.y)
    assert found.loss == pytest.approx(1 / 8, rel=1e-15)
    for gradient in (*found.gradients.W, *found.gradients.b):
        assert gradient == pytest.approx(0, abs=1e-17)


def test_the_spiral_is_learnt_by_a_hidden_layer_and_not_without_one():
    """CS231n: 98 % on the training data with 100 hidden units, 49 % by a linear classifier."""
    data = datasets.spiral(seed=0).train
    numpy = bpbench.get_backend("numpy", dtype="float64")

    def accuracy(network, steps):
        start = initial_parameters(network, 0)
        start = Parameters(
            tuple(0.01 * W for W in start.W), tuple(np.zeros_like(b) for b in start.b)
        )
        model = numpy.model(network, start)
        model.train(data.x, data.y, np.tile(np.arange(300), (steps, 1)), SGD(1.0, l2=1e-3))
        return (model.predict(data.x).argmax(axis=1) == data.y.argmax(axis=1)).mean()

    relu = MLP((2, 100, 3), hidden="relu", output="softmax", loss="cross_entropy")
    assert accuracy(relu, 10_000) > 0.97
    linear = MLP((2, 3), output="softmax", loss="cross_entropy")
    assert accuracy(linear, 200) == pytest.approx(0.49, abs=0.06)
