"""bpbench: are a network's gradients right, how fast are they, and do frameworks learn the same?

Importing bpbench imports no framework and no pandas: a framework is imported when ``get_backend``
is asked for it, in this process, or by the command line in a process of its own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bpbench import datasets
from bpbench.backend import Backend, Backpropagation, Gradients, Model
from bpbench.errors import BpbenchError, MissingBackend, Unsupported, UsageError
from bpbench.network import MLP, Parameters, initial_parameters
from bpbench.optimizers import SGD, Adam, RMSProp
from bpbench.registry import BackendInfo, get_backend, list_backends

if TYPE_CHECKING:
    import bpbench.testing as testing
    from bpbench.experiment import Experiment
    from bpbench.verify.check import check

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "SGD",
    "Adam",
    "Backend",
    "BackendInfo",
    "Backpropagation",
    "BpbenchError",
    "Experiment",
    "Gradients",
    "MissingBackend",
    "Model",
    "Parameters",
    "RMSProp",
    "Unsupported",
    "UsageError",
    "check",
    "datasets",
    "get_backend",
    "initial_parameters",
    "list_backends",
    "testing",
]

_LAZY = {"Experiment": "bpbench.experiment", "check": "bpbench.verify.check"}


def __getattr__(name: str) -> Any:
    if name == "testing":
        return importlib.import_module("bpbench.testing")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'bpbench' has no attribute {name!r}")
