"""Which NumPy calls make up an optimizer's step, on flat arrays of parameters and gradient?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpbench.backends.numpy_common.plan import Plan, blocks, empty
from bpbench.network import Array
from bpbench.optimizers import FORMULAS, Adam, RMSProp


@dataclass(frozen=True)
class Formula:
    """How one optimizer is planned.

    Attributes:
        plan: (plan, update, P, G, *state): adds the step of P, (n,), by its gradient G, (n,).
        factors: (optimizer, t): for a step that divides by a root, its rate and epsilon; None
            where no number differs from step to step.
    """

    plan: Callable[..., None]
    factors: Callable[[Any, int], tuple[float, float]] | None = None


class Update:
    """An optimizer's state over all parameters, and the calls of its step.

    Constant factors are moved to where they cost least: a learning rate to the output's error,
    the smallest array of a step, as ``scale``; Adam's and RMSProp's (1 - beta) to two numbers.
    """

    def __init__(self, optimizer: Any, formula: Formula, size: int, dtype: str) -> None:
        self.optimizer, self.formula = optimizer, formula
        moments = FORMULAS[optimizer.name].moments(optimizer)
        self.state = [empty(size, dtype) for _ in range(moments)]
        self.changes = formula.factors is not None
        """Whether a step needs ``advance`` before it."""
        self.scale = 1.0 if self.changes else optimizer.learning_rate
        self.reset()
        self.rate = np.zeros((), dtype)
        self.epsilon = np.zeros((), dtype)

    def reset(self) -> None:
        """Make the state as it is before the first step."""
        self.t = 0
        for array in self.state:
            array.fill(0)

    def advance(self) -> None:
        """Go to the next step: Adam's and RMSProp's factors, which are a number each."""
        self.t += 1
        assert self.formula.factors is not None
        self.rate[()], self.epsilon[()] = self.formula.factors(self.optimizer, self.t)

    def plan(self, plan: Plan, part: slice, P: Array, G: Array) -> None:
        """Add the step of one part: P, (n,), the parameters, and G, (n,), their gradient."""
        state = [array[part] for array in self.state]
        for cut in blocks(P):
            self.formula.plan(plan, self, P[cut], G[cut], *(array[cut] for array in state))

    def divided(self, plan: Plan, P: Array, above: Array, v: Array, root: Array) -> None:
        """P -= rate * above / (sqrt(v) + epsilon)."""
        plan.call(np.sqrt, v, root)
        plan.call(np.add, root, self.epsilon, root)
        plan.call(np.divide, above, root, root)
        plan.call(np.multiply, root, self.rate, root)
        plan.call(np.subtract, P, root, P)


def _sgd(plan: Plan, update: Update, P: Array, G: Array, *state: Array) -> None:
    """G comes times the learning rate."""
    o = update.optimizer
    if not state:
        plan.call(np.subtract, P, G, P)
        return
    (v,) = state
    plan.call(np.multiply, v, plan.constant(o.momentum), v)
    plan.call(np.add, v, G, v)
    if o.nesterov:
        plan.call(np.subtract, P, G, P)
        plan.call(np.multiply, v, plan.constant(o.momentum), G)
        plan.call(np.subtract, P, G, P)
    else:
        plan.call(np.subtract, P, v, P)


def _rmsprop(plan: Plan, update: Update, P: Array, G: Array, v: Array) -> None:
    o = update.optimizer
    root = plan.scratch(G)
    plan.call(np.multiply, v, plan.constant(o.decay), v)
    plan.call(np.multiply, G, G, root)
    plan.call(np.add, v, root, v)
    update.divided(plan, P, G, v, root)


def _rmsprop_factors(o: RMSProp, t: int) -> tuple[float, float]:
    """With v' = v / (1 - decay), as for Adam."""
    k = (1 - o.decay) ** 0.5
    return o.learning_rate / k, o.epsilon / k


def _adam(plan: Plan, update: Update, P: Array, G: Array, m: Array, v: Array) -> None:
    o = update.optimizer
    plan.call(np.multiply, m, plan.constant(o.beta1), m)
    plan.call(np.add, m, G, m)
    plan.call(np.multiply, G, G, G)
    plan.call(np.multiply, v, plan.constant(o.beta2), v)
    plan.call(np.add, v, G, v)
    update.divided(plan, P, m, v, G)


def _adam_factors(o: Adam, t: int) -> tuple[float, float]:
    """With v' = v / (1 - beta2) and m' = m / (1 - beta1), which need no product with (1 - beta),
    m^ / (sqrt(v^) + epsilon) = (1 - beta1) / (1 - beta1^t) / k * m' / (sqrt(v') + epsilon / k)
    where k = sqrt((1 - beta2) / (1 - beta2^t)).
    """
    k = ((1 - o.beta2) / (1 - o.beta2**t)) ** 0.5
    return o.learning_rate * ((1 - o.beta1) / (1 - o.beta1**t)) / k, o.epsilon / k


OPTIMIZERS = {
    "SGD": Formula(_sgd),
    "RMSProp": Formula(_rmsprop, _rmsprop_factors),
    "Adam": Formula(_adam, _adam_factors),
}
