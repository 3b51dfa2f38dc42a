"""Does a backend compute the right things, in the right form, and leave all else alone?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bpbench.backend import Backend, Backpropagation
from bpbench.conformance.contract import (
    BINARY,
    CORNERED,
    ENTROPY,
    SQUARED,
    Subject,
    Test,
    apart,
    case,
    every_network,
    furthest,
    kept_in,
)
from bpbench.errors import UsageError
from bpbench.network import Array, Parameters, initial_parameters
from bpbench.optimizers import SGD
from bpbench.verify.diagnose.probe import Probe, at_zero, saturated
from bpbench.verify.verdict import judge

CONTRACTS: list[tuple[str, Test]] = []
"""The contracts of a backend's results: the sentence, and how it is tried."""
contract = kept_in(CONTRACTS)
L2 = 0.125


@contract("it names itself and refuses what it does not have")
def _names_itself(subject: Subject) -> list[str]:
    kind = subject.kind
    faults = []
    if not (isinstance(getattr(kind, "name", None), str) and kind.name):
        faults.append("the class has no name; expected a class attribute such as name = 'mine'")
    for attribute in ("modes", "devices", "dtypes"):
        value = getattr(kind, attribute, None)
        if not (isinstance(value, tuple) and value and all(isinstance(v, str) for v in value)):
            faults.append(f"{attribute} is {value!r}; expected a tuple of names")
    unknown_dtypes = set(getattr(kind, "dtypes", ())) - {"float32", "float64"}
    if unknown_dtypes:
        faults.append(
            f"dtypes holds {', '.join(sorted(unknown_dtypes))}; float32, float64 are known"
        )
    try:
        kind(mode="no such mode")
    except UsageError:
        pass
    else:
        faults.append("an unknown mode is not refused: call super().__init__ in __init__")
    backend = kind(mode=subject.mode, device=subject.device, dtype=subject.dtype)
    if (backend.mode, backend.dtype) != (subject.mode, subject.dtype):
        faults.append(f"asked for {subject}, the backend says it is {backend!r}")
    return faults


# ── Right ──────────────────────────────────────────────────────────────────────────────────────


def _off(
    subject: Subject,
    probe: Probe,
    where: str = "",
    cotangent: Array | None = None,
    accepted: Sequence[str] = ("right", "noise-limited"),
) -> list[str]:
    """What is wrong with one backpropagation, as the judge says it."""
    model = subject.model(probe.network, probe.parameters)
    y = None if cotangent is not None else probe.y
    found = model.backpropagate(probe.x, y, cotangent=cotangent, l2=probe.l2)
    report = judge(
        probe.network, probe.parameters, probe.x, y, found, subject.dtype,
        cotangent=cotangent, l2=probe.l2,
    )  # fmt: skip
    if report.verdict in accepted:
        return []
    return [f"{where}{probe.network}: {finding.say}" for finding in report.findings]


@contract("loss, z, a, delta, gradients and input gradient are right")
def _right_everywhere(subject: Subject) -> list[str]:
    faults = [
        fault
        for network in every_network(subject.refuses)
        for fault in _off(subject, case(network, 4))
    ]
    return [*_diagnosed(subject, 0.0), *faults] if faults else []


def _diagnosed(subject: Subject, l2: float) -> list[str]:
    """What the diagnosis says of a backend's gradients, as of any person's."""
    from bpbench.verify.check import check

    def gradients(W: list[Array], b: list[Array], x: Array, y: Array) -> Any:
        parameters = Parameters(tuple(W), tuple(b))
        model = subject.model(replace(ENTROPY, sizes=parameters.sizes), parameters)
        found = model.backpropagate(x, y, l2=l2)
        return found.gradients.W, found.gradients.b

    report = check(
        ENTROPY, gradients, weights="out_in", samples="rows", labels="as given", l2=l2,
        dtype=subject.dtype,
    )  # fmt: skip
    return [f"{f.mistake}: {f}" for f in report.findings if f.mistake != "unknown"]


@contract("l2 is in the loss and in dW, and not in db")
def _weight_decay(subject: Subject) -> list[str]:
    probe = case(ENTROPY, l2=L2)
    off = _off(subject, probe)
    if not off:
        return []
    model = subject.model(probe.network, probe.parameters)
    plain = model.backpropagate(probe.x, probe.y)
    found = model.backpropagate(probe.x, probe.y, l2=L2)
    faults = []
    if found.loss == plain.loss:
        faults.append("l2 is not in the loss: it is the same with it and without")
    if all(map(np.array_equal, found.gradients.W, plain.gradients.W)):
        faults.append("l2 is ignored: dW is the same with it and without")
    else:
        faults += _diagnosed(subject, L2)
    return [*faults, *off]


