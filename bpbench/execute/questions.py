"""How are gradients and trainings asked for, and what do the answers say? Verify and train.

The worker computes and the supervisor, here, judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bpbench.cells import Cell, Point
from bpbench.execute import protocol
from bpbench.execute.attempt import Outcome
from bpbench.execute.given import File, Given, full_batches, pieces, short_batch, total_digest
from bpbench.execute.process import AnyWorker, CellEnded
from bpbench.network import Array, Parameters
from bpbench.results.rows import Status
from bpbench.verify.simulation import simulate
from bpbench.verify.training import judge_training
from bpbench.verify.verdict import Report, judge

CHECKED_STEPS = 12
"""Steps of each call that ``verify`` judges: one that skips every tenth step is seen."""
JUDGED_STEPS = 200
"""Steps at the beginning of a training, and of a block that is timed, that are judged."""
JUDGED_FLOPS = 4e8
"""Fewer are judged where they would cost more than so many operations in one backend."""
KINK_TRIES = 3
"""Batches that are tried where a sample lies on a kink."""
CURVE_POINTS = 200


class Asker:
    """A worker, busy with a cell: every request checks that the worker read what it was given."""

    def __init__(self, worker: AnyWorker, given: Given, cell: Cell) -> None:
        self.worker = worker
        self.given = given
        self.cell = cell
        self.point: Point = cell.point
        self._digests: dict[str, None] = {}  # an ordered set
        self.parameters = given.parameters(cell.point, cell.seed, cell.dtype)
        self.parameters_file = given.parameters_file(cell.point, cell.seed, cell.dtype)

    @property
    def data(self) -> dict[str, Array]:
        """The arrays of the data set, in the cell's dtype."""
        return self.given.data(self.point.data, self.cell.dtype)

    def ready(self) -> None:
        """Have the cell's point on the worker's device, at the seed's parameters."""
        data = self.given.data_file(self.point.data, self.cell.dtype)
        if self.worker.loaded is self.point:
            self._check("data", data, data.digest)  # when it was loaded
            self.start()
            return
        self.worker.loaded = None
        reply = self.worker.ask(
            "load",
            network=self.point.network.describe(),
            optimizer=self.point.optimizer.describe(),
            data=str(data.path),
            parameters=str(self.parameters_file.path),
        )
        self._check("data", data, reply["data_digest"])
        self._check("parameters", self.parameters_file, reply["parameters_digest"])
        self.worker.loaded = self.point

    def start(self) -> None:
        """Start again from the seed's parameters."""
        reply = self.worker.ask("start", parameters=str(self.parameters_file.path))
        self._check("parameters", self.parameters_file, reply["parameters_digest"])

    def with_order(self, do: str, orders: Sequence[Array], **what: Any) -> protocol.Message:
        """A request that comes with a file of orders."""
        file = self.given.order_file(orders)
        reply = self.worker.ask(do, order=str(file.path), **what)
        self._check("order", file, reply["order_digest"])
        return reply

    def backpropagate(self, rows: Array) -> Report:
        """Have the worker backpropagate some rows, and judge what it found."""
        out = self.given.scratch("found")
        self.with_order("backpropagate", [rows.reshape(1, -1)], out=str(out))
        return judge(
            self.point.network, self.parameters,
            self.data["train_x"][rows], self.data["train_y"][rows],
            protocol.unpack(protocol.load(out)), self.cell.dtype, l2=self.point.optimizer.l2,
        )  # fmt: skip

    def finish(self) -> tuple[Array, Parameters, protocol.Message]:
        """The losses since the start and the parameters as they are now."""
        out = self.given.scratch("finished")
        reply = self.worker.ask("finish", out=str(out))
        arrays = protocol.load(out)
        losses = arrays.pop("losses")
        return losses, protocol.parameters_of(arrays), reply

    def judge_training(
        self, order: Array, losses: Array, final: Parameters | None = None
    ) -> Report:
        """Judge the first steps of a training that began at the seed's parameters.

        Args:
            order: (steps, batch), the steps to judge.
            losses: (steps,).
            final: the parameters after the last; None where only the losses are known.
        """
        rows, numbers = np.unique(order, return_inverse=True)
        order = numbers.reshape(order.shape)  # among the rows that it names
        what = (
            self.point.network, self.parameters, self.data["train_x"][rows],
            self.data["train_y"][rows], order, self.point.optimizer,
        )  # fmt: skip
        dtype = self.cell.dtype
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            expected = self.given.remember(
                ("training", self.point, self.cell.seed, dtype, order.tobytes(), rows.tobytes()),
                lambda: simulate(*what, dtype),
            )
        return judge_training(*what, losses, final, dtype, expected=expected)

    def wrong_training(
        self, order: Array, losses: Array, steps: int, final: Parameters | None = None
    ) -> str:
        """What is wrong with a training that began at the seed's parameters; "" where nothing is.

        Args:
            order: (any, batch), its steps from the first on; as many are judged as can be.
            losses: (steps,), as they should be.
            final: the parameters after the last step.
        """
        if losses.shape != (steps,):
            return f"losses of shape {losses.shape} came from {steps} steps"
        judged = min(steps, len(order), self.judged_steps)
        last = final if judged == steps else None
        report = self.judge_training(order[:judged], losses[:judged], last)
        return findings_of(report) if report.verdict == "wrong" else ""

    @property
    def judged_steps(self) -> int:
        """How many steps can be judged in a reasonable time."""
        sizes = self.point.network.sizes
        products = sum(n * m for n, m in pairwise(sizes))
        affordable = JUDGED_FLOPS / (6 * self.point.batch_size * products)
        return int(max(CHECKED_STEPS, min(JUDGED_STEPS, affordable)))

    @property
    def given_digest(self) -> str:
        """One digest of all that the worker read for this cell."""
        return total_digest(self._digests)

    def _check(self, name: str, file: File, found: str) -> None:
        if found != file.digest:
            raise CellEnded(
                "crashed", f"the worker read other {name} than it was given (digest {found})"
            )
        self._digests[found] = None


