"""In which order are samples taken? Several backends side by side, in rounds of fresh processes.

In each round everyone gives one sample, in a shuffled order; one is busy while the others sleep on
their pipes. Two more take part: the bare matrix products of the step, the limit of all, and one of
the backends a second time, in a process of its own, which shows what differs though nothing does.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from bpbench.cells import Cell, Point
from bpbench.execute.attempt import Ended, Outcome
from bpbench.execute.given import Given
from bpbench.execute.options import RunOptions
from bpbench.execute.progress import Progress
from bpbench.execute.questions import Asker
from bpbench.execute.timing import BareTiming, Beside, Timing, mark_disturbed
from bpbench.execute.workers import Workers
from bpbench.measure.statistics import paired_ratio, unpaired_ratio

CONTROL = "control"

P = TypeVar("P", Timing, BareTiming)


@dataclass
class SideBySide:
    """The timing of one point: whoever still takes part in it.

    Attributes:
        control: one of the backends a second time, ...
        controlled: ... and that backend's own timing, also where it or the control is lost.
    """

    timings: dict[Cell, Timing]
    bare: BareTiming | None
    control: Timing | None = None
    controlled: Timing | None = None
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    shuffled: random.Random = field(default_factory=lambda: random.Random(0))


@dataclass(frozen=True)
class Rounds:
    """How points are timed, in the workers and by the options of a run."""

    workers: Workers
    given: Given
    progress: Progress
    options: RunOptions

    def time(self, cells: Mapping[Cell, bool]) -> Iterator[Ended]:
        """Time the cells of some points, all of them in the same fresh processes.

        Args:
            cells: with whether the gradients of each have been judged right already.
        """
        points: dict[Point, list[Timing]] = {}
        for cell, verified in cells.items():
            points.setdefault(cell.point, []).append(Timing(cell, verified))
        sides = []
        for timings in points.values():
            cell = timings[0].cell
            bare = BareTiming(cell) if cell.device == "cpu" else None
            sides.append(SideBySide({timing.cell: timing for timing in timings}, bare))
        processes = min(self.options.processes, self.options.rounds)
        for process in range(processes):
            rounds = len(range(process, self.options.rounds, processes))
            try:
                for side in sides:
                    yield from self._process(side, process, rounds)
                    if process == processes - 1:
                        yield from _answers(side)
            finally:
                self.workers.end()

    def _process(self, side: SideBySide, process: int, rounds: int) -> Iterator[Ended]:
        """One fresh process of everyone: prepare, so many rounds, close."""
        for timing in list(side.timings.values()):
            if not process:
                self.progress.started(timing.cell)
            yield from self._go_on(side, timing, partial(self._prepare, side, timing))
        if not side.timings:
            return
        if side.bare:
            side.bare = self._unless_lost(side.bare, partial(self._prepare_bare, side.bare))
        if not side.controlled:  # who was there and is lost is not replaced
            self._choose_control(side)
        if side.control:
            control = partial(self._prepare, side, side.control, CONTROL)
            side.control = self._unless_lost(side.control, control, CONTROL)
        for number in range(rounds):
            slot = process, number
            everyone: list[Timing | BareTiming] = [*side.timings.values()]
            everyone += filter(None, (side.control, side.bare))
            for part in side.shuffled.sample(everyone, len(everyone)):
                sample = partial(part.sample, slot)
                if part is side.bare:
                    side.bare = self._unless_lost(side.bare, sample)
                elif part is side.control:
                    side.control = self._unless_lost(side.control, sample, CONTROL)
                elif isinstance(part, Timing):
                    yield from self._go_on(side, part, sample)
                    if part.cell in side.timings:
                        done = len(part.series.seconds)
                        self.progress.advanced(part.cell, done, self.options.rounds)
        for timing in list(side.timings.values()):
            yield from self._go_on(side, timing, timing.close)

    def _go_on(
        self, side: SideBySide, timing: Timing, work: Callable[[], Outcome | None]
    ) -> Iterator[Ended]:
        """Go one step on with a cell, which may end it."""
        answer = timing.attempt.go_on(self.workers, work)
        if answer:
            del side.timings[timing.cell]
            yield Ended(timing.attempt, answer)

    def _unless_lost(self, part: P, work: Callable[[], Outcome | None], name: str = "") -> P | None:
        """The same part of a timing, or None where it ends by going one step on: no cell's end."""
        return None if self.workers.attempt(part.place, work, name) else part

    def _prepare(self, side: SideBySide, timing: Timing, name: str = "") -> Outcome | None:
        like = self.options.blocks_like.get(timing.cell.backend)
        # what a call costs, whatever it does, is shared out among as many steps as the other's
        same = (other.steps for cell, other in side.timings.items() if spec(cell) == like)
        timing.steps = timing.steps or next(same, 0)
        worker = self.workers.at(timing.place, name)
        return timing.prepare(Asker(worker, self.given, timing.cell))

    def _prepare_bare(self, bare: BareTiming) -> None:
        bare.prepare(self.workers.bare(bare.place))

    def _choose_control(self, side: SideBySide) -> None:
        """Have one backend take part twice: NumPy where it is there, for it starts fastest."""
        cell = min(side.timings, key=lambda cell: cell.backend != "numpy")
        side.controlled = side.timings[cell]
        side.control = Timing(cell, verified=True, steps=side.controlled.steps)


def _answers(side: SideBySide) -> Iterator[Ended]:
    """What the samples of everyone who has come to the end say."""
    others = [part.series for part in (side.control, side.bare) if part]
    mark_disturbed([*(timing.series for timing in side.timings.values()), *others])
    same_code, of = None, ""
    if side.control and side.controlled:
        of = spec(side.control.cell)
        both = side.control.series.undisturbed, side.controlled.series.undisturbed
        same_code = paired_ratio(*both) or unpaired_ratio(*both)
    bare = side.bare
    beside = Beside(
        side.name, same_code, of, bare.series if bare else None, bare.layout if bare else ""
    )
    for timing in side.timings.values():
        yield Ended(timing.attempt, timing.answer(beside))


def spec(cell: Cell) -> str:
    """Its backend and mode, as people type them."""
    return f"{cell.backend}:{cell.mode}"
