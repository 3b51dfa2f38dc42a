"""Which NumPy calls make up an optimizer's step, on flat arrays of parameters and gradient?"""

from __future__ import annotations

import numpy as np
from bpbench.backends.numpy_common.plan import Plan, blocks, empty

from bpbench.network import Array
from bpbench.optimizers import SGD, Adam, Optimizer, RMSProp


class Update:
    """An optimizer's state over all parameters, and the calls of its step.

    Constant factors are moved to where they cost least: a learning rate to the output's error,
    the smallest array of a step, as ``scale``; Adam's and RMSProp's (1 - beta) to two numbers.
    """

    def __init__(self, optimizer: Optimizer, size: int, dtype: str) -> None:
        self.optimizer = optimizer
        count = {"SGD": 1 if getattr(optimizer, "momentum", 0) else 0, "RMSProp": 1, "Adam": 2}
        if type(optimizer).__name__ not in count:
            raise NotImplementedError(f"numpy has no formula for {optimizer}")
        self.state = [empty(size, dtype) for _ in range(count[type(optimizer).__name__])]
        self.scale = optimizer.learning_rate if isinstance(optimizer, SGD) else 1.0
        self.changes = not isinstance(optimizer, SGD)
        """Whether a step needs ``advance`` before it."""
        self.reset()
        self.rate = np.zeros((), dtype)
        self.epsilon = np.zeros((), dtype)

    def reset(self) -> None:
        """Make the state as it is before the first step."""
        self.t = 0
        for array in self.state:
            array.fill(0)

    def advance(self) -> None:
        """Go to the next step: Adam's and RMSProp's factors, which are a number each.

        With v' = v / (1 - beta2) and m' = m / (1 - beta1), which need no product with (1 - beta),
        m^ / (sqrt(v^) + epsilon) = (1 - beta1) / (1 - beta1^t) / k * m' / (sqrt(v') + epsilon / k)
        where k = sqrt((1 - beta2) / (1 - beta2^t)).
        """
        self.t += 1
        match self.optimizer:
            case RMSProp(learning_rate=rate, epsilon=epsilon, decay=decay):
                k = (1 - decay) ** 0.5
            case Adam(learning_rate=rate, epsilon=epsilon, beta1=beta1, beta2=beta2):
                k = ((1 - beta2) / (1 - beta2**self.t)) ** 0.5
                rate *= (1 - beta1) / (1 - beta1**self.t)
            case _:
                return
        self.rate[()] = rate / k
        self.epsilon[()] = epsilon / k

    def plan(self, plan: Plan, part: slice, P: Array, G: Array) -> None:
        """Add the step of one part: P, (n,), the parameters, and G, (n,), their gradient."""
        state = [array[part] for array in self.state]
        for cut in blocks(P):
            self._plan(plan, P[cut], G[cut], *(array[cut] for array in state))

    def _plan(self, plan: Plan, P: Array, G: Array, *state: Array) -> None:
        match self.optimizer:
            case SGD(momentum=0):
                plan.call(np.subtract, P, G, P)
            case SGD(momentum=momentum, nesterov=nesterov):
                (v,) = state
                plan.call(np.multiply, v, plan.constant(momentum), v)
                plan.call(np.add, v, G, v)
                if nesterov:
                    plan.call(np.subtract, P, G, P)
                    plan.call(np.multiply, v, plan.constant(momentum), G)
                    plan.call(np.subtract, P, G, P)
                else:
                    plan.call(np.subtract, P, v, P)
            case RMSProp(decay=decay):
                (v,) = state
                root = plan.scratch(G)
                plan.call(np.multiply, v, plan.constant(decay), v)
                plan.call(np.multiply, G, G, root)
                plan.call(np.add, v, root, v)
                self._divided(plan, P, G, v, root)
            case Adam(beta1=beta1, beta2=beta2):
                m, v = state
                plan.call(np.multiply, m, plan.constant(beta1), m)
                plan.call(np.add, m, G, m)
                plan.call(np.multiply, G, G, G)
                plan.call(np.multiply, v, plan.constant(beta2), v)
                plan.call(np.add, v, G, v)
                self._divided(plan, P, m, v, G)

    def _divided(self, plan: Plan, P: Array, above: Array, v: Array, root: Array) -> None:
        """P -= rate * above / (sqrt(v) + epsilon)."""
        plan.call(np.sqrt, v, root)
        plan.call(np.add, root, self.epsilon, root)
        plan.call(np.divide, above, root, root)
        plan.call(np.multiply, root, self.rate, root)
        plan.call(np.subtract, P, root, P)
