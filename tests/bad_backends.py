"""Backends that break one contract each: NumPy's reference with a fault, and words that name it.

``FAULTS`` maps each class to a word or two that the conformance suite must say of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bpbench import SGD
from bpbench.backend import Gradients
from bpbench.backends.numpy_reference import NumPyBackend, ReferenceModel, forward

FAULTS: dict[type[NumPyBackend], str] = {}


def bad(words: str) -> Callable[[type[ReferenceModel]], type[NumPyBackend]]:
    """Make a backend of a model, and note how its fault must be named."""

    def backend_of(kind: type[ReferenceModel]) -> type[NumPyBackend]:
        def model(self: Any, network: Any, parameters: Any) -> ReferenceModel:
            return kind(self, network, parameters)

        backend = type(kind.__name__, (NumPyBackend,), {"name": "bad", "model": model})
        FAULTS[backend] = words
        return backend

    return backend_of


def with_gradients(found: Any, W: Any = None, b: Any = None) -> Any:
    """A backpropagation with other gradients."""
    g = found.gradients
    changed = Gradients(
        tuple(g.W if W is None else map(W, g.W)), tuple(g.b if b is None else map(b, g.b))
    )
    return replace(found, gradients=changed)


# ── Gradients ──────────────────────────────────────────────────────────────────────────────────


@bad("wrong dtype")
class WrongDtype(ReferenceModel):
    def download(self, array):
        return np.array(array, np.float32 if self.backend.dtype == "float64" else np.float64)


@bad("transpose")
class TransposedGradients(ReferenceModel):
    def differentiate(self, x, y, cotangent, l2):
        return with_gradients(super().differentiate(x, y, cotangent, l2), W=np.transpose)


@bad("no 1/m")
class WrongReduction(ReferenceModel):
    def differentiate(self, x, y, cotangent, l2):
        found = super().differentiate(x, y, cotangent, l2)
        m = len(x)
        return with_gradients(found, lambda g: m * g, lambda g: m * g)


@bad("db")
class BiasAveraged(ReferenceModel):
    def differentiate(self, x, y, cotangent, l2):
        m = len(x)
        return with_gradients(super().differentiate(x, y, cotangent, l2), b=lambda g: g / m)


@bad("l2 is ignored")
class IgnoresL2(ReferenceModel):
    def differentiate(self, x, y, cotangent, l2):
        return super().differentiate(x, y, cotangent, 0.0)


@bad("L2 on the bias")
class DecaysBiases(ReferenceModel):
    def differentiate(self, x, y, cotangent, l2):
        found = super().differentiate(x, y, cotangent, l2)
        g = found.gradients
        b = tuple(d + l2 * v for d, v in zip(g.b, self.b, strict=True))
        return replace(found, gradients=Gradients(g.W, b))


@bad("not in the loss")
class L2NotInLoss(ReferenceModel):
    def differentiate(self, x, y, cotangent, l2):
        found = super().differentiate(x, y, cotangent, l2)
        if l2 and found.loss is not None:
            return replace(found, loss=super().differentiate(x, y, cotangent, 0.0).loss)
        return found


@bad("cotangent is ignored")
class IgnoresCotangent(ReferenceModel):
    def differentiate(self, x, y, cotangent, l2):
        if cotangent is not None:
            cotangent = np.ones_like(cotangent)
        return super().differentiate(x, y, cotangent, l2)


@bad("accumulate")
class Accumulates(ReferenceModel):
    def differentiate(self, x, y, cotangent, l2):
        found = super().differentiate(x, y, cotangent, l2)
        total = self.__dict__.setdefault("total", [np.zeros_like(W) for W in self.W])
        for sums, g in zip(total, found.gradients.W, strict=True):
            sums += g
        return replace(found, gradients=Gradients(tuple(total), found.gradients.b))


@bad("where z is exactly 0")
class OtherCorner(ReferenceModel):
    def differentiate(self, x, y, cotangent, l2):
        kept, self.b = self.b, [b + 1e-300 for b in self.b]  # moves nothing but an exact 0
        try:
            return super().differentiate(x, y, cotangent, l2)
        finally:
            self.b = kept


# ── Form and memory ────────────────────────────────────────────────────────────────────────────


@bad("share memory")
class Aliasing(ReferenceModel):
    def write_parameters(self, parameters):
        super().write_parameters(parameters)
        self.buffer = None

    def download(self, array):
        return array

    def differentiate(self, x, y, cotangent, l2):
        found = super().differentiate(x, y, cotangent, l2)
        if self.buffer is None or self.buffer.shape != found.input_gradient.shape:
            self.buffer = np.empty_like(found.input_gradient)
        self.buffer[...] = found.input_gradient
        return replace(found, input_gradient=self.buffer)


@bad("share memory")
class HandsOutItsWeights(ReferenceModel):
    def download(self, array):
        return array


@bad("stale")
class KeepsTheParameters(ReferenceModel):
    """Keeps what it is given first, so that set_parameters changes nothing."""

    def write_parameters(self, parameters):
        if not hasattr(self, "W"):
            super().write_parameters(parameters)


@bad("changed in place")
class ModifiesInputs(ReferenceModel):
    def forward(self, x):
        a = forward(self.network, self.W, self.b, x)[1][-1]
        if x.flags.writeable:
            x -= x.mean()
        return a


@bad("predict differs from a[-1]")
class PredictsLogits(ReferenceModel):
    def forward(self, x):
        return forward(self.network, self.W, self.b, x)[0][-1]


@bad("does not give what was set")
class RoundsParameters(ReferenceModel):
    def read_parameters(self):
        W, b = super().read_parameters()
        return tuple(w.astype(np.float16).astype(w.dtype) for w in W), b


@bad("second model")
class SharedState(ReferenceModel):
    """All models of the class have the same weights."""

    def write_parameters(self, parameters):
        super().write_parameters(parameters)
        type(self).W_of_all, type(self).b_of_all = self.W, self.b

    def differentiate(self, x, y, cotangent, l2):
        self.W, self.b = type(self).W_of_all, type(self).b_of_all
        return super().differentiate(x, y, cotangent, l2)


@bad("moves the parameters")
class BackpropagateSteps(ReferenceModel):
    def differentiate(self, x, y, cotangent, l2):
        found = super().differentiate(x, y, cotangent, l2)
        for W, g in zip(self.W, found.gradients.W, strict=True):
            W -= 1e-3 * g
        return found


# ── Training ───────────────────────────────────────────────────────────────────────────────────


class Trains(ReferenceModel):
    """The reference's loop, with places for faults."""

    def rows(self, order):
        return order

    def gradients(self, x, y, optimizer):
        return self.differentiate(x, y, None, optimizer.l2)

    def move(self, update, g):
        return update.step(g)

    def loss(self, found, x, y, optimizer):
        return found.loss

    def steps(self, x, y, order, optimizer):
        losses = np.empty(len(order), self.backend.dtype)
        for step, rows in enumerate(self.rows(order)):
            found = self.gradients(x[rows], y[rows], optimizer)
            gradients = (*found.gradients.W, *found.gradients.b)
            for parameter, g, update in zip(
                (*self.W, *self.b), gradients, self.updates, strict=True
            ):
                parameter -= self.move(update, g)
            losses[step] = self.loss(found, x[rows], y[rows], optimizer)
        return losses


