"""How long does a step take? One backend's part in a timing, over several processes and rounds.

Nothing is timed that did not pass: every process is judged by the very block that it is timed by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpbench.cells import Cell
from bpbench.execute import protocol
from bpbench.execute.attempt import Attempt, Outcome
from bpbench.execute.given import full_batches
from bpbench.execute.process import AnyWorker, Place
from bpbench.execute.questions import Asker, verdict_of
from bpbench.measure import statistics
from bpbench.measure.limits import step_flops
from bpbench.measure.statistics import Ratio, Slot, median_interval, paired_ratio, unpaired_ratio

POOL = 1024
"""Batches among which a timed block goes round."""
WARMUPS = 2
BARE_MODE = "products"


@dataclass
class Series:
    """Samples in the order in which they were taken; times are seconds a step."""

    seconds: list[float] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    canaries: list[float] = field(default_factory=list)
    cpu_per_wall: list[float] = field(default_factory=list)
    disturbed: list[bool] = field(default_factory=list)

    def add(self, slot: Slot, reply: protocol.Message, steps: int) -> None:
        """Keep what a worker answered to a request for a sample of so many steps."""
        self.seconds.append(float(reply["wall"]) / steps)
        self.cpu_per_wall.append(reply["cpu"] / reply["wall"])
        self.canaries.append(reply["canary"])
        self.slots.append(slot)

    @property
    def undisturbed(self) -> dict[Slot, float]:
        """The samples that count, by process and round."""
        return statistics.undisturbed(self.slots, self.seconds, self.disturbed)


@dataclass(frozen=True)
class Beside:
    """What was measured in the same rounds as a backend, to compare it with.

    Attributes:
        timing: the same for all that share the rounds.
        same_code: the ratio of a backend that took part twice; None where that failed.
        same_code_of: which backend that was.
        limit: the bare matrix products, None where they say nothing of the device.
        layout: theirs.
    """

    timing: str
    same_code: Ratio | None
    same_code_of: str
    limit: Series | None
    layout: str


class BareTiming:
    """The bare matrix products' part in a timing.

    Attributes:
        place: where they are done: a worker without a backend.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.place = Place("", BARE_MODE, cell.device, cell.dtype, cell.threads)
        self.series = Series()
        self.layout = ""
        self._steps = 0
        self._worker: AnyWorker | None = None

    def prepare(self, worker: AnyWorker) -> None:
        """Have a fresh worker make the products of a step."""
        point = self.cell.point
        reply = worker.ask(
            "size_products",
            sizes=list(point.network.sizes), batch=int(point.batch_size), dtype=self.cell.dtype,
            steps=self._steps,
        )  # fmt: skip
        self._steps, self.layout, self._worker = reply["steps"], reply["layout"], worker
        worker.ask("sample_products")

    def sample(self, slot: Slot) -> None:
        """Take one more sample."""
        assert self._worker is not None
        self.series.add(slot, self._worker.ask("sample_products"), self._steps)


