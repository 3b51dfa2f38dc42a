"""Does a backend train by the stated formulas, step by step, from one call to the next?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bpbench.backend import Model
from bpbench.conformance.contract import TRAINED, Subject, Test, apart, case, furthest, kept_in
from bpbench.conformance.faults import name_fault
from bpbench.errors import UsageError
from bpbench.network import Array, Parameters
from bpbench.optimizers import OPTIMIZERS, SGD, Adam, Optimizer, RMSProp
from bpbench.verify import truth
from bpbench.verify.diagnose.probe import Probe
from bpbench.verify.verdict import judge, judge_training

CONTRACTS: list[tuple[str, Test]] = []
"""The contracts of a backend's training: the sentence, and how it is tried."""
contract = kept_in(CONTRACTS)
ASKED: dict[type[Optimizer], tuple[Optimizer, ...]] = {
    SGD: (
        SGD(learning_rate=0.5),
        SGD(learning_rate=0.25, momentum=0.5, l2=0.125),
        SGD(learning_rate=0.25, momentum=0.5, nesterov=True),
    ),
    RMSProp: (RMSProp(learning_rate=0.0625, decay=0.75, epsilon=0.0625),),
    Adam: (Adam(learning_rate=0.0625, beta1=0.5, beta2=0.75, epsilon=0.0625, l2=0.125),),
}
"""Each formula once, with numbers that make every term of it count."""
PLAIN, MOMENTUM, ADAM = ASKED[SGD][0], ASKED[SGD][1], ASKED[Adam][0]
ORDER = np.array([[3, 7, 1, 0], [5, 2, 8, 6], [4, 4, 9, 3], [0, 9, 2, 7], [6, 1, 5, 8]])
"""Five steps of four rows out of ten: no row in its place, and one twice."""


class _Run(NamedTuple):
    losses: Array
    final: Parameters


def every_optimizer() -> list[Optimizer]:
    """Those that each optimizer of bpbench is asked with; UsageError where one has none."""
    missing = [name for name, kind in OPTIMIZERS.items() if kind not in ASKED]
    if missing:
        raise UsageError(f"conformance does not know what to ask of {', '.join(missing)}")
    return [optimizer for kind in OPTIMIZERS.values() for optimizer in ASKED[kind]]


def _data() -> Probe:
    return case(TRAINED, 10, seed=2)


def _trained(model: Model, probe: Probe, order: Array, optimizer: Optimizer) -> _Run:
    losses = model.train(probe.x, probe.y, order, optimizer)
    return _Run(np.atleast_1d(losses), model.parameters())


def _wrong(
    subject: Subject, probe: Probe, order: Array, optimizer: Optimizer, run: _Run
) -> list[str]:
    """What is wrong with a training run: the fault by its name, or else where it is off."""
    report = judge_training(
        probe.network, probe.parameters, probe.x, probe.y, order, optimizer, run.losses,
        run.final, subject.dtype,
    )  # fmt: skip
    if report.verdict != "wrong":
        return []
    name = name_fault(probe, order, optimizer, run.losses, run.final, subject.dtype)
    if name is not None:
        return [f"{optimizer}: {name}"]
    return [f"{optimizer}: {finding.say}" for finding in report.findings]


@contract("training follows the optimizers' formulas, with the losses before each step")
def _formulas(subject: Subject) -> list[str]:
    probe = _data()
    faults = []
    for optimizer in every_optimizer():
        model = subject.model(TRAINED, probe.parameters)
        run = _trained(model, probe, ORDER, optimizer)
        if np.shape(run.losses) != (len(ORDER),):
            shape = np.shape(run.losses)
            faults.append(f"train gives losses of shape {shape}; expected ({len(ORDER)},)")
            continue
        if run.losses.dtype != np.dtype(subject.dtype):
            faults.append(f"train gives {run.losses.dtype} losses; {subject.dtype} was claimed")
        faults += _wrong(subject, probe, ORDER, optimizer, run)
    return faults