@bad("order is ignored")
class IgnoresOrder(Trains):
    def rows(self, order):
        return np.arange(order.size).reshape(order.shape) % (order.max() + 1)


@bad("losses are those after each step")
class LossesAfterTheStep(Trains):
    def loss(self, found, x, y, optimizer):
        return self.differentiate(x, y, None, optimizer.l2).loss


@bad("stale parameters")
class StaleParameters(Trains):
    """Every gradient of a call is taken where the call began."""

    def steps(self, x, y, order, optimizer):
        self.old = [W.copy() for W in self.W], [b.copy() for b in self.b]
        return super().steps(x, y, order, optimizer)

    def gradients(self, x, y, optimizer):
        now, (self.W, self.b) = (self.W, self.b), self.old
        try:
            return super().gradients(x, y, optimizer)
        finally:
            self.W, self.b = now


@bad("one step late")
class OneStepLate(Trains):
    def start(self, optimizer):
        super().start(optimizer)
        self.waiting = None

    def gradients(self, x, y, optimizer):
        found = super().gradients(x, y, optimizer)
        g = found.gradients
        late = self.waiting or Gradients(
            tuple(map(np.zeros_like, g.W)), tuple(map(np.zeros_like, g.b))
        )
        self.waiting = g
        return replace(found, gradients=late)


