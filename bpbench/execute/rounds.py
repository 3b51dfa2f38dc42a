"""In which order are samples taken? Several backends side by side, in rounds of fresh processes.

In each round everyone gives one sample, in a shuffled order; one is busy while the others sleep on
their pipes. Two more take part: the bare matrix products of the step, the limit of all, and one of
the backends a second time, in a process of its own, which shows what differs though nothing does.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from bpbench.cells import Cell, Point
from bpbench.execute.given import Given
from bpbench.execute.process import CellEnded, Place
from bpbench.execute.progress import Progress
from bpbench.execute.questions import Answer, Asker
from bpbench.execute.timing import BareTiming, Beside, Series, Timing, mark_disturbed
from bpbench.execute.workers import Workers
from bpbench.measure.statistics import paired_ratio, unpaired_ratio

CONTROL = "control"
BARE_MODE = "products"

T = TypeVar("T")


class Stopwatch:
    """When a cell was begun, and the seconds that were spent on it alone."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - start


@dataclass
class SideBySide:
    """The timing of one point: whoever still takes part in it."""

    cells: list[Cell]
    timings: dict[Cell, Timing]
    stopwatches: dict[Cell, Stopwatch]
    control: Timing | None = None
    controlled: Timing | None = None
    bare: BareTiming | None = None
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    shuffled: random.Random = field(default_factory=lambda: random.Random(0))


