"""By which formula do parameters move? Descriptions of the optimizers, each with its one formula.

Throughout, g is the gradient of the mean loss with ``l2 * W`` added to dW (biases are not
decayed), every state starts at 0 and the step count t at 1. docs/conventions.md says which
framework's own optimizer computes which of these formulas.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from bpbench.errors import UsageError, unknown


@dataclass(frozen=True)
class Optimizer:
    """What all optimizers share: a learning rate and the weight of the L2 term.

    Args:
        learning_rate: the document's eta, at least 0.
        l2: lambda: 0.5 * l2 * sum of W^2 is added to the loss; at least 0.

    Raises:
        UsageError: a value outside its range.
    """

    learning_rate: float
    l2: float = 0.0

    _ranges: ClassVar[dict[str, tuple[float, float]]] = {
        "learning_rate": (0, math.inf), "l2": (0, math.inf), "momentum": (0, 1), "decay": (0, 1),
        "beta1": (0, 1), "beta2": (0, 1), "epsilon": (0, math.inf),
    }  # fmt: skip

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) and name == "nesterov":
                continue
            low, high = self._ranges.get(name, (-math.inf, math.inf))
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not low <= number < high:
                raise UsageError(
                    f"{type(self).__name__}: {name} is {value!r}; "
                    f"expected a number, at least {low:g} and less than {high:g}"
                )
            object.__setattr__(self, name, number)

    def describe(self) -> dict[str, Any]:
        """The fields as plain data, with the name; ``from_description`` makes it again."""
        return {"name": type(self).__name__, **asdict(self)}

    def __str__(self) -> str:
        fields = {k: v for k, v in asdict(self).items() if v != type(self).__dict__.get(k, 0.0)}
        text = (f"{k}={v}" if isinstance(v, bool) else f"{k}={v:g}" for k, v in fields.items())
        return f"{type(self).__name__}({', '.join(text)})"


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, with momentum where asked for.

    v = momentum * v + g; W -= learning_rate * v; with nesterov, W -= learning_rate * (g +
    momentum * v).

    Source: section 3.2, step 4 (momentum 0); Sutskever et al. 2013.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.nesterov, bool):
            raise UsageError(f"SGD: nesterov is {self.nesterov!r}; expected True or False")
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise UsageError("SGD: nesterov=True needs a momentum above 0, such as momentum=0.9")


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """Steps divided by a running root mean square of the gradient.

    v = decay * v + (1 - decay) * g^2; W -= learning_rate * g / (sqrt(v) + epsilon).

    Source: Tieleman & Hinton 2012; epsilon outside the root, as in PyTorch.
    """

    decay: float = 0.99
    epsilon: float = 1e-8


@dataclass(frozen=True)
class Adam(Optimizer):
    """Steps by bias-corrected running moments of the gradient.

    m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g^2; m^ = m / (1 - beta1^t);
    v^ = v / (1 - beta2^t); W -= learning_rate * m^ / (sqrt(v^) + epsilon).

    Source: Kingma & Ba 2015, algorithm 1.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8


OPTIMIZERS: dict[str, type[Optimizer]] = {kind.__name__: kind for kind in (SGD, RMSProp, Adam)}


def from_description(description: dict[str, Any]) -> Optimizer:
    """The optimizer that ``describe`` described."""
    fields = dict(description)
    name = fields.pop("name", None)
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name](**fields)
