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
from bpbench.optimizers import SGD, Adam, Optimizer, RMSProp, entry_for
from bpbench.verify import truth
from bpbench.verify.diagnose.probe import Probe


@dataclass(frozen=True)
class Loop:
    """A training loop, with what may be wrong in it.

    Attributes:
        stale: the gradient is taken "now", at the parameters of the step "before", or at "start".
        losses: taken "before" or "after" the step.
        factor: multiplies every gradient.
        l2_in_loss, l2_in_gradient, l2_on_biases: where the l2 term is.
        lag: the gradient of so many steps ago is applied.
        skip: steps that do not move the parameters.
        repeat: how many times each batch is applied.
        update: an optimizer's step: (optimizer, state, g) -> what is taken from the parameter.
    """

    stale: str = "now"
    losses: str = "before"
    factor: float = 1.0
    l2_in_loss: float = 1.0
    l2_in_gradient: float = 1.0
    l2_on_biases: float = 0.0
    lag: int = 0
    skip: tuple[int, ...] = ()
    repeat: int = 1
    update: Callable[[Any, dict[str, Any], Array], Array] | None = None


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
    for say, loop, rows in _known(optimizer, order, len(probe.x), probe.network.sizes[-1]):
        expected = _train(probe, rows, optimizer, loop)
        if _agree(expected, losses, final, probe, close):
            return say
    right = _train(probe, order, optimizer, Loop())
    return _moved_otherwise(right[1], losses, right[0], final, probe, close)


def _known(
    optimizer: Optimizer, order: Array, rows: int, outputs: int
) -> Iterator[tuple[str, Loop, Array]]:
    """Sentences, loops and the rows that they see."""
    steps, batch = order.shape
    yield "the losses are those after each step, not before it", Loop(losses="after"), order
    in_turn = np.arange(steps * batch).reshape(order.shape) % rows
    first = np.tile(np.arange(batch), (steps, 1)) % rows
    for other, what in (
        (in_turn, "rows are taken one after the other"), (first, "the first rows are always taken"),
        (np.tile(order[0], (steps, 1)), "the first batch is taken in every step"),
        (order[::-1], "the batches are taken in reverse order"),
        (order[:, ::-1] * 0 + np.sort(order, axis=None).reshape(order.shape), "rows are sorted"),
        (np.roll(order, 1, axis=0), "each step takes the batch of another step: one step late"),
        (np.roll(order, -1, axis=0), "each step takes the batch of the next step"),
    ):  # fmt: skip
        if not np.array_equal(other, order):
            yield f"the order is ignored: {what}", Loop(), other
    stale = "stale parameters: every gradient is taken at"
    yield f"{stale} the parameters from before the first step", Loop(stale="start"), order
    yield f"{stale} the parameters of the step before", Loop(stale="before"), order
    late = "each step applies the gradient of the step before: one step late"
    yield late, Loop(lag=1), order
    yield "the last step does not move the parameters", Loop(skip=(steps - 1,)), order
    yield "the first step does not move the parameters", Loop(skip=(0,)), order
    yield "each batch is applied twice", Loop(repeat=2), order
    yield "no step moves the parameters", Loop(skip=tuple(range(steps))), order
    yield "the parameters go up the gradient, not down: sign", Loop(factor=-1), order
    reduced = "wrong reduction: the gradient is"
    yield f"{reduced} summed over the batch, not averaged", Loop(factor=batch), order
    yield f"{reduced} averaged twice over the batch", Loop(factor=1 / batch), order
    yield f"{reduced} averaged over the outputs too", Loop(factor=1 / outputs), order
    yield "the gradient is doubled", Loop(factor=2), order
    yield "the gradient is halved", Loop(factor=0.5), order
    if optimizer.l2:
        yield "l2 is ignored", Loop(l2_in_loss=0, l2_in_gradient=0), order
        yield (
            "l2 is in the loss but not in the steps: it is ignored there",
            Loop(l2_in_gradient=0),
            order,
        )
        yield "l2 is in the steps but not in the losses", Loop(l2_in_loss=0), order
        yield "l2 acts on the biases too", Loop(l2_on_biases=1), order
        yield "l2 is counted twice", Loop(l2_in_gradient=2), order
        yield "l2 is counted twice", Loop(l2_in_gradient=2, l2_in_loss=2), order
        decoupled = Loop(l2_in_gradient=0, update=_decoupled)
        yield "l2 is taken off the weights beside the optimizer (decoupled)", decoupled, order
    for say, update in _other_formulas(optimizer):
        yield say, Loop(update=update), order


# ── Training, rightly or wrongly ───────────────────────────────────────────────────────────────


