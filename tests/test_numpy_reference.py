"""The equations by hand: against worked numbers, against differences, step by step."""

import itertools

import numpy as np
import pytest

import bpbench
from bpbench import MLP, SGD, Adam, Parameters, RMSProp, initial_parameters
from bpbench.activations import hidden_activations
from bpbench.losses import LOSSES

NUMPY = bpbench.get_backend("numpy", dtype="float64")
OUTPUTS = [(output, loss) for loss, row in LOSSES.items() for output in row.allowed]


def test_one_sample_through_a_2_2_1_network_as_worked_by_hand():
    # W z: 1*0.5 + 2*(-0.25) = 0 and 1*1 + 2*(-0.5) + ln 3 = ln 3, so a = (1/2, 3/4);
    # z = 2*0.5 - 4/3*0.75 = 0, o = 1/2; e = o - 1 = -1/2, delta = -1/2 * 1/4 = -1/8
    parameters = Parameters(W=([[0.5, -0.25], [1, -0.5]], [[2, -4 / 3]]), b=([0, np.log(3)], [0]))
    found = NUMPY.model(MLP((2, 2, 1)), parameters).backpropagate([[1, 2]], [[1]])
    assert found.loss == pytest.approx(1 / 8)
    assert found.a[0] == pytest.approx(np.array([[1 / 2, 3 / 4]]))
    assert found.delta[1] == pytest.approx(np.array([[-1 / 8]]))
    # delta[0] = -1/8 * (2, -4/3) * (1/4, 3/16) = (-1/16, 1/32)
    assert found.delta[0] == pytest.approx(np.array([[-1 / 16, 1 / 32]]))
    assert found.gradients.W[1] == pytest.approx(np.array([[-1 / 16, -3 / 32]]))
    assert found.gradients.W[0] == pytest.approx(np.array([[-1 / 16, -1 / 8], [1 / 32, 1 / 16]]))
    assert found.gradients.b[0] == pytest.approx(np.array([-1 / 16, 1 / 32]))
    assert found.input_gradient == pytest.approx(np.array([[0, 0]]))


def test_two_rows_of_softmax_cross_entropy_as_worked_by_hand():
    # logits (0, ln 3) and (0, 2 ln 3): p = (1/4, 3/4) and (1/10, 9/10)
    network = MLP((1, 2), output="softmax", loss="cross_entropy", bias=False)
    model = NUMPY.model(network, Parameters(W=([[0], [np.log(3)]],)))
    found = model.backpropagate([[1], [2]], [[1, 0], [0, 1]])
    assert found.loss == pytest.approx((np.log(4) + np.log(10 / 9)) / 2)
    assert found.delta[0] == pytest.approx(np.array([[-3 / 8, 3 / 8], [1 / 20, -1 / 20]]))
    assert found.gradients.W[0] == pytest.approx(np.array([[-3 / 8 + 1 / 10], [3 / 8 - 1 / 10]]))
    assert found.gradients.b == ()


def _problem(network, rng, rows=5):
    x = rng.standard_normal((rows, network.sizes[0]))
    y = rng.random((rows, network.sizes[-1]))
    return x, y / y.sum(axis=1, keepdims=True) if network.loss == "cross_entropy" else y


def _moved(parameters, direction, by):
    return Parameters(
        tuple(W + by * d for W, d in zip(parameters.W, direction.W, strict=True)),
        tuple(b + by * d for b, d in zip(parameters.b, direction.b, strict=True)),
    )


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize(
    ("hidden", "output", "loss"),
    [(h, *o) for h, o in itertools.product(hidden_activations(), OUTPUTS)],
)
def test_gradients_agree_with_differences_for_every_activation_and_loss(
    hidden, output, loss, l2, rng
):
    network = MLP((4, 6, 5, 3), hidden=hidden, output=output, loss=loss)
    parameters = initial_parameters(network, seed=2, scheme="scaled_normal")
    direction = initial_parameters(network, seed=3)
    x, y = _problem(network, rng)
    by_x = rng.standard_normal(x.shape)
    model = NUMPY.model(network, parameters)
    found = model.backpropagate(x, y, l2=l2)

    def loss_at(step):
        model.set_parameters(_moved(parameters, direction, step))
        return model.backpropagate(x + step * by_x, y, l2=l2).loss

    step = 1e-5
    measured = (loss_at(step) - loss_at(-step)) / (2 * step)
    along = zip((*found.gradients.W, *found.gradients.b), (*direction.W, *direction.b), strict=True)
    derived = sum((g * d).sum() for g, d in along) + (found.input_gradient * by_x).sum()
    assert derived == pytest.approx(measured, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("output", ["softmax", "tanh", "relu"])
def test_a_cotangent_gives_the_gradient_of_any_function_of_the_output(output, rng):
    network = MLP((3, 4, 3), hidden="silu", output=output)
    parameters = initial_parameters(network, seed=1)
    x, _ = _problem(network, rng)
    c = rng.standard_normal((5, 3))
    direction = initial_parameters(network, seed=5)
    found = NUMPY.model(network, parameters).backpropagate(x, cotangent=c)
    assert found.loss is None

    def value(step):
        return (c * NUMPY.model(network, _moved(parameters, direction, step)).predict(x)).sum()

    measured = (value(1e-5) - value(-1e-5)) / 2e-5
    derived = sum((g * d).sum() for g, d in zip(found.gradients.W, direction.W, strict=True))
    derived += sum((g * d).sum() for g, d in zip(found.gradients.b, direction.b, strict=True))
    assert derived == pytest.approx(measured, rel=1e-7)


def _train_one_weight(optimizer, steps):
    """Half squared error of o = w x on x = 1, y = 0: the gradient is w itself."""
    network = MLP((1, 1), output="identity", bias=False)
    model = NUMPY.model(network, Parameters(W=([[1.0]],)))
    losses = model.train([[1]], [[0]], [[0]] * steps, optimizer)
    return model.parameters().W[0].item(), losses


@pytest.mark.parametrize(
    ("optimizer", "weight"),
    [
        # w = 1; g = 1: w = .9; g = .9: w = .81
        (SGD(0.1), 0.81),
        # v = 1: w = .9; v = .5 + .9 = 1.4: w = .76
        (SGD(0.1, momentum=0.5), 0.76),
        # v = 1: w = 1 - .1 * 1.5 = .85; v = .5 + .85 = 1.35: w = .85 - .1 * (.85 + .675)
        (SGD(0.1, momentum=0.5, nesterov=True), 0.6975),
        # g = 1 + 1 = 2: w = .8; g = 1.6: w = .64
        (SGD(0.1, l2=1.0), 0.64),
        # v = .5: w = 1 - .1 / sqrt(.5) = .858579; v = .25 + .5 w^2 = .618579: w - .1 w / sqrt(v)
        (RMSProp(0.1, decay=0.5, epsilon=0), 0.7494138),
        # m^ = v^ = 1: w = .9; m^ = .7 / .75, v^ = .655 / .75: w = .9 - .1 * .933333 / .934523
        (Adam(0.1, beta1=0.5, beta2=0.5, epsilon=0), 0.8001273),
    ],
)
def test_an_optimizer_takes_the_steps_worked_by_hand(optimizer, weight):
    assert _train_one_weight(optimizer, 2)[0] == pytest.approx(weight, rel=1e-6)


def test_losses_are_those_before_each_step_with_the_l2_term():
    _, losses = _train_one_weight(SGD(0.1, l2=1.0), 2)
    assert losses == pytest.approx([0.5 + 0.5, 0.32 + 0.32])