# ── verify ─────────────────────────────────────────────────────────────────────────────────────


def verify(asker: Asker) -> Outcome:
    """Is one backpropagation right, and are a few steps of training?"""
    asker.ready()
    order = asker.point.order(asker.cell.seed)
    for batch in full_batches(order, KINK_TRIES):
        report = asker.backpropagate(batch)
        if report.verdict != "kink":
            break
    training = _few_steps(asker)
    compared = [tensor.error for tensor in report.tensors if tensor.compared]
    measured = {
        "report": report.as_dict(),
        "training": training.as_dict(),
        "worst_sigmas": report.worst_sigmas,
        "max_scaled_error": max(compared, default=None),
    }
    status, say = verdict_of(report, training)
    return Outcome(status, say, measured, given_digest=asker.given_digest)


def verdict_of(report: Report, training: Report | None = None) -> tuple[Status, str]:
    """The status, and the sentence for people, of what was judged."""
    if report.verdict == "wrong":
        return "wrong", f"wrong gradients: {findings_of(report)}"
    if training is not None and training.verdict == "wrong":
        return "wrong", f"right gradients, but wrong training: {findings_of(training)}"
    reports = [r for r in (report, training) if r is not None and r.verdict != "right"]
    return "ok", "; ".join(f"{r.verdict}: {findings_of(r)}".rstrip(": ") for r in reports)


def findings_of(report: Report) -> str:
    more = len(report.findings) - 2
    says = "; ".join(map(str, report.findings[:2]))
    return f"{says}; and {more} more" if more > 0 else says


def _few_steps(asker: Asker) -> Report:
    """Judge two calls of training, the second going on where the first ended, and a short batch.

    Of a large network, one call.
    """
    point, seed = asker.point, asker.cell.seed
    calls = 2 if asker.judged_steps > CHECKED_STEPS else 1
    order = full_batches(point.order(seed), calls * CHECKED_STEPS)
    report = _judged(asker, np.split(order, calls))
    short = short_batch(point.order(seed))
    if report.verdict == "wrong" or short is None:
        return report
    of_short = _judged(asker, [short])
    return of_short if of_short.verdict == "wrong" else report


def _judged(asker: Asker, calls: Sequence[Array]) -> Report:
    asker.start()
    for call in calls:
        asker.with_order("steps", [call])
    losses, final, _ = asker.finish()
    return asker.judge_training(np.concatenate(calls), losses, final)


# ── train ──────────────────────────────────────────────────────────────────────────────────────


def train(asker: Asker, advanced: Callable[[int, int], None]) -> Outcome:
    """A whole training from one seed."""
    asker.ready()
    order = asker.point.order(asker.cell.seed)
    total = order.steps * asker.point.epochs
    done, seconds, diverged = 0, 0.0, False
    for first, last in pieces(asker.point.epochs):
        reply = asker.with_order("steps", list(order.epochs(first, last)))
        done += reply["steps"]
        seconds += reply["seconds"]
        advanced(done, total)
        if diverged := not reply["finite"]:
            break
    losses, final, _ = asker.finish()
    # judged up to the first batch that is short
    whole = done if short_batch(order) is None else min(done, order.steps - 1)
    beginning = full_batches(order, min(whole, asker.judged_steps))
    wrong = asker.wrong_training(beginning, losses, done)
    if wrong:
        return Outcome("wrong", f"wrong training: {wrong}", given_digest=asker.given_digest)
    measured = {
        "steps": done,
        "first_loss": float(losses[0]),
        "final_loss": float(losses[-1]),
        "curve": _curve(losses),
        "seconds": seconds,
        "parameters_digest": final.digest(),
    }
    status: Status = "ok"
    say = ""
    if diverged:
        step = int(np.argmax(~np.isfinite(losses)))
        status = "diverged"
        say = (
            f"the loss is {losses[step]} from step {step} of {total}; a smaller learning rate "
            "may help"
        )
    else:
        measured["accuracy"] = _accuracies(asker)
    arrays = {"losses": losses, **final.arrays}
    return Outcome(status, say, measured, arrays, asker.given_digest)


def _curve(losses: Array) -> list[list[float]]:
    """[step, loss] of at most CURVE_POINTS steps, the first and the last among them."""
    steps = np.unique(np.linspace(0, len(losses) - 1, CURVE_POINTS).round().astype(int))
    return [[int(step), float(losses[step])] for step in steps]


def _accuracies(asker: Asker) -> dict[str, float]:
    """The share of right answers on every part of the data; {} where it is no classification."""
    if accuracy(asker.data["train_y"], asker.data["train_y"]) is None:
        return {}
    out = asker.given.scratch("predicted")
    asker.worker.ask("predict", out=str(out))
    shares = {
        name: accuracy(output, asker.data[f"{name}_y"])
        for name, output in protocol.load(out).items()
    }
    return {name: share for name, share in shares.items() if share is not None}


def accuracy(output: Array, y: Array) -> float | None:
    """The share of rows whose class is right, by the largest output, or by .5 where there is one.

    Args:
        output: (m, n_L), what the network says.
        y: (m, n_L), one-hot rows or, in a single column, 0 and 1; None is returned for others.
    """
    if not np.isin(y, (0, 1)).all():
        return None
    if y.shape[1] == 1:
        return float(((output > 0.5) == (y > 0.5)).mean())
    if not (y.sum(axis=1) == 1).all():
        return None
    return float((output.argmax(axis=1) == y.argmax(axis=1)).mean())
