"""How do rounding errors grow from step to step of training? Their variance, through the optimizer.

Each step adds the rounding of its gradient (``variance``) and of the update; the errors that the
parameters already carry come back through the next gradient. Where momentum or a running average
remembers a gradient, its error is remembered too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bpbench.arithmetic import Array
from bpbench.arithmetic.rounding import Precision
from bpbench.optimizers import SGD, Adam, Optimizer, RMSProp, entry_for


class ErrorPropagation:
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
        self._formula = entry_for(optimizer, _FORMULAS, "the variance of training")

    def step(self, g: Array, Vg: Array, value: Array) -> None:
        """Pass one step.

        Args:
            g: the true gradient, and
            Vg: the variance of its error.
            value: the parameter after the step.
        """
        self._formula(self, self.optimizer, g, Vg)
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

    def _rmsprop(self, o: RMSProp, g: Array, Vg: Array) -> None:
        constants = 1.0 + 0.5 / (1 - o.decay)  # 1 - decay is rounded, one error for all entries
        step = self._scaled_step(o, g, Vg, (0.0, o.decay), (1.0, 1.0), constants)
        self.variance = self.variance + step

    def _adam(self, o: Adam, g: Array, Vg: Array) -> None:
        """Errors of steps that share a long memory add up."""
        self._t += 1
        full1, full2 = 1 - o.beta1**self._t, 1 - o.beta2**self._t
        constants = 1 / (1 - o.beta1) + 0.5 / (1 - o.beta2)
        constants += np.sqrt(self._t + 1) * (1 / full1 + 0.5 / full2)  # 1 - beta^t is rounded, too
        step = self._scaled_step(o, g, Vg, (o.beta1, o.beta2), (full1, full2), constants)
        self.variance = (np.sqrt(self.variance) + np.sqrt(step)) ** 2

    def _scaled_step(
        self,
        o: RMSProp | Adam,
        g: Array,
        Vg: Array,
        betas: tuple[float, float],
        full: tuple[float, float],
        constants: float,
    ) -> Array:
        """The variance of a step rate * m / (sqrt(v) + epsilon), to first order in g's errors.

        Args:
            betas: of the running averages m and v.
            full: what each is divided by to make up for its start at 0.
            constants: by how many units of roundoff the betas' own rounding moves the step.
        """
        (beta1, beta2), (full1, full2), u = betas, full, self.p.unit
        new1, new2 = 1 - beta1, 1 - beta2
        self._m = beta1 * self._m + new1 * g
        self._v = beta2 * self._v + new2 * g**2
        self._Vm = beta1**2 * self._Vm + new1**2 * Vg
        self._Vv = beta2**2 * self._Vv + new2**2 * (4 * g**2 * Vg + 2 * Vg**2)
        self._Cmv = beta1 * beta2 * self._Cmv + new1 * new2 * 2 * g * Vg
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


_FORMULAS: dict[type[Optimizer], Callable[[ErrorPropagation, Any, Array, Array], None]] = {
    SGD: ErrorPropagation._sgd,
    RMSProp: ErrorPropagation._rmsprop,
    Adam: ErrorPropagation._adam,
}