@contract("a cotangent of the output gives its own gradients")
def _cotangents(subject: Subject) -> list[str]:
    faults = []
    for network in (BINARY, SQUARED):
        probe = case(network)
        drawn = np.random.default_rng(1).standard_normal(probe.y.shape)
        cotangent = _representable(np.asarray(drawn))
        model = subject.model(network, probe.parameters)
        found = model.backpropagate(probe.x, cotangent=cotangent)
        twice = model.backpropagate(probe.x, cotangent=2 * cotangent)
        if found.loss is not None:
            faults.append(f"{network}: loss is {found.loss!r} with a cotangent; expected None")
        if all(map(np.array_equal, found.gradients.W, twice.gradients.W)):
            faults.append(f"{network}: the cotangent is ignored: twice as much changes nothing")
        faults += _off(subject, probe, "with a cotangent, ", cotangent)
    return faults


@contract("corners and saturated outputs follow the conventions")
def _corners(subject: Subject) -> list[str]:
    faults = _off(subject, at_zero(case(CORNERED)), "where z is exactly 0: ")
    for network in (ENTROPY, BINARY):
        edge = saturated(case(network))
        W, b = (tuple(map(_representable, arrays)) for arrays in (edge.W, edge.b))
        beyond = ("right", "noise-limited", "vacuous")
        faults += _off(
            subject, replace(edge, W=W, b=b), "where outputs saturate: ", accepted=beyond
        )
    return faults


def _representable(array: Array) -> Array:
    """Rounded to what float32 holds, so that every dtype is given the same numbers."""
    return np.asarray(array.astype(np.float32), np.float64)


@contract("predict gives a[-1]")
def _predictions(subject: Subject) -> list[str]:
    probe = case(ENTROPY)
    model = subject.model(ENTROPY, probe.parameters)
    faults = []
    model.predict(probe.x)
    for when, parameters in (
        ("at first", probe.parameters), ("after set_parameters", initial_parameters(ENTROPY, 3)),
    ):  # fmt: skip
        model.set_parameters(parameters)
        output = model.predict(probe.x)
        a = model.backpropagate(probe.x, probe.y).a[-1]
        if output.shape != a.shape:
            faults.append(f"predict gives shape {output.shape}; a[-1] has {a.shape}")
        elif (gap := apart(output, a)) > subject.close:
            faults.append(f"predict differs from a[-1] {when}, by {gap:.2g} of the largest entry")
        if output.dtype != np.dtype(subject.dtype):
            faults.append(f"predict gives {output.dtype}; {subject.dtype} was claimed")
    return faults


# ── Form ───────────────────────────────────────────────────────────────────────────────────────


@contract("results are arrays of NumPy in the claimed dtype, of the promised shapes")
def _forms(subject: Subject) -> list[str]:
    probe = case(ENTROPY)
    found = subject.model(ENTROPY, probe.parameters).backpropagate(probe.x, probe.y)
    faults = []
    if not isinstance(found.loss, float):
        faults.append(f"loss is a {type(found.loss).__name__}; expected a float")
    for name, array in _arrays(found):
        if not isinstance(array, np.ndarray):
            faults.append(f"{name} is a {type(array).__name__}; expected an array of NumPy")
        elif array.dtype != np.dtype(subject.dtype):
            faults.append(f"{name} is {array.dtype}; {subject.dtype} was claimed: wrong dtype")
    bare = subject.model(BINARY, case(BINARY).parameters)
    without = bare.backpropagate(case(BINARY).x, case(BINARY).y)
    if len(without.gradients.b) or len(bare.parameters().b):
        faults.append("a network with bias=False has biases; expected b == ()")
    return faults


def _arrays(found: Backpropagation[Array]) -> list[tuple[str, Any]]:
    named = [("input_gradient", found.input_gradient)]
    for name, arrays in (
        ("z", found.z), ("a", found.a), ("delta", found.delta),
        ("dW", found.gradients.W), ("db", found.gradients.b),
    ):  # fmt: skip
        named += [(f"{name}[{layer}]", array) for layer, array in enumerate(arrays)]
    return named


@contract("parameters() gives what was set")
def _parameters_return(subject: Subject) -> list[str]:
    first, second = initial_parameters(ENTROPY, 1), initial_parameters(ENTROPY, 2)
    model = subject.model(ENTROPY, first)
    faults = []
    for given, when in ((first, "when the model was made"), (second, "by set_parameters")):
        if given is second:
            model.set_parameters(second)
        back = model.parameters()
        if back.digest() != given.astype(subject.dtype).digest():
            gap = furthest(back, given)
            kind = "in another dtype" if gap < subject.close else f"off by {gap:.2g}"
            faults.append(f"parameters() does not give what was set {when}: {kind}")
    return faults