@bad("summed over the batch")
class SumsWhileTraining(Trains):
    def gradients(self, x, y, optimizer):
        m = len(x)
        return with_gradients(super().gradients(x, y, optimizer), lambda g: m * g, lambda g: m * g)


@bad("l2 is in the loss but not in the steps")
class TrainsWithoutL2(Trains):
    def gradients(self, x, y, optimizer):
        found = super().gradients(x, y, optimizer)
        return replace(found, gradients=self.differentiate(x, y, None, 0.0).gradients)


@bad("wrong Nesterov")
class WrongNesterov(Trains):
    def move(self, update, g):
        o = update.optimizer
        if isinstance(o, SGD) and o.nesterov:
            update.v = o.momentum * update.v + g
            return o.learning_rate * update.v
        return update.step(g)


@bad("bias correction")
class AdamUncorrected(Trains):
    def move(self, update, g):
        update.t = 10**6 if hasattr(update.optimizer, "beta1") else update.t
        return update.step(g)


@bad("state is not reset")
class KeepsMomentum(Trains):
    def start(self, optimizer):
        if not hasattr(self, "updates"):
            super().start(optimizer)


@bad("changes no parameter")
class TrainsOnce(Trains):
    def start(self, optimizer):
        super().start(optimizer)
        self.done = False

    def steps(self, x, y, order, optimizer):
        if self.done:
            kept = [W.copy() for W in self.W], [b.copy() for b in self.b]
            losses = super().steps(x, y, order, optimizer)
            self.W, self.b = kept
            return losses
        self.done = True
        return super().steps(x, y, order, optimizer)


@bad("live on")
class ForgetsMomentum(Trains):
    """Each call starts the optimizer anew."""

    def steps(self, x, y, order, optimizer):
        self.start(optimizer)
        return super().steps(x, y, order, optimizer)


@bad("last step does not move")
class SkipsTheLastStep(Trains):
    def steps(self, x, y, order, optimizer):
        losses = super().steps(x, y, order[:-1], optimizer)
        last = self.differentiate(x[order[-1]], y[order[-1]], None, optimizer.l2).loss
        return np.append(losses, np.asarray(last, losses.dtype)).astype(losses.dtype)


@bad("compile moves the parameters")
class CompileAdvances(Trains):
    def compile(self, batches, optimizer):
        self.run(batches, optimizer)


@bad("predict uses stale parameters")
class PredictsWithTheOldOnes(ReferenceModel):
    def write_parameters(self, parameters):
        super().write_parameters(parameters)
        self.old = [W.copy() for W in self.W], [b.copy() for b in self.b]

    def forward(self, x):
        return forward(self.network, *self.old, x)[1][-1]


@bad("losses of shape")
class OneLossForAll(Trains):
    def steps(self, x, y, order, optimizer):
        return super().steps(x, y, order, optimizer).mean()


@bad("raises")
class Raises(Trains):
    def steps(self, x, y, order, optimizer):
        if order.shape[1] == 1:
            raise RuntimeError("batches of one are too small")
        return super().steps(x, y, order, optimizer)
