"""How do rounding errors grow from step to step of training? Their variance, through the optimizer.

Each step adds the rounding of its gradient (``variance``) and of the update; the errors that the
parameters already carry come back through the next gradient. Where momentum or a running average
remembers a gradient, its error is remembered too.
"""

from __future__ import annotations

import numpy as np

from bpbench.network import Array
from bpbench.optimizers import SGD, Adam, Optimizer, RMSProp
from bpbench.verify.variance import Precision


class Drift:
    """The variance of one parameter array's error, carried through its optimizer's steps.

    Args:
        optimizer: whose formula.
        like: the array, for its shape.
        p: what is computed in.
    """

    def __init__(self, optimizer: Optimizer, like: Array, p: Precision) -> None:
        self.optimizer, self.p = optimizer, p
        self.variance = np.zeros_like(like)
        self._m = self._v = self._covariance = np.zeros_like(like)
        self._Vm = self._Vv = np.zeros_like(like)
        self._t = 0

    def step(self, g: Array, Vg: Array, value: Array) -> None:
        """Pass one step.

        Args:
            g: the true gradient, and
            Vg: the variance of its error.
            value: the parameter after the step.
        """
        self._t += 1
        if isinstance(self.optimizer, SGD):
            self._sgd(self.optimizer, g, Vg)
        else:
            deviation = np.sqrt(self.variance) + self._scaled_step(g, Vg)
            self.variance = deviation**2  # errors of steps that share a memory add up
        self.variance = self.variance + (self.p.unit * value) ** 2 + self.p.tiny**2

    def _sgd(self, o: SGD, g: Array, Vg: Array) -> None:
        """v' = momentum v + g, exactly linear: variances and the covariance of W and v."""
        u, mu, rate = self.p.unit, o.momentum, o.learning_rate
        v = mu * self._v + g
        Vv = mu**2 * self._Vv + Vg + (u * v) ** 2
        if o.nesterov:  # W' = W - rate ((1 + mu) g + mu^2 v)
            step = g + mu * v
            Vstep = (1 + mu) ** 2 * Vg + mu**4 * self._Vv
            with_step = mu**2 * self._covariance
            covariance = mu * self._covariance - rate * ((1 + mu) * Vg + mu**3 * self._Vv)
        else:
            step, Vstep = v, Vv
            with_step = mu * self._covariance
            covariance = mu * self._covariance - rate * Vv
        moved = rate**2 * (Vstep + (3 * u * step) ** 2)
        self.variance = self.variance - 2 * rate * with_step + moved
        self._v, self._Vv, self._covariance = v, Vv, covariance

    def _scaled_step(self, g: Array, Vg: Array) -> Array:
        """The standard deviation of a step that is divided by a root of running squares."""
        o, u = self.optimizer, self.p.unit
        assert isinstance(o, RMSProp | Adam)
        beta2 = o.decay if isinstance(o, RMSProp) else o.beta2
        keep = 1 - beta2
        self._v = beta2 * self._v + keep * g**2
        self._Vv = (
            beta2**2 * self._Vv + keep**2 * (4 * g**2 * Vg + 2 * Vg**2)
            + (3 * u * self._v) ** 2 + (u * g**2) ** 2
        )  # fmt: skip
        if isinstance(o, RMSProp):
            m, Vm, v, Vv, constants = g, Vg, self._v, self._Vv, 0.0
        else:
            self._m = o.beta1 * self._m + (1 - o.beta1) * g
            self._Vm = (
                o.beta1**2 * self._Vm + (1 - o.beta1) ** 2 * Vg + (2 * u * self._m) ** 2
                + (u * g) ** 2
            )  # fmt: skip
            first, second = 1 - o.beta1**self._t, 1 - o.beta2**self._t
            m, Vm, v, Vv = (
                self._m / first,
                self._Vm / first**2,
                self._v / second,
                self._Vv / second**2,
            )
            # 1 - beta^t in the dtype errs by t + 1 roundings of beta^t, and so does every entry.
            constants = u * (self._t + 1) * ((1 - first) / first + (1 - second) / second)
        root = np.sqrt(v)
        spread = np.sqrt(Vv)
        below = root + o.epsilon
        numerator = np.sqrt(Vm) / below
        denominator = np.abs(m) * spread / (root + np.sqrt(spread) + self.p.tiny) / below**2
        deviation = numerator + denominator + (4 * u + constants) * np.abs(m) / below
        return np.asarray(o.learning_rate * np.minimum(deviation, 2 / np.sqrt(keep)))