@dataclass(frozen=True)
class Rounds:
    """How points are timed.

    Args:
        workers, given, progress: the run's.
        rounds: samples of each backend, over all processes.
        processes: fresh processes of each backend.
        blocks_like: backend -> "backend:mode" of the one whose samples are of as many steps.
        verdicts: (point, place) -> status and sentence of what has been verified.
        finish: takes the answer of a cell that has ended.
    """

    workers: Workers
    given: Given
    progress: Progress
    rounds: int
    processes: int
    blocks_like: Mapping[str, str]
    verdicts: Mapping[tuple[Point, Place], tuple[str, str]]
    finish: Callable[[Cell, Answer, Stopwatch], None]

    def time(self, cells: Sequence[Cell]) -> None:
        """Time the cells of some points, all of them in the same fresh processes."""
        points: dict[Point, list[Cell]] = {}
        for cell in cells:
            points.setdefault(cell.point, []).append(cell)
        sides = [self._begun(list(each)) for each in points.values()]
        numbers = [range(first, self.rounds, self.processes) for first in range(self.processes)]
        for process, rounds in enumerate(numbers):
            try:
                for side in sides:
                    self._process(side, process, len(rounds))
                    if process == self.processes - 1:
                        self._answer(side)
            finally:
                self.workers.end()

    def _begun(self, cells: list[Cell]) -> SideBySide:
        """Everyone who may take part; cells that may not have ended with that."""
        side = SideBySide(
            cells, {cell: Timing(cell) for cell in cells}, {cell: Stopwatch() for cell in cells}
        )
        for cell in cells:
            status, say = self.verdicts.get((cell.point, place_of(cell)), ("", ""))
            if status == "wrong":
                self.progress.started(cell)
                self._end(side, cell, Answer("wrong", f"not timed: {say}"))
        if side.timings and cells[0].device == "cpu":
            side.bare = BareTiming(cells[0])
        return side

    def _process(self, side: SideBySide, process: int, rounds: int) -> None:
        """One fresh process of everyone: prepare, so many rounds, close."""
        for cell in list(side.timings):
            if not process:
                self.progress.started(cell)
            self._prepare(side, cell)
        if not side.timings:
            return
        self._prepare_bare(side)
        self._prepare_control(side)
        for number in range(rounds):
            everyone: list[Cell | str] = [*side.timings]
            everyone += [CONTROL] * (side.control is not None) + [BARE_MODE] * (
                side.bare is not None
            )
            for one in side.shuffled.sample(everyone, len(everyone)):
                self._sample(side, one, (process, number))
        for cell, timing in list(side.timings.items()):
            self._attempt(side, cell, timing.close)

    def _prepare(self, side: SideBySide, cell: Cell) -> None:
        def work() -> Answer | None:
            asker = Asker(self.workers.at(place_of(cell)), self.given, cell)
            status, _ = self.verdicts.get((cell.point, place_of(cell)), ("", ""))
            timing = side.timings[cell]
            timing.steps = timing.steps or self._steps_like(side, cell)
            return timing.prepare(asker, verified=status == "ok")

        self._attempt(side, cell, work)

    def _steps_like(self, side: SideBySide, cell: Cell) -> int:
        """How many steps a sample of the one has that this is to be like; 0 where there is none.

        What a call costs, whatever it does, is then shared out among as many steps.
        """
        like = self.blocks_like.get(cell.backend)
        return next((t.steps for c, t in side.timings.items() if spec(c) == like), 0)

    def _prepare_bare(self, side: SideBySide) -> None:
        if side.bare is None:
            return
        place = _bare_place(side.bare.cell)
        try:
            side.bare.prepare(self.workers.bare(place))
        except CellEnded:
            self.workers.lost(place)
            side.bare = None

    def _prepare_control(self, side: SideBySide) -> None:
        """Have one backend take part twice: NumPy where it is there, for it starts fastest."""
        if side.control is None:
            if side.controlled is not None:  # it was there and is lost
                return
            cells = sorted(side.timings, key=lambda cell: cell.backend != "numpy")
            side.controlled = side.timings[cells[0]]
            side.control = Timing(cells[0], side.controlled.steps)
        cell = side.control.cell
        try:
            asker = Asker(self.workers.at(place_of(cell), CONTROL), self.given, cell)
            if side.control.prepare(asker, verified=True):
                side.control = None
        except CellEnded:
            self.workers.lost(place_of(cell), CONTROL)
            side.control = None

    def _sample(self, side: SideBySide, one: Cell | str, slot: tuple[int, int]) -> None:
        if isinstance(one, Cell):
            if one in side.timings:
                self._attempt(side, one, lambda: side.timings[one].sample(slot))
            if one in side.timings:
                done = len(side.timings[one].series.seconds)
                self.progress.advanced(one, done, self.rounds)
            return
        part = side.control if one == CONTROL else side.bare
        if part is None:
            return
        try:
            part.sample(slot)
        except CellEnded:
            if one == CONTROL:
                self.workers.lost(place_of(part.cell), CONTROL)
                side.control = None
            else:
                self.workers.lost(_bare_place(part.cell))
                side.bare = None

    def _attempt(self, side: SideBySide, cell: Cell, work: Callable[[], Answer | None]) -> None:
        """Go one step on with a cell, which may end it."""
        with side.stopwatches[cell].running():
            try:
                ended = work()
            except CellEnded as end:
                if end.lost:
                    self.workers.lost(place_of(cell))
                ended = Answer(end.status, end.say, stderr=end.stderr)
        if ended:
            self._end(side, cell, ended)

    def _end(self, side: SideBySide, cell: Cell, answer: Answer) -> None:
        side.timings.pop(cell, None)
        self.finish(cell, answer, side.stopwatches[cell])

    def _answer(self, side: SideBySide) -> None:
        """What the samples of everyone who has come to the end say."""
        others: list[Series] = [part.series for part in (side.control, side.bare) if part]
        mark_disturbed([*(timing.series for timing in side.timings.values()), *others])
        same_code, of = None, ""
        if side.control and side.controlled:
            of = spec(side.control.cell)
            control, controlled = (
                part.series.undisturbed for part in (side.control, side.controlled)
            )
            same_code = paired_ratio(control, controlled) or unpaired_ratio(control, controlled)
        bare = side.bare
        beside = Beside(
            side.name, same_code, of, bare.series if bare else None, bare.layout if bare else ""
        )
        for cell, timing in list(side.timings.items()):
            self._end(side, cell, timing.answer(beside))


def spec(cell: Cell) -> str:
    """Its backend and mode, as people type them."""
    return f"{cell.backend}:{cell.mode}"


def place_of(cell: Cell) -> Place:
    """Where a cell's worker is."""
    return Place(cell.backend, cell.mode, cell.device, cell.dtype, cell.threads)


def _bare_place(cell: Cell) -> Place:
    return Place("", BARE_MODE, cell.device, cell.dtype, cell.threads)