def _train(
    probe: Probe, order: Array, optimizer: Optimizer, loop: Loop
) -> tuple[Array, list[Array]]:
    """Losses, (steps,), and the final W and b, in float64."""
    values = [np.array(v) for v in (*probe.W, *probe.b)]
    layers = len(probe.W)
    states: list[dict[str, Any]] = [{"layer": i} for i in range(len(values))]
    history = [values]
    pending: list[list[Array]] = []
    losses = []
    for step, rows in enumerate(order):
        x, y = probe.x[rows], probe.y[rows]
        for _ in range(loop.repeat):
            at = {"now": values, "start": history[0], "before": history[max(step - 1, 0)]}
            loss, gradients = _gradients(probe, values, at[loop.stale], x, y, optimizer, loop)
            pending.append(gradients)
            if loop.lag < len(pending) and step not in loop.skip:
                taken = pending[-1 - loop.lag]
                values = [
                    value - _step(optimizer, loop, state, g, value, i < layers)
                    for i, (value, state, g) in enumerate(zip(values, states, taken, strict=True))
                ]
        if loop.losses == "after":
            loss, _ = _gradients(probe, values, values, x, y, optimizer, loop)
        losses.append(loss)
        history.append(values)
    return np.array(losses), values


def _gradients(
    probe: Probe,
    now: list[Array],
    at: list[Array],
    x: Array,
    y: Array,
    optimizer: Optimizer,
    loop: Loop,
) -> tuple[float, list[Array]]:
    layers = len(probe.W)
    found = truth.backpropagate(
        probe.network, Parameters(tuple(at[:layers]), tuple(at[layers:])), x, y, dtype="float64"
    )
    if at is not now and loop.stale != "start":
        loss = truth.backpropagate(
            probe.network, Parameters(tuple(now[:layers]), tuple(now[layers:])), x, y,
            dtype="float64",
        ).loss  # fmt: skip
    else:
        loss = found.loss
    decay = 0.5 * optimizer.l2 * sum(float((w * w).sum()) for w in now[:layers])
    W = [
        g + loop.l2_in_gradient * optimizer.l2 * w
        for g, w in zip(found.gradients.W, at, strict=False)
    ]
    b = [
        g + loop.l2_on_biases * optimizer.l2 * v
        for g, v in zip(found.gradients.b, at[layers:], strict=True)
    ]
    assert loss is not None
    return float(loss) + loop.l2_in_loss * decay, [loop.factor * g for g in (*W, *b)]


def _step(
    optimizer: Optimizer, loop: Loop, state: dict[str, Any], g: Array, value: Array, weight: bool
) -> Array:
    """What is taken from one parameter."""
    if loop.update is None:
        rule = state.setdefault("rule", truth.OptimizerState(optimizer, value))
        return np.asarray(rule.step(g))
    if loop.update is _decoupled:
        rule = state.setdefault("rule", truth.OptimizerState(replace(optimizer, l2=0.0), value))
        decay = optimizer.learning_rate * optimizer.l2 * value if weight else 0.0
        return np.asarray(rule.step(g)) + decay
    return np.asarray(loop.update(optimizer, state, g))


def _decoupled(optimizer: Any, state: dict[str, Any], g: Array) -> Array:
    raise AssertionError("taken apart in _step, which knows the parameter")


def _other_formulas(optimizer: Optimizer) -> Iterator[tuple[str, Any]]:
    """Steps by formulas that people take for the stated one."""
    return entry_for(optimizer, _OTHERS, "the search for faults")(optimizer)


def _other_sgd(optimizer: SGD) -> Iterator[tuple[str, Any]]:
    if optimizer.momentum:
        yield "momentum is ignored", lambda o, s, g: o.learning_rate * g
        yield "momentum is dampened: v = momentum * v + (1 - momentum) * g", _dampened
        yield "wrong Nesterov: it is plain momentum", _plain_momentum
        yield "wrong formula: Nesterov's step where plain momentum was asked for", _nesterov
        yield "wrong Nesterov: the step uses v from before it was renewed", _old_velocity
        yield (
            "the momentum's state is lost after each step",
            lambda o, s, g: o.learning_rate * g * (1 + (o.momentum if o.nesterov else 0)),
        )


def _other_rmsprop(optimizer: RMSProp) -> Iterator[tuple[str, Any]]:
    yield (
        "epsilon is inside the root",
        lambda o, s, g: o.learning_rate * g / np.sqrt(_average(s, "v", o.decay, g * g) + o.epsilon),
    )
    yield (
        "epsilon is ignored",
        lambda o, s, g: o.learning_rate * g / np.sqrt(_average(s, "v", o.decay, g * g)),
    )
    yield (
        "decay and 1 - decay are exchanged",
        lambda o, s, g: (
            o.learning_rate * g / (np.sqrt(_average(s, "v", 1 - o.decay, g * g)) + o.epsilon)
        ),
    )


def _other_adam(optimizer: Adam) -> Iterator[tuple[str, Any]]:
    yield (
        "Adam's averages are not corrected for their start at 0 (bias correction)",
        _adam(correct=False),
    )
    yield "epsilon is inside the root", _adam(inside=True)
    yield "epsilon is added before the correction of v", _adam(early=True)
    yield "epsilon is ignored", _adam(epsilon=0.0)
    yield "beta1 and beta2 are exchanged", _adam(swap=True)
    yield "the step count starts at 0, not at 1", _adam(first=0)


