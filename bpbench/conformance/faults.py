"""What is wrong with a training run? The ways in which training loops go wrong, each computed.

A run that is not right is compared with what each known fault would have given, losses and final
parameters; the first fault that gives the same is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpbench.network import Array, Parameters
from bpbench.optimizers import FORMULAS, SGD, Adam, Moments, Optimizer, RMSProp, entry_for, step
from bpbench.verify import truth
from bpbench.verify.diagnose.probe import Probe

Fault = tuple[str, dict[str, Any]]
"""A sentence, and the fields of the right ``Loop`` that the fault changes."""


@dataclass(frozen=True)
class Loop:
    """A training loop; the defaults are right.

    Attributes:
        order: (steps, batch), the rows that it sees.
        optimizer: the description that its formula takes.
        stale: the gradient is taken "now", at the parameters of the step "before", or at "start",
            where the loss is taken too.
        losses_after: the losses are taken after the step.
        factor: multiplies every gradient.
        l2_in_loss, l2_on_weights, l2_on_biases: how many times the l2 term acts there.
        decoupled: l2 is taken off the weights beside the optimizer.
        lag: the gradient of so many steps ago is applied.
        still: steps that do not move the parameters.
        repeat: how many times each batch is applied.
        sqrt, correction: of the formula, for the step count t.
    """

    order: Array
    optimizer: Any
    stale: str = "now"
    losses_after: bool = False
    factor: float = 1.0
    l2_in_loss: float = 1.0
    l2_on_weights: float = 1.0
    l2_on_biases: float = 0.0
    decoupled: bool = False
    lag: int = 0
    still: tuple[int, ...] = ()
    repeat: int = 1
    sqrt: Callable[[Array, int], Array] = lambda v, t: np.asarray(np.sqrt(v))
    correction: Callable[[float, int], float] = lambda beta, t: 1 - beta**t


def name_fault(
    probe: Probe, order: Array, optimizer: Optimizer, losses: Array, final: Parameters, dtype: str
) -> str | None:
    """The fault that explains a run, in a sentence; None where none does.

    Args:
        probe: the network, the parameters before, and the rows.
        order, optimizer: what was asked.
        losses, final: what came of it.
        dtype: how exactly it must agree.
    """
    close = 1e-7 if dtype == "float64" else 2e-3
    right = Loop(order, optimizer)
    start, found = (*probe.W, *probe.b), (*final.W, *final.b)
    largest = max(float(np.abs(value).max()) for value in start)

    def off(loop: Loop) -> tuple[bool, list[bool], Array]:
        """Whether the losses differ from a loop's, whether each parameter does; its losses."""
        expected, values = _train(probe, loop)
        size = max(float(np.abs(v - s).max()) for v, s in zip(values, start, strict=True))
        near = close * max(size, 1e-3 * largest)
        apart = [not np.abs(v - f).max() <= near for v, f in zip(values, found, strict=True)]
        return not np.allclose(losses, expected, rtol=close, atol=0), apart, expected

    for say, changes in _faults(right, len(probe.x), probe.network.sizes[-1]):
        wrong_losses, apart, _ = off(replace(right, **changes))
        if not wrong_losses and not any(apart):
            return say
    wrong_losses, apart, expected = off(right)
    W, b = apart[: len(probe.W)], apart[len(probe.W) :]
    if wrong_losses and not any(apart):
        ratio = np.asarray(losses) / expected
        if np.ptp(ratio) <= close * abs(float(ratio[0])):
            return f"the losses are {ratio[0]:.6g} times what they should be; the steps are right"
        return "the losses are wrong, though the steps are right"
    if any(b) and not any(W):
        return "the biases are moved wrongly, though the weights are right"
    if any(W) and b and not any(b):
        return "the weights are moved wrongly, though the biases are right"
    names = [
        f"{name}[{i}]" for name, of in (("W", probe.W), ("b", probe.b)) for i in range(len(of))
    ]
    still = [
        name
        for name, s, f in zip(names, start, found, strict=True)
        if np.abs(np.asarray(f, np.float64) - s).max() <= 1e-7 * np.abs(s).max()
    ]
    return f"{', '.join(still)} never moves" if still else None


