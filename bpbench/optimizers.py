"""By which formula do parameters move? Descriptions of the optimizers, each with its one formula.

Throughout, g is the gradient of the mean loss with ``l2 * W`` added to dW (biases are not
decayed), every state starts at 0 and the step count t at 1. docs/conventions.md says which
framework's own optimizer computes which of these formulas.

``step`` is the formulas themselves, for backends that need them in a framework's own tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

from bpbench.errors import Unsupported, UsageError, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Optimizer:
    """What all optimizers share: a learning rate and the weight of the L2 term.

    Args:
        learning_rate: eta of equation (10), at least 0.
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

    @property
    def name(self) -> str:
        """What tables of formulas have it under: a class that only looks like another has none."""
        kind = type(self)
        known = OPTIMIZERS.get(kind.__name__) is kind
        return kind.__name__ if known else f"{kind.__module__}.{kind.__qualname__}"

    def describe(self) -> dict[str, Any]:
        """The fields as plain data, with the name; ``from_description`` makes it again."""
        return {"name": self.name, **asdict(self)}

    def __str__(self) -> str:
        fields = {k: v for k, v in asdict(self).items() if v != type(self).__dict__.get(k, 0.0)}
        text = (f"{k}={v}" if isinstance(v, bool) else f"{k}={v:g}" for k, v in fields.items())
        return f"{self.name}({', '.join(text)})"


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, with momentum where asked for.

    v = momentum * v + g; W -= learning_rate * v; with nesterov, W -= learning_rate * (g +
    momentum * v).

    Source: equations (10) and (11) (momentum 0); Sutskever et al. 2013.
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


def entry_for(optimizer: Optimizer, table: Mapping[type[Optimizer], T], what: str) -> T:
    """What a table by class has for an optimizer.

    Raises:
        UsageError: it has nothing for exactly this class; the message begins with ``what``.
    """
    kind = type(optimizer)
    if kind not in table:
        known = ", ".join(sorted(one.__name__ for one in table))
        raise UsageError(f"{what} has no formula for {optimizer.name}; it has those for {known}")
    return table[kind]


def from_description(description: dict[str, Any]) -> Optimizer:
    """The optimizer that ``describe`` described."""
    fields = dict(description)
    name = fields.pop("name", None)
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name](**fields)


# ── The formulas, in whatever tensors they are given ───────────────────────────────────────────

Tensor = Any
Moments = tuple[Tensor, ...]
Root = Callable[[Tensor], Tensor]
Correction = Callable[[float], Tensor]


def _sgd(
    o: SGD, g: Tensor, moments: Moments, sqrt: Root, correction: Correction
) -> tuple[Tensor, Moments]:
    if not moments:
        return o.learning_rate * g, ()
    (v,) = moments
    v = o.momentum * v + g
    return o.learning_rate * (g + o.momentum * v if o.nesterov else v), (v,)


def _rmsprop(
    o: RMSProp, g: Tensor, moments: Moments, sqrt: Root, correction: Correction
) -> tuple[Tensor, Moments]:
    (v,) = moments
    v = o.decay * v + (1 - o.decay) * g**2
    return o.learning_rate * g / (sqrt(v) + o.epsilon), (v,)


def _adam(
    o: Adam, g: Tensor, moments: Moments, sqrt: Root, correction: Correction
) -> tuple[Tensor, Moments]:
    m, v = moments
    m = o.beta1 * m + (1 - o.beta1) * g
    v = o.beta2 * v + (1 - o.beta2) * g**2
    m_hat, v_hat = m / correction(o.beta1), v / correction(o.beta2)
    return o.learning_rate * m_hat / (sqrt(v_hat) + o.epsilon), (m, v)


class Formula(NamedTuple):
    """An optimizer's formula.

    Attributes:
        moments: how many tensors, each shaped like the parameter, it keeps of one parameter.
        step: see ``step``.
        counts: whether it asks for ``correction``, which counts steps.
    """

    moments: Callable[[Any], int]
    step: Callable[..., tuple[Tensor, Moments]]
    counts: bool = False


FORMULAS = {
    "SGD": Formula(lambda o: 1 if o.momentum else 0, _sgd),
    "RMSProp": Formula(lambda o: 1, _rmsprop),
    "Adam": Formula(lambda o: 2, _adam, counts=True),
}


def step(
    optimizer: Optimizer, g: Tensor, moments: Moments, sqrt: Root, correction: Correction
) -> tuple[Tensor, Moments]:
    """One step of one parameter, in the tensors of any framework.

    Args:
        g: its gradient, the l2 term included.
        moments: what the step before returned: () or (v,) or (m, v), each shaped like g; before
            the first step as many zeros as ``FORMULAS`` tells.
        sqrt: the framework's square root.
        correction: beta -> 1 - beta^t for the step count t, from 1, in the dtype of g, for a
            formula that ``counts``. How to compute it without losing digits is for the framework to
            say.

    Returns:
        What is to be taken from the parameter, shaped like g, and the moments after the step.

    Raises:
        Unsupported: an optimizer that has no formula here.

    Source: equations (10) and (11), and the sources of the descriptions.
    """
    if optimizer.name not in FORMULAS:
        raise Unsupported(
            f"there is no formula for optimizer {optimizer.name!r}; "
            f"there are those for: {', '.join(FORMULAS)}"
        )
    return FORMULAS[optimizer.name].step(optimizer, g, moments, sqrt, correction)
