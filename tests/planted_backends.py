"""Backends that go wrong in one way each, for tests: NumPy's reference with something planted.

Each is given to workers by its path, ``tests/planted_backends.py:Killed``. What is to happen once
only happens while the file that BPBENCH_TEST_ONCE names is not there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bpbench.backends.numpy_reference import NumPyBackend, ReferenceModel
from bpbench.errors import MissingBackend, Unsupported


class PlantedModel(ReferenceModel):
    """``trouble`` happens before the first step of a call."""

    def steps(self, x: Any, y: Any, order: Any, optimizer: Any) -> Any:
        type(self.backend).trouble()
        return super().steps(x, y, order, optimizer)


class Planted(NumPyBackend):
    name = "planted"
    kind: type[ReferenceModel] = PlantedModel

    @staticmethod
    def trouble() -> None:
        """Nothing."""

    def model(self, network: Any, parameters: Any) -> ReferenceModel:
        return self.kind(self, network, parameters)


def once(trouble: Callable[[], None]) -> None:
    """Run into trouble, unless that has happened before."""
    marker = Path(os.environ["BPBENCH_TEST_ONCE"])
    if not marker.exists():
        marker.touch()
        trouble()


# ── Workers that end ───────────────────────────────────────────────────────────────────────────


def kill_self() -> None:
    print("about to go", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def hang_in_c() -> None:
    """Never return, and never let another Python thread run."""
    ctypes.PyDLL(None).sleep(10**6)


def raise_error() -> None:
    raise ArithmeticError("the planted error")


def raise_memory_error() -> None:
    raise MemoryError("no room for the planted array")


def raise_like_a_framework() -> None:
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")


def take_memory() -> None:
    kept = []
    while True:
        kept.append(np.ones(2**22))


def write_everywhere() -> None:
    for descriptor in range(64):
        try:
            os.write(descriptor, b"garbage, and more of it\n")
        except OSError:
            continue


def close_everything() -> None:
    os.closerange(3, 64)


class Killed(Planted):
    trouble = staticmethod(lambda: once(kill_self))


class DoomedModel(ReferenceModel):
    """Ends at the seventh call in a row of one length: while it is timed, three for finding the
    length and two to warm up before."""

    calls = (0, 0)

    def steps(self, x: Any, y: Any, order: Any, optimizer: Any) -> Any:
        length, count = self.calls
        self.calls = (len(order), count + 1 if length == len(order) else 1)
        if len(order) > 50 and self.calls[1] == 7:
            kill_self()
        return super().steps(x, y, order, optimizer)


class KilledWhileTimed(Planted):
    kind = DoomedModel


class Aborted(Planted):
    trouble = staticmethod(lambda: once(os.abort))


class Segfaults(Planted):
    trouble = staticmethod(lambda: once(lambda: os.kill(os.getpid(), signal.SIGSEGV)))


class Hangs(Planted):
    trouble = staticmethod(lambda: once(lambda: threading.Event().wait()))


class HangsInC(Planted):
    trouble = staticmethod(lambda: once(hang_in_c))


class Raises(Planted):
    trouble = staticmethod(lambda: once(raise_error))


class RaisesMemoryError(Planted):
    trouble = staticmethod(lambda: once(raise_memory_error))


class RaisesLikeAFramework(Planted):
    trouble = staticmethod(lambda: once(raise_like_a_framework))


class TakesMemory(Planted):
    trouble = staticmethod(lambda: once(take_memory))


class Exits(Planted):
    trouble = staticmethod(lambda: once(lambda: os._exit(7)))


class SaysExit(Planted):
    trouble = staticmethod(lambda: once(lambda: sys.exit("the planted exit")))


class WritesEverywhere(Planted):
    trouble = staticmethod(lambda: once(write_everywhere))


class ClosesEverything(Planted):
    trouble = staticmethod(lambda: once(close_everything))


class Prints(Planted):
    trouble = staticmethod(lambda: print('{"id": 3, "ok": true}\n' * 100))


class AlwaysHangsInC(Planted):
    trouble = staticmethod(hang_in_c)


# ── Workers that cannot start ──────────────────────────────────────────────────────────────────


class Missing(Planted):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with Path(os.environ["BPBENCH_TEST_ONCE"]).open("a") as starts:
            starts.write("start\n")
        raise MissingBackend("planted needs 'plants'; install it with: pip install plants")


class DiesAtTheStart(Planted):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with Path(os.environ["BPBENCH_TEST_ONCE"]).open("a") as starts:
            starts.write("start\n")
        os.abort()


class DiesTheThirdTime(Planted):
    """Of its processes, the third: after one that verifies and one that is timed, the control."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        marker = Path(os.environ["BPBENCH_TEST_ONCE"])
        with marker.open("a") as starts:
            starts.write("start\n")
        if len(marker.read_text().split()) == 3:
            os.abort()