# ── The faults ─────────────────────────────────────────────────────────────────────────────────


def _faults(right: Loop, rows: int, outputs: int) -> Iterator[Fault]:
    """Each known fault, the likeliest of those that come to the same first."""
    order, (steps, batch) = right.order, right.order.shape
    yield "the losses are those after each step, not before it", {"losses_after": True}
    for say, other in (
        ("rows are taken one after the other", np.arange(order.size).reshape(order.shape) % rows),
        ("the first rows are always taken", np.tile(np.arange(batch), (steps, 1)) % rows),
        ("the first batch is taken in every step", np.tile(order[0], (steps, 1))),
        ("the batches are taken in reverse order", order[::-1]),
        ("rows are sorted", np.sort(order, axis=None).reshape(order.shape)),
        ("each step takes the batch of another step: one step late", np.roll(order, 1, axis=0)),
        ("each step takes the batch of the next step", np.roll(order, -1, axis=0)),
    ):
        if not np.array_equal(other, order):
            yield f"the order is ignored: {say}", {"order": other}
    yield from (
        ("stale parameters: every gradient is taken at the parameters from before the first step",
         {"stale": "start"}),
        ("stale parameters: every gradient is taken at the parameters of the step before",
         {"stale": "before"}),
        ("each step applies the gradient of the step before: one step late", {"lag": 1}),
        ("the last step does not move the parameters", {"still": (steps - 1,)}),
        ("the first step does not move the parameters", {"still": (0,)}),
        ("each batch is applied twice", {"repeat": 2}),
        ("no step moves the parameters", {"still": tuple(range(steps))}),
        ("the parameters go up the gradient, not down: sign", {"factor": -1}),
        ("wrong reduction: the gradient is summed over the batch, not averaged", {"factor": batch}),
        ("wrong reduction: the gradient is averaged twice over the batch", {"factor": 1 / batch}),
        ("wrong reduction: the gradient is averaged over the outputs too", {"factor": 1 / outputs}),
        ("the gradient is doubled", {"factor": 2}),
        ("the gradient is halved", {"factor": 0.5}),
    )  # fmt: skip
    if right.optimizer.l2:
        yield from (
            ("l2 is ignored", {"l2_in_loss": 0, "l2_on_weights": 0}),
            ("l2 is in the loss but not in the steps: it is ignored there", {"l2_on_weights": 0}),
            ("l2 is in the steps but not in the losses", {"l2_in_loss": 0}),
            ("l2 acts on the biases too", {"l2_on_biases": 1}),
            ("l2 is counted twice", {"l2_on_weights": 2}),
            ("l2 is counted twice", {"l2_on_weights": 2, "l2_in_loss": 2}),
            ("l2 is taken off the weights beside the optimizer (decoupled)",
             {"l2_on_weights": 0, "decoupled": True}),
        )  # fmt: skip
    yield from entry_for(right.optimizer, _OTHER_FORMULAS, "the search for faults")(right.optimizer)


def _other_sgd(o: SGD) -> Iterator[Fault]:
    if not o.momentum:
        return
    eta, plain = o.learning_rate, replace(o, nesterov=False)
    yield "momentum is ignored", {"optimizer": replace(plain, momentum=0.0)}
    yield (
        "momentum is dampened: v = momentum * v + (1 - momentum) * g",
        {"optimizer": replace(plain, learning_rate=eta * (1 - o.momentum))},
    )
    if o.nesterov:
        yield "wrong Nesterov: it is plain momentum", {"optimizer": plain}
        lost = replace(plain, momentum=0.0, learning_rate=eta * (1 + o.momentum))
        yield "the momentum's state is lost after each step", {"optimizer": lost}
    else:
        say = "wrong formula: Nesterov's step where plain momentum was asked for"
        yield say, {"optimizer": replace(o, nesterov=True)}


def _wrong_epsilon(o: RMSProp | Adam) -> Iterator[Fault]:
    none = replace(o, epsilon=0.0)
    inside = {"optimizer": none, "sqrt": lambda v, t: np.sqrt(v + o.epsilon)}
    yield "epsilon is inside the root", inside
    yield "epsilon is ignored", {"optimizer": none}


