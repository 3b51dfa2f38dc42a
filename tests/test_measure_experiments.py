"""Do the timing experiments load, and do the bare recipes train as bpbench does?"""

from __future__ import annotations

import importlib.util
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import bpbench
from bpbench.experiment import load

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ("bare_numpy.py:Bare", "bare_torch.py:Eager", "bare_torch.py:Manual",
           "bare_torch.py:Compiled", "bare_torch.py:Unrolled", "bare_jax.py:Bare",
           "bare_tensorflow.py:Bare", "bare_keras.py:Jax")  # fmt: skip
"""Of those that can be tested in one process, which has one engine of Keras."""
NETWORKS = {
    "sigmoid": bpbench.MLP((3, 4, 5, 2)),
    "softmax": bpbench.MLP((3, 4, 2), output="softmax", loss="cross_entropy"),
}


def test_the_six_workloads_are_those_of_the_protocol() -> None:
    shapes = {
        experiment.name: (experiment.network.sizes[:3], experiment.batch_size, experiment.dtype)
        for experiment in load(ROOT / "experiments/speed.py")
    }
    assert shapes == {
        "speed-a": ((2, 3, 1), 4, "float64"),
        "speed-b": ((64, 32, 10), 64, "float32"),
        "speed-c": ((784, 30, 10), 10, "float32"),
        "speed-d": ((784, 256, 256), 128, "float32"),
        "speed-e": ((784, 1024, 1024), 512, "float32"),
        "speed-f": ((64, 128, 128), 128, "float32"),
    }


def test_scaling_grows_one_thing_at_a_time() -> None:
    found = {e.name: list(e.vary) for e in load(ROOT / "experiments/scaling.py")}
    assert found == {
        "scaling-width": ["width"], "scaling-depth": ["depth"], "scaling-batch": ["batch_size"],
    }  # fmt: skip


def test_every_recipe_is_timed_beside_bpbench() -> None:
    found = load(ROOT / "experiments/overhead.py")
    assert len(found) == 6
    for experiment in found:
        names = {Path(name).name for name in experiment.backends or ()}
        assert set(RECIPES) < names


SLOW = {("bare_torch.py:Compiled", "sigmoid"), ("bare_torch.py:Unrolled", "sigmoid")}
"""They compile for seconds; one network is enough."""


@pytest.mark.parametrize(
    ("recipe", "name"), [each for each in product(RECIPES, NETWORKS) if each not in SLOW]
)
def test_a_bare_recipe_trains_as_the_reference_does(
    recipe: str, name: str, request: pytest.FixtureRequest
) -> None:
    framework = recipe.removeprefix("bare_").partition(".")[0]
    if importlib.util.find_spec(framework) is None:
        required = request.config.getoption("--require-backends")
        (pytest.fail if required else pytest.skip)(f"{framework} is not installed")
    network = NETWORKS[name]
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 3)), np.eye(2)[rng.integers(2, size=12)]
    order = rng.integers(12, size=(9, 5))  # eight together, and one
    given = bpbench.initial_parameters(network, seed=1)
    results = []
    for spec in ("numpy", f"{ROOT}/benchmarks/{recipe}"):
        model = bpbench.get_backend(spec, dtype="float64").model(network, given)
        for _ in range(2):  # the second time from the same start
            model.set_parameters(given)
            losses = model.train(x, y, order, bpbench.SGD(0.5))
        results.append((losses, model.parameters()))
    (losses, final), (bare_losses, bare_final) = results
    np.testing.assert_allclose(bare_losses, losses, rtol=1e-12)
    for own, other in zip(bare_final.W + bare_final.b, final.W + final.b, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-10, atol=1e-14)
