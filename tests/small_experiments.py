"""Small experiments, for tests that run them in workers."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpbench.datasets import Dataset, Part, xor
from bpbench.experiment import Experiment
from bpbench.network import MLP
from bpbench.optimizers import SGD

PLANTED = "tests/planted_backends.py"


def planted(name: str) -> str:
    """The backend of that name in planted_backends.py."""
    return f"{PLANTED}:{name}"


def xor_experiment(**changes: Any) -> Experiment:
    """XOR in float64, over in a moment."""
    fields: dict[str, Any] = {
        "name": "xor", "network": MLP((2, 3, 1)), "data": xor(), "optimizer": SGD(0.5),
        "epochs": 60, "batch_size": 4, "dtype": "float64", "backends": ["numpy"],
    }  # fmt: skip
    return Experiment(**(fields | changes))


def classes_experiment(**changes: Any) -> Experiment:
    """Three classes, 50 rows in batches of 8, the last of them short; momentum; a test part."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((70, 4))
    y = np.eye(3)[np.argmax(x[:, :3], axis=1)]
    fields: dict[str, Any] = {
        "name": "classes",
        "network": MLP((4, 6, 3), hidden="tanh", output="softmax", loss="cross_entropy"),
        "data": Dataset("classes", Part(x[:50], y[:50]), test=Part(x[50:], y[50:])),
        "optimizer": SGD(0.1, l2=1e-3, momentum=0.9), "epochs": 20, "batch_size": 8,
        "dtype": "float32", "initial": "xavier", "backends": ["numpy"],
    }  # fmt: skip
    return Experiment(**(fields | changes))
