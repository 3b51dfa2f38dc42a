"""What does Keras leave to the framework below it? Its engines: jax, tensorflow, torch.

A process has one of them, chosen before its first ``import keras``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from functools import partial
from typing import Any

from bpbench.errors import MissingBackend, UsageError
from bpbench.network import Array

Tensor = Any
STEPS_PER_FIT = 4096
"""The length of the buffer of losses; a longer order is trained by several calls of ``fit``."""


class Engine:
    """A framework below Keras.

    ``gradient`` makes of an objective(perturbations, x, ...) -> (loss, more) the function of the
    same arguments that returns (loss, more), (derivatives by variables, by perturbations, by x).
    """

    steps_per_execution = STEPS_PER_FIT

    def __init__(self, framework: Any) -> None:
        self.framework = framework

    def fit_arguments(self, order: Array) -> dict[str, Any]:
        return {"x": order.reshape(-1), "batch_size": order.shape[1]}

    def function(self, function: Any, variables: list[Any]) -> Any:
        """A function that uses the variables, compiled where that needs to be asked for."""
        return function


class JaxEngine(Engine):
    def sees_gpu(self) -> bool:
        return any(device.platform == "gpu" for device in self.framework.devices())

    def synchronize(self, variables: list[Any]) -> None:
        self.framework.block_until_ready([variable.value for variable in variables])

    def function(
        self, function: Any, variables: list[Any], transformed: Any = lambda stateless: stateless
    ) -> Any:
        import keras

        def stateless(values: Any, *arguments: Any) -> Any:
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return function(*arguments)

        compiled = self.framework.jit(transformed(stateless))
        return lambda *arguments: compiled([v.value for v in variables], *arguments)

    def gradient(self, objective: Any, variables: list[Any]) -> Any:
        by_all = partial(self.framework.value_and_grad, argnums=(0, 1, 2), has_aux=True)
        return self.function(objective, variables, by_all)


class TensorFlowEngine(Engine):
    def sees_gpu(self) -> bool:
        return bool(self.framework.config.list_physical_devices("GPU"))

    def synchronize(self, variables: list[Any]) -> None:
        self.framework.test.experimental.sync_devices()

    def fit_arguments(self, order: Array) -> dict[str, Any]:
        # what fit makes of an array takes 35 ms more in every call
        return {"x": self.framework.data.Dataset.from_tensor_slices(order)}

    def gradient(self, objective: Any, variables: list[Any]) -> Any:
        def differentiate(perturbations: Any, x: Tensor, *given: Any) -> Any:
            with self.framework.GradientTape() as tape:
                tape.watch((perturbations, x))
                loss, more = objective(perturbations, x, *given)
            values = [variable.value for variable in variables]
            return (loss, more), tape.gradient(loss, (values, perturbations, x))

        return differentiate


class TorchEngine(Engine):
    steps_per_execution = 1  # Keras takes no other on torch

    def sees_gpu(self) -> bool:
        return self.framework.cuda.is_available()

    def synchronize(self, variables: list[Any]) -> None:
        if variables[0].value.is_cuda:
            self.framework.cuda.synchronize()

    def gradient(self, objective: Any, variables: list[Any]) -> Any:
        def differentiate(perturbations: Any, x: Tensor, *given: Any) -> Any:
            x, *perturbations = (tensor.detach().requires_grad_() for tensor in (x, *perturbations))
            loss, more = objective(perturbations, x, *given)
            values = [variable.value for variable in variables]
            found = self.framework.autograd.grad(loss, [*values, *perturbations, x])
            return (loss, more), (found[: len(values)], found[len(values) : -1], found[-1])

        return differentiate


ENGINES: dict[str, Any] = {"jax": JaxEngine, "tensorflow": TensorFlowEngine, "torch": TorchEngine}


def import_keras(engine: str) -> tuple[Any, Any]:
    """Keras on one of its engines, which it keeps as long as the process lives, and that engine.

    Raises:
        MissingBackend: the engine's own package is not installed.
        UsageError: Keras has been imported with another engine.
    """
    if importlib.util.find_spec(engine) is None:
        raise MissingBackend(
            f"keras:{engine} needs the package {engine!r}; "
            f"install it with: pip install 'bpbench[{engine}]'"
        )
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = engine
    import keras

    running = keras.config.backend()
    if running != engine:
        use = f"use keras:{running}, or " if running in ENGINES else ""
        raise UsageError(
            f"keras:{engine}: Keras already runs on {running!r} in this process, and a process "
            f"has one engine only; {use}start another process for keras:{engine}, as the command "
            "line does"
        )
    return keras, importlib.import_module(engine)


def running_engine() -> str | None:
    """The engine that Keras runs on in this process, None where nobody has imported it yet."""
    keras = sys.modules.get("keras")
    return None if keras is None else str(keras.config.backend())