class OnlySmall(Planted):
    dtypes = ("float32",)


class NoBiases(Planted):
    def model(self, network: Any, parameters: Any) -> ReferenceModel:
        raise Unsupported("planted has no networks at all")


# ── Right gradients, wrong training ────────────────────────────────────────────────────────────


class StaleModel(ReferenceModel):
    """Every gradient is that of the parameters before the last step."""

    def steps(self, x: Any, y: Any, order: Any, optimizer: Any) -> Any:
        losses = []
        stale = [W.copy() for W in self.W]
        for rows in order:
            now, self.W = self.W, stale
            found = self.differentiate(x[rows], y[rows], None, optimizer.l2)
            self.W, stale = now, [W.copy() for W in now]
            losses.append(found.loss)
            for p, g, update in zip(
                (*self.W, *self.b), (*found.gradients.W, *found.gradients.b), self.updates,
                strict=True,
            ):  # fmt: skip
                p -= update.step(g)
        return np.array(losses, self.backend.dtype)


class Stale(Planted):
    kind = StaleModel


class SkippingModel(ReferenceModel):
    every = 10

    def steps(self, x: Any, y: Any, order: Any, optimizer: Any) -> Any:
        losses = np.empty(len(order), self.backend.dtype)
        for step in range(len(order)):
            before = [array.copy() for array in (*self.W, *self.b)]
            losses[step] = super().steps(x, y, order[step : step + 1], optimizer)[0]
            if step % self.every == self.every - 1:
                for array, old in zip((*self.W, *self.b), before, strict=True):
                    array[...] = old
        return losses


class SkipsEveryTenth(Planted):
    kind = SkippingModel


class LateSkippingModel(SkippingModel):
    every = 100


class SkipsEveryHundredth(Planted):
    """Right in the few steps of ``verify``, wrong in the long block that is timed."""

    kind = LateSkippingModel


class LateLossModel(ReferenceModel):
    def steps(self, x: Any, y: Any, order: Any, optimizer: Any) -> Any:
        losses = np.empty(len(order), self.backend.dtype)
        for step, rows in enumerate(order):
            super().steps(x, y, order[step : step + 1], optimizer)
            losses[step] = self.differentiate(x[rows], y[rows], None, optimizer.l2).loss
        return losses


class LossesAfter(Planted):
    kind = LateLossModel


class OtherRowsModel(ReferenceModel):
    def steps(self, x: Any, y: Any, order: Any, optimizer: Any) -> Any:
        return super().steps(x, y, np.sort(order, axis=None).reshape(order.shape), optimizer)


class OtherRows(Planted):
    kind = OtherRowsModel


class ForgetfulModel(ReferenceModel):
    def run(self, batches: Any, optimizer: Any) -> Any:
        self._optimizer = None  # the next call starts the optimizer's state again
        return super().run(batches, optimizer)


class Forgetful(Planted):
    kind = ForgetfulModel


class DoublingModel(ReferenceModel):
    def differentiate(self, *args: Any) -> Any:
        found = super().differentiate(*args)
        found.gradients.W[0][...] *= 2
        return found


class Doubles(Planted):
    """Wrong gradients."""

    kind = DoublingModel