_OTHERS: dict[type[Optimizer], Callable[[Any], Iterator[tuple[str, Any]]]] = {
    SGD: _other_sgd,
    RMSProp: _other_rmsprop,
    Adam: _other_adam,
}


def _average(state: dict[str, Any], name: str, decay: float, value: Array) -> Array:
    state[name] = decay * state.get(name, 0.0) + (1 - decay) * value
    return np.asarray(state[name])


def _velocity(o: Any, state: dict[str, Any], g: Array) -> Array:
    state["v"] = o.momentum * state.get("v", 0.0) + g
    return np.asarray(state["v"])


def _plain_momentum(o: Any, state: dict[str, Any], g: Array) -> Array:
    return np.asarray(o.learning_rate * _velocity(o, state, g))


def _nesterov(o: Any, state: dict[str, Any], g: Array) -> Array:
    return np.asarray(o.learning_rate * (g + o.momentum * _velocity(o, state, g)))


def _old_velocity(o: Any, state: dict[str, Any], g: Array) -> Array:
    old = state.get("v", np.zeros_like(g))
    _velocity(o, state, g)
    return np.asarray(o.learning_rate * (g + o.momentum * old))


def _dampened(o: Any, state: dict[str, Any], g: Array) -> Array:
    return np.asarray(o.learning_rate * _average(state, "v", o.momentum, g))


def _adam(
    correct: bool = True,
    inside: bool = False,
    early: bool = False,
    swap: bool = False,
    epsilon: float | None = None,
    first: int = 1,
) -> Callable[[Any, dict[str, Any], Array], Array]:
    def step(o: Any, state: dict[str, Any], g: Array) -> Array:
        beta1, beta2 = (o.beta2, o.beta1) if swap else (o.beta1, o.beta2)
        e = o.epsilon if epsilon is None else epsilon
        t = state["t"] = state.get("t", first - 1) + 1
        m, v = _average(state, "m", beta1, g), _average(state, "v", beta2, g * g)
        if correct and t:
            m = m / (1 - beta1**t)
            scale = 1 - beta2**t
        else:
            scale = 1.0
        if inside:
            return np.asarray(o.learning_rate * m / np.sqrt(v / scale + e))
        if early:
            return np.asarray(o.learning_rate * m / ((np.sqrt(v) + e) / np.sqrt(scale)))
        return np.asarray(o.learning_rate * m / (np.sqrt(v / scale) + e))

    return step


# ── Comparison ─────────────────────────────────────────────────────────────────────────────────


def _agree(
    expected: tuple[Array, list[Array]],
    losses: Array,
    final: Parameters,
    probe: Probe,
    close: float,
) -> bool:
    """Whether losses, and the way that every parameter went, are those expected."""
    if not np.allclose(losses, expected[0], rtol=close, atol=0):
        return False
    started = (*probe.W, *probe.b)
    ways = [value - start for value, start in zip(expected[1], started, strict=True)]
    size = max(float(np.abs(way).max()) for way in ways)
    largest = max(float(np.abs(value).max()) for value in started)
    return all(
        np.abs(value - found).max() <= close * max(size, 1e-3 * largest)
        for value, found in zip(expected[1], (*final.W, *final.b), strict=True)
    )


def _moved_otherwise(
    right: list[Array],
    losses: Array,
    true_losses: Array,
    final: Parameters,
    probe: Probe,
    close: float,
) -> str | None:
    """What can be said where no fault fits: whether it is the losses, W or b that are wrong."""
    started = (*probe.W, *probe.b)
    found = (*final.W, *final.b)
    layers = len(probe.W)
    way = max(float(np.abs(v - s).max()) for v, s in zip(right, started, strict=True))
    off = [float(np.abs(v - f).max()) > close * way for v, f in zip(right, found, strict=True)]
    wrong_losses = not np.allclose(losses, true_losses, rtol=close, atol=0)
    if wrong_losses and not any(off):
        ratio = np.asarray(losses) / true_losses
        if np.ptp(ratio) <= close * abs(float(ratio[0])):
            return f"the losses are {ratio[0]:.6g} times what they should be; the steps are right"
        return "the losses are wrong, though the steps are right"
    if any(off) and not any(off[:layers]):
        return "the biases are moved wrongly, though the weights are right"
    if any(off) and not any(off[layers:]) and probe.b:
        return "the weights are moved wrongly, though the biases are right"
    still = [
        name
        for name, s, f in zip(
            [*(f"W[{i}]" for i in range(layers)), *(f"b[{i}]" for i in range(layers))],
            started, found, strict=False,
        )
        if np.abs(np.asarray(f, np.float64) - s).max() <= 1e-7 * np.abs(s).max()
    ]  # fmt: skip
    if still:
        return f"{', '.join(still)} never moves"
    return None
