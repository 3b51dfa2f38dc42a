"""How do rounding errors grow from step to step of training? Their variance, through the optimizer.

Each step adds the rounding of its gradient (``variance``) and of the update; the errors that the
parameters already carry come back through the next gradient. Where momentum or a running average
remembers a gradient, its error is remembered too.
"""

from __future__ import annotations

import numpy as np

from bpbench.arithmetic import Array
from bpbench.arithmetic.rounding import Precision
from bpbench.optimizers import SGD, Adam, Optimizer, RMSProp


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
        zero = np.zeros_like(like)
        self._m = self._v = zero  # the optimizer's own state
        self._Vm = self._Vv = self._Cmv = zero  # its errors' variances and covariance
        self._with_step = zero  # the covariance of the errors of the array and of momentum's state
        self._t = 0

    def step(self, g: Array, Vg: Array, value: Array) -> None:
        """Pass one step.

        Args:
            g: the true gradient, and
            Vg: the variance of its error.
            value: the parameter after the step.
        """
        if isinstance(self.optimizer, SGD):
            self._sgd(self.optimizer, g, Vg)
        elif isinstance(self.optimizer, RMSProp):
            self.variance = self.variance + self._scaled_step(g, Vg)
        else:  # errors of steps that share a long memory add up
            deviation = np.sqrt(self.variance) + np.sqrt(self._scaled_step(g, Vg))
            self.variance = deviation**2
        self.variance = self.variance + (self.p.unit * value) ** 2 + self.p.tiny**2

    def _sgd(self, o: SGD, g: Array, Vg: Array) -> None:
        """v' = momentum v + g, exactly linear: variances and the covariance of W and v."""
        u, mu, rate = self.p.unit, o.momentum, o.learning_rate
        v = mu * self._v + g
        Vv = mu**2 * self._Vv + Vg + (u * v) ** 2
        if o.nesterov:  # W' = W - rate ((1 + mu) g + mu^2 v)
            step = g + mu * v
            Vstep = (1 + mu) ** 2 * Vg + mu**4 * self._Vv
            with_step = mu**2 * self._with_step
            covariance = mu * self._with_step - rate * ((1 + mu) * Vg + mu**3 * self._Vv)
        else:
            step, Vstep = v, Vv
            with_step = mu * self._with_step
            covariance = mu * self._with_step - rate * Vv
        moved = rate**2 * (Vstep + (3 * u * step) ** 2)
        self.variance = self.variance - 2 * rate * with_step + moved
        self._v, self._Vv, self._with_step = v, Vv, covariance

    def _scaled_step(self, g: Array, Vg: Array) -> Array:
        """The variance of a step rate * m / (sqrt(v) + epsilon), to first order in g's errors."""
        o, u = self.optimizer, self.p.unit
        assert isinstance(o, RMSProp | Adam)
        beta1, beta2 = (0.0, o.decay) if isinstance(o, RMSProp) else (o.beta1, o.beta2)
        new1, new2 = 1 - beta1, 1 - beta2
        self._t += 1
        self._m = beta1 * self._m + new1 * g
        self._v = beta2 * self._v + new2 * g**2
        self._Vm = beta1**2 * self._Vm + new1**2 * Vg
        self._Vv = beta2**2 * self._Vv + new2**2 * (4 * g**2 * Vg + 2 * Vg**2)
        self._Cmv = beta1 * beta2 * self._Cmv + new1 * new2 * 2 * g * Vg
        full1, full2 = 1.0, 1.0
        constants = 1 / new1 + 0.5 / new2  # 1 - beta is rounded, one error for all entries,
        if isinstance(o, Adam):
            full1, full2 = 1 - beta1**self._t, 1 - beta2**self._t
            constants += np.sqrt(self._t + 1) * (1 / full1 + 0.5 / full2)  # and so is 1 - beta^t
        m, v = self._m / full1, self._v / full2 + self.p.tiny
        Vm, Vv, Cmv = self._Vm / full1**2, self._Vv / full2**2, self._Cmv / (full1 * full2)
        root = np.sqrt(v)
        below = root + o.epsilon
        linear = (
            Vm / below**2 - m * Cmv / (root * below**3) + m**2 * Vv / (4 * v * below**4)
        )  # fmt: skip
        # Where rounding decides the sign of g, the step may go either way.
        relative = np.minimum(Vv / (4 * v**2) + Vm / (m**2 + self.p.tiny), 1 / 8)
        either_way = (16 * relative * m / below) ** 2
        rounding = ((4 + constants / np.sqrt(3)) * u * m / below) ** 2
        return np.asarray(o.learning_rate**2 * (np.maximum(linear, 0) + either_way + rounding))
