"""What a backend has no formula for is refused, never guessed, though a description of it exists.

Rows of activations and losses that no backend knows: test_rows.py.
"""

from dataclasses import dataclass

import numpy as np
import pytest

import bpbench
from bpbench import MLP, Unsupported, initial_parameters
from bpbench.optimizers import Optimizer, step


@dataclass(frozen=True)
class Lion(Optimizer):
    """An optimizer that no backend knows."""


@dataclass(frozen=True)
class Renamed(bpbench.SGD):
    """One that is no SGD, though its class derives from it."""


def with_another(field, value):
    """A small network that has one thing which no backend knows."""
    network = MLP((3, 4, 2), "tanh", "identity")
    object.__setattr__(network, field, value)
    return network


UNKNOWN = {
    "unheard_of_loss": with_another("loss", "unheard_of_loss"),
    "cubic": with_another("hidden", "cubic"),
}


@pytest.mark.parametrize("optimizer", [Lion(0.1), Renamed(0.1)], ids=str)
def test_every_mode_refuses_an_optimizer_before_its_first_step(spec, optimizer):
    network = MLP((3, 4, 2))
    given = initial_parameters(network)
    model = bpbench.get_backend(spec).model(network, given)
    message = f"^{spec} has no formula for optimizer '{optimizer.name}'; it has: SGD, RMSProp, Adam"
    with pytest.raises(Unsupported, match=message):
        model.train(np.zeros((2, 3)), np.zeros((2, 2)), [[0, 1]], optimizer)
    assert model.parameters().digest() == given.astype("float32").digest()


@pytest.mark.parametrize("name", ["cubic", "unheard_of_loss"])
def test_jax_manual_refuses_what_it_has_no_derivative_of(monkeypatch, name):
    backend = pytest.importorskip("bpbench.backends.jax_backend")
    monkeypatch.setitem(backend.ACTIVATIONS, "cubic", lambda z: z**3)
    monkeypatch.setitem(backend.LOSSES, "unheard_of_loss", lambda z, a, y: abs(a - y).sum(axis=1))
    parameters = initial_parameters(MLP((3, 4, 2)))
    bpbench.get_backend("jax:scan").model(UNKNOWN[name], parameters)
    with pytest.raises(Unsupported, match=f"no formula for the derivative of .* '{name}'; it has"):
        bpbench.get_backend("jax:manual").model(UNKNOWN[name], parameters)


def test_numpy_compiled_refuses_what_only_the_reference_has(monkeypatch):
    from bpbench.backends import numpy_reference

    pytest.importorskip("numba")
    loss = numpy_reference.LOSSES["half_squared_error"]
    monkeypatch.setitem(numpy_reference.LOSSES, "unheard_of_loss", loss)
    parameters = initial_parameters(MLP((3, 4, 2)))
    with pytest.raises(Unsupported, match=r"numpy:compiled has no formula for loss"):
        bpbench.get_backend("numpy:compiled").model(UNKNOWN["unheard_of_loss"], parameters)


def test_the_shared_step_knows_no_other_optimizer():
    with pytest.raises(Unsupported, match=r"no formula for optimizer '.*Lion'"):
        step(Lion(0.1), np.ones(2), (), np.sqrt, lambda beta: 1 - beta)