def _other_rmsprop(o: RMSProp) -> Iterator[Fault]:
    yield from _wrong_epsilon(o)
    if o.decay:
        yield "decay and 1 - decay are exchanged", {"optimizer": replace(o, decay=1 - o.decay)}


def _other_adam(o: Adam) -> Iterator[Fault]:
    yield (
        "Adam's averages are not corrected for their start at 0 (bias correction)",
        {"correction": lambda beta, t: 1.0},
    )
    yield from _wrong_epsilon(o)
    yield (
        "epsilon is added before the correction of v",
        {
            "optimizer": replace(o, epsilon=0.0),
            "sqrt": lambda v, t: np.sqrt(v) + o.epsilon / np.sqrt(1 - o.beta2**t),
        },
    )
    swapped = replace(o, beta1=o.beta2, beta2=o.beta1)
    yield "beta1 and beta2 are exchanged", {"optimizer": swapped}
    late = {"correction": lambda beta, t: 1 - beta ** (t - 1) if t > 1 else 1.0}
    yield "the step count starts at 0, not at 1", late


_OTHER_FORMULAS: dict[type[Optimizer], Callable[[Any], Iterator[Fault]]] = {
    SGD: _other_sgd,
    RMSProp: _other_rmsprop,
    Adam: _other_adam,
}
"""Formulas that people take for the stated one."""


# ── Training, rightly or wrongly ───────────────────────────────────────────────────────────────


def _train(probe: Probe, loop: Loop) -> tuple[Array, list[Array]]:
    """Losses, (steps,), and the final W and b, in float64."""
    o, layers = loop.optimizer, len(probe.W)
    values = [np.array(v) for v in (*probe.W, *probe.b)]
    moments = [(np.zeros_like(v),) * FORMULAS[o.name].moments(o) for v in values]
    before = start = values
    waiting: list[list[Array]] = []
    losses = []
    t = 0
    for number, rows in enumerate(loop.order):
        begun = values
        for _ in range(loop.repeat):
            at = {"now": values, "before": before, "start": start}[loop.stale]
            loss = _gradients(probe, loop, start if loop.stale == "start" else values, rows)[0]
            waiting.append(_gradients(probe, loop, at, rows)[1])
            if len(waiting) > loop.lag and number not in loop.still:
                t += 1
                decay = o.learning_rate * o.l2 if loop.decoupled else 0.0
                decayed = [decay] * layers + [0.0] * len(probe.b)
                steps = [
                    _step(loop, g, m, t)
                    for g, m in zip(waiting[-1 - loop.lag], moments, strict=True)
                ]
                moments = [m for _, m in steps]
                values = [
                    v - taken - d * v
                    for v, (taken, _), d in zip(values, steps, decayed, strict=True)
                ]
        before = begun
        losses.append(_gradients(probe, loop, values, rows)[0] if loop.losses_after else loss)
    return np.array(losses), values


def _gradients(probe: Probe, loop: Loop, at: list[Array], rows: Array) -> tuple[float, list[Array]]:
    """The loss and the gradients by W and b at some parameters."""
    layers, l2 = len(probe.W), loop.optimizer.l2
    parameters = Parameters(tuple(at[:layers]), tuple(at[layers:]))
    found = truth.backpropagate(
        probe.network, parameters, probe.x[rows], probe.y[rows], dtype="float64"
    )
    assert found.loss is not None
    W = [
        g + loop.l2_on_weights * l2 * w for g, w in zip(found.gradients.W, at[:layers], strict=True)
    ]
    b = [
        g + loop.l2_on_biases * l2 * v for g, v in zip(found.gradients.b, at[layers:], strict=True)
    ]
    decay = 0.5 * l2 * sum(float((w * w).sum()) for w in at[:layers])
    return float(found.loss) + loop.l2_in_loss * decay, [loop.factor * g for g in (*W, *b)]


def _step(loop: Loop, g: Array, moments: Moments, t: int) -> tuple[Array, Moments]:
    return step(
        loop.optimizer, g, moments, lambda v: loop.sqrt(v, t), lambda beta: loop.correction(beta, t)
    )