class Timing:
    """A backend's part in a timing.

    Args:
        cell: whose.
        verified: whether its gradients have been judged right already.
        steps: in each sample; 0 to find out how many make a good one.

    Attributes:
        attempt: at the cell, since it was begun.
    """

    def __init__(self, cell: Cell, verified: bool, steps: int = 0) -> None:
        self.cell = cell
        self.place = Place.of(cell)
        self.attempt = Attempt(cell)
        self.steps = steps
        self._verified = verified
        self.series = Series()
        self.warmups: list[float] = []
        self.processes: list[dict[str, Any]] = []
        self._asker: Asker | None = None
        self._given_digest = ""

    def prepare(self, asker: Asker) -> Outcome | None:
        """Size the block of steps in a fresh worker and judge what it computes; an answer where it
        may not be timed."""
        self._asker = asker
        asker.ready()
        pool = full_batches(asker.point.order(asker.cell.seed), POOL)
        if not self._verified:
            status, say = verdict_of(asker.backpropagate(pool[0]))
            if status == "wrong":
                return self._refused(f"not timed: {say}")
        sized = asker.with_order("size", [pool], steps=self.steps)
        self.steps = sized["steps"]
        costs = {name: sized[name] for name in ("upload_s", "first_call_s", "second_call_s")}
        self.processes.append({"import_s": asker.worker.opened["import_s"], **costs})
        self._warm_up(keep=True)
        losses, final, _ = asker.finish()
        wrong = asker.wrong_training(pool, losses, self.steps, final)
        if wrong:
            return self._refused(
                f"not timed: the very block of {self.steps} steps that would be timed trains "
                f"wrongly: {wrong}"
            )
        for _ in range(WARMUPS - 1):
            self._warm_up()
        return None

    def sample(self, slot: Slot) -> None:
        """Take one more sample."""
        self.series.add(slot, self._ask(), self.steps)

    def close(self) -> None:
        """Ask the worker what its process has come to, at its end."""
        assert self._asker is not None
        reply = self._asker.finish()[2]
        self.processes[-1]["peak_memory_bytes"] = reply["peak_bytes"]
        if reply["peak_device_bytes"] is not None:
            self.processes[-1]["peak_device_bytes"] = reply["peak_device_bytes"]
        self._given_digest = self._asker.given_digest

    def answer(self, beside: Beside) -> Outcome:
        """What all the samples say together."""
        series, point = self.series, self.cell.point
        times = series.undisturbed
        slots = sorted(times)
        steps = [times[slot] for slot in slots]
        median = float(np.median(steps))
        flops = step_flops(point.network.sizes, point.batch_size)
        observed = float(np.median(series.cpu_per_wall))
        measured = {
            **_typical(self.processes),
            "processes": self.processes,
            "steps_per_sample": self.steps,
            "samples": series.seconds,
            "sample_process": [process for process, _ in series.slots],
            "sample_round": [number for _, number in series.slots],
            "disturbed": series.disturbed,
            "canary_s": series.canaries,
            "cpu_per_wall": series.cpu_per_wall,
            "warmups": self.warmups,
            "median_s": median,
            "min_s": min(steps),
            "interval": list(median_interval(steps, [process for process, _ in slots])),
            "samples_per_s": point.batch_size / median,
            "flops": flops,
            "gflops": flops / median / 1e9,
            **_limit(times, beside),
            "threads_observed": observed,
            "rounds": len(series.seconds),
            "timing": beside.timing,
            **_noise(series, beside),
        }
        say = statistics.overuse(self.cell.threads, observed) if self.cell.device == "cpu" else ""
        return Outcome(say=say, measured=measured, given_digest=self._given_digest)

    def _warm_up(self, keep: bool = False) -> None:
        self.warmups.append(float(self._ask(keep)["wall"]) / self.steps)

    def _ask(self, keep: bool = False) -> protocol.Message:
        asker = self._asker
        assert asker is not None
        return asker.worker.ask("sample", parameters=str(asker.parameters_file.path), keep=keep)

    def _refused(self, say: str) -> Outcome:
        assert self._asker is not None
        return Outcome("wrong", say, given_digest=self._asker.given_digest)


def mark_disturbed(all_series: Sequence[Series]) -> None:
    """Mark the samples beside a disturbed canary, by the canaries of all who shared the rounds."""
    canaries = [canary for series in all_series for canary in series.canaries]
    marks = iter(statistics.disturbed(canaries))
    for series in all_series:
        series.disturbed = [next(marks) for _ in series.canaries]


def _typical(processes: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The middle costs of a start, and the largest memory, of several processes."""
    names = ("import_s", "upload_s", "first_call_s", "second_call_s")
    middle: dict[str, float] = {
        name: float(np.median([each[name] for each in processes])) for name in names
    }
    peaks: dict[str, float] = {
        name: max(each[name] for each in processes)
        for name in ("peak_memory_bytes", "peak_device_bytes")
        if name in processes[0]
    }
    return {**middle, **peaks}


def _limit(times: dict[Slot, float], beside: Beside) -> dict[str, Any]:
    """How near the bare matrix products of the same rounds a step comes."""
    if beside.limit is None or not beside.limit.seconds:
        return {}
    bare = beside.limit.undisturbed
    # few rounds may have none left that are undisturbed for both
    share = paired_ratio(bare, times) or unpaired_ratio(bare, times)
    return {
        "limit_median_s": float(np.median(list(bare.values()))),
        "limit_min_s": min(bare.values()),
        "limit_layout": beside.layout,
        "share_of_limit": None if share is None else share.middle,
    }


def _noise(series: Series, beside: Beside) -> dict[str, Any]:
    """What the same code timed twice showed, and whether the run was noisy."""
    same = beside.same_code
    share = sum(series.disturbed) / max(1, len(series.disturbed))
    return {
        "aa_ratio": None if same is None else [same.low, same.high],
        "aa_of": beside.same_code_of,
        "noisy": statistics.noise(share, None if same is None else same.margin),
    }