# ── Leaving all else alone ─────────────────────────────────────────────────────────────────────


@contract("backpropagate gives the same again and moves nothing")
def _repeatable(subject: Subject) -> list[str]:
    probe, other = case(ENTROPY), case(ENTROPY, seed=5)
    model = subject.model(ENTROPY, probe.parameters)
    before = model.parameters()
    first = model.backpropagate(probe.x, probe.y, l2=L2)
    kept = [(name, np.array(array)) for name, array in _arrays(first)]
    model.backpropagate(other.x, other.y)
    model.predict(other.x)
    faults = []
    for (name, array), (_, then) in zip(_arrays(first), kept, strict=True):
        if not np.array_equal(array, then):
            say = "the returned array shares memory with the model; return a copy"
            faults.append(f"{name} of one call is overwritten by the next: {say}")
            break
    again = model.backpropagate(probe.x, probe.y, l2=L2)
    for (name, array), (_, then) in zip(_arrays(again), kept, strict=True):
        gap = apart(array, then)
        if gap > subject.close:
            doubled = apart(array, 2 * then) <= subject.close or gap > 0.3
            why = "gradients accumulate or depend on earlier calls" if doubled else "it changes"
            faults.append(f"{name} differs in a second call with the same arguments: {why}")
            break
    if furthest(before, model.parameters()) > 0:
        faults.append("backpropagate moves the parameters")
    return faults


@contract("returned arrays are the caller's own")
def _own_memory(subject: Subject) -> list[str]:
    probe = case(ENTROPY)
    model = subject.model(ENTROPY, probe.parameters)
    right = model.backpropagate(probe.x, probe.y)
    expected = [np.array(array) for _, array in _arrays(right)]
    for _, array in _arrays(right):
        _spoil(array)
    _spoil(model.predict(probe.x))
    returned = model.parameters()
    for array in (*returned.W, *returned.b):
        _spoil(array)
    W, b = model.read_parameters()
    for device_array in (*W, *b):
        _spoil(model.download(device_array))
    found = model.backpropagate(probe.x, probe.y)
    say = "they share memory with the model; download must return a copy"
    for (name, array), then in zip(_arrays(found), expected, strict=True):
        if apart(array, then) > subject.close:
            return [f"overwriting returned arrays changes {name}: {say}"]
    return []


def _spoil(array: Array) -> None:
    """Overwrite an array, if it can be written to at all."""
    if isinstance(array, np.ndarray) and array.flags.writeable and array.size:
        array[...] = np.nan


@contract("what was passed in stays as it was")
def _inputs_untouched(subject: Subject) -> list[str]:
    probe = case(ENTROPY)
    given = probe.parameters.astype(subject.dtype)
    digest = given.digest()
    model = subject.model(ENTROPY, given)
    cotangent = np.array(probe.y, subject.dtype)
    order = np.arange(6).reshape(2, 3)
    x, y = np.array(probe.x, subject.dtype), np.array(probe.y, subject.dtype)
    arrays = {"x": x, "y": y, "cotangent": cotangent, "order": order}
    kept = {name: array.copy() for name, array in arrays.items()}
    model.backpropagate(x, y)
    model.backpropagate(x, cotangent=cotangent)
    model.predict(x)
    model.train(x, y, order, SGD(learning_rate=0.5))
    faults = [
        f"{name} is changed in place: copy before writing"
        for name, array in arrays.items()
        if not np.array_equal(array, kept[name])
    ]
    if given.digest() != digest:
        faults.append("the Parameters that were given are changed by training: do not keep them")
    for array in arrays.values():
        array.flags.writeable = False
    model.set_parameters(given)
    model.backpropagate(x, y)
    model.train(x, y, order, SGD(learning_rate=0.5))
    return faults


@contract("models do not know of each other")
def _independent(subject: Subject) -> list[str]:
    backend: Backend = subject.kind(mode=subject.mode, device=subject.device, dtype=subject.dtype)
    probe, other = case(ENTROPY), case(ENTROPY, seed=5)
    one = backend.model(ENTROPY, probe.parameters)
    before = one.backpropagate(probe.x, probe.y)
    two = backend.model(ENTROPY, other.parameters)
    two.train(other.x, other.y, np.arange(6).reshape(2, 3), SGD(learning_rate=0.5))
    after = one.backpropagate(probe.x, probe.y)
    gap = max(map(apart, before.gradients.W, after.gradients.W))
    if gap > subject.close or furthest(one.parameters(), probe.parameters) > 1e-6:
        return ["a second model of the same backend changes the first: keep state in the model"]
    return []