@contract("a second call of train goes on where the first ended")
def _goes_on(subject: Subject) -> list[str]:
    probe = _data()
    faults = []
    for optimizer in (MOMENTUM, ADAM):
        model = subject.model(TRAINED, probe.parameters)
        first = model.train(probe.x, probe.y, ORDER[:2], optimizer)
        between = model.parameters()
        kept = np.array(first)
        second = model.train(probe.x, probe.y, ORDER[2:4], optimizer)
        run = _Run(
            np.concatenate([np.atleast_1d(first), np.atleast_1d(second)]), model.parameters()
        )
        if furthest(between, run.final) == 0:
            faults.append(f"{optimizer}: a second call of train changes no parameter")
            continue
        if not np.array_equal(first, kept):
            faults.append("the losses of one call are overwritten by the next: return a copy")
        if _wrong(subject, probe, ORDER[:4], optimizer, run) and not _wrong(
            subject, probe, ORDER[:2], optimizer, _Run(kept, between)
        ):
            faults.append(
                f"{optimizer}: the first call of train is right and the second is not: the "
                "optimizer's state or the parameters do not live on from call to call"
            )
    return faults


@contract("set_parameters starts again, with the optimizer's state reset")
def _starts_again(subject: Subject) -> list[str]:
    probe = _data()
    faults = []
    for optimizer in (MOMENTUM, ADAM):
        model = subject.model(TRAINED, probe.parameters)
        first = _trained(model, probe, ORDER, optimizer)
        model.set_parameters(probe.parameters)
        again = _trained(model, probe, ORDER, optimizer)
        if apart(first.losses[:1], again.losses[:1]) > subject.close:
            faults.append(
                f"{optimizer}: training after set_parameters starts from stale parameters"
            )
        elif furthest(first.final, again.final) > subject.close:
            faults.append(
                f"{optimizer}: training again after set_parameters ends elsewhere: the optimizer's "
                "state is not reset"
            )
    return faults


@contract("after training, predict and backpropagate use the new parameters")
def _uses_what_it_learned(subject: Subject) -> list[str]:
    probe = _data()
    model = subject.model(TRAINED, probe.parameters)
    model.predict(probe.x)
    model.train(probe.x, probe.y, ORDER, PLAIN)
    now = model.parameters()
    found = model.backpropagate(probe.x, probe.y)
    report = judge(TRAINED, now, probe.x, probe.y, found, subject.dtype)
    faults = []
    if report.verdict == "wrong":
        faults.append("after training, backpropagate uses stale parameters")
    true = truth.backpropagate(TRAINED, now.astype(np.float64), probe.x, probe.y, dtype="float64")
    if apart(model.predict(probe.x), true.a[-1]) > subject.close:
        faults.append("after training, predict uses stale parameters")
    return faults


@contract("batches may be of any size")
def _short_batches(subject: Subject) -> list[str]:
    probe, optimizer = _data(), MOMENTUM
    model = subject.model(TRAINED, probe.parameters)
    faults = []
    losses = model.train(probe.x, probe.y, np.zeros((0, 4), int), optimizer)
    if len(losses) or furthest(model.parameters(), probe.parameters.astype(subject.dtype)):
        faults.append("an order of no steps gives losses or moves the parameters")
    for order in (np.array([[9, 0]]), np.array([[2]])):
        start = model.parameters()
        model.set_parameters(start)
        run = _trained(model, probe, order, optimizer)
        there = Probe(TRAINED, start.W, start.b, probe.x, probe.y, 0.0, "short batches")
        for fault in _wrong(subject, there, order, optimizer, run):
            faults.append(f"batches of {order.shape[1]}: {fault}")
    return faults


@contract("compile advances nothing, and run trains as train does")
def _does_not_advance(subject: Subject) -> list[str]:
    probe, optimizer = _data(), MOMENTUM
    model = subject.model(TRAINED, probe.parameters)
    batches = model.batches(model.load(probe.x, probe.y), ORDER)
    model.compile(batches, optimizer)
    faults = []
    if furthest(model.parameters(), probe.parameters.astype(subject.dtype)) > 0:
        faults.append("compile moves the parameters")
    losses = model.download(model.run(batches, optimizer))
    model.synchronize()
    run = _Run(np.asarray(losses), model.parameters())
    if not faults:
        off = _wrong(subject, probe, ORDER, optimizer, run)
        faults += [f"after compile, {fault}" for fault in off]
    return faults


@contract("another optimizer is refused until set_parameters")
def _refuses_another_optimizer(subject: Subject) -> list[str]:
    probe = _data()
    model = subject.model(TRAINED, probe.parameters)
    model.train(probe.x, probe.y, ORDER, PLAIN)
    try:
        model.train(probe.x, probe.y, ORDER, MOMENTUM)
    except UsageError:
        model.set_parameters(probe.parameters)
        model.train(probe.x, probe.y, ORDER, MOMENTUM)
        return []
    return ["another optimizer in mid-training is accepted without set_parameters"]
