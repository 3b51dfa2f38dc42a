"""Descriptions of networks and parameters: what they hold, and what they refuse."""

import dataclasses

import numpy as np
import pytest

from bpbench import MLP, Parameters, UsageError, initial_parameters


def test_a_network_keeps_the_spelling_it_was_given():
    network = MLP(sizes=[4, 5, 3], hidden="tanh", output="softmax", loss="cross_entropy")
    assert network.sizes == (4, 5, 3)
    assert network.hidden == "tanh"
    assert network.activations == ("tanh", "softmax")
    assert network.layers == 2


def test_a_network_is_made_again_from_its_description():
    network = MLP((3, 4, 5, 2), hidden=("relu", "gelu"), bias=False)
    assert MLP(**network.describe()) == network
    assert hash(MLP(**network.describe())) == hash(network)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": (3,)}, r"sizes is \(3,\); expected two or more whole numbers"),
        ({"sizes": (3, 0, 1)}, "at least 1"),
        ({"sizes": (3, 2.5, 1)}, "whole numbers"),
        ({"sizes": 3}, "whole numbers"),
        ({"sizes": (2, 3, 1), "hidden": "sigmiod"}, "did you mean 'sigmoid'"),
        ({"sizes": (2, 3, 1), "hidden": "softmax"}, "softmax is an output activation"),
        ({"sizes": (2, 3, 1), "hidden": ("tanh", "tanh")}, "has 2 activations.*1 hidden layers"),
        ({"sizes": (2, 3, 1), "output": "soft"}, "output activation 'soft' is unknown"),
        ({"sizes": (2, 3, 1), "loss": "mse"}, "loss 'mse' is unknown; expected one of"),
        ({"sizes": (2, 3, 1), "loss": "cross_entropy"}, "goes with output 'softmax'"),
        ({"sizes": (2, 3, 1), "bias": 1}, "expected True or False"),
    ],
)
def test_a_network_that_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        MLP(**fields)


def test_parameters_are_copied_and_frozen():
    W = np.ones((3, 2))
    parameters = Parameters(W=(W,), b=([0, 0, 0],))
    W[0, 0] = 5
    assert parameters.W[0][0, 0] == 1
    assert parameters.b[0].dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        parameters.W[0][0, 0] = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        parameters.W = ()


@pytest.mark.parametrize(
    ("W", "b", "message"),
    [
        ((), (), "W is empty"),
        ((np.ones(3),), (), r"expected \(n_l, n_\{l-1\}\)"),
        ((np.ones((3, 2)), np.ones((2, 1))), (), "transpose weights"),
        ((np.ones((3, 2)),), (np.ones(2),), r"expected \(3,\)"),
        ((np.ones((3, 2)),), (np.ones((3, 1)),), r"expected \(3,\)"),
        ((np.ones((3, 2)),), (np.ones(3), np.ones(1)), "1 arrays in W but 2 in b"),
        ((np.array([["a", "b"]]),), (), "expected real numbers"),
        (([[1, 2], [3]],), (), "is no array"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(W, b, message):
    with pytest.raises(UsageError, match=message):
        Parameters(W, b)


def test_parameters_of_another_network_are_refused():
    network = MLP((2, 3, 1))
    with pytest.raises(UsageError, match=r"sizes \(2, 4, 1\), but the network has \(2, 3, 1\)"):
        initial_parameters(MLP((2, 4, 1))).check(network)
    with pytest.raises(UsageError, match="give one b per layer"):
        initial_parameters(MLP((2, 3, 1), bias=False)).check(network)


@pytest.mark.parametrize(
    ("scheme", "std", "bias_std"),
    [
        ("normal", 1, 1),
        ("scaled_normal", 300**-0.5, 1),
        ("xavier", (2 / 700) ** 0.5, 0),
        ("he", (2 / 300) ** 0.5, 0),
    ],
)
def test_a_scheme_has_the_spread_that_it_states(scheme, std, bias_std):
    parameters = initial_parameters(MLP((300, 400, 2)), seed=3, scheme=scheme)
    assert parameters.W[0].std() == pytest.approx(std, rel=0.01)
    assert parameters.b[0].std() == pytest.approx(bias_std, rel=0.1)


def test_a_seed_draws_the_same_parameters_and_another_seed_others():
    network = MLP((5, 4, 3))
    assert initial_parameters(network, 1).digest() == initial_parameters(network, 1).digest()
    assert initial_parameters(network, 1).digest() != initial_parameters(network, 2).digest()
    with pytest.raises(UsageError, match="did you mean 'xavier'"):
        initial_parameters(network, scheme="xavir")
