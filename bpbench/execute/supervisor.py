"""Which worker does what, and what becomes of it? The parent of all workers.

It imports no framework. Every cell ends as a row, whatever becomes of its worker, and every row is
written before the next cell begins.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bpbench.cells import QUESTIONS, Cell, Point
from bpbench.errors import UsageError, unknown
from bpbench.execute import questions as ask_about
from bpbench.execute.given import Given
from bpbench.execute.process import CellEnded, Limits, Place
from bpbench.execute.progress import Progress
from bpbench.execute.questions import Answer, Asker
from bpbench.execute.rounds import Rounds, Stopwatch, place_of
from bpbench.execute.store import SCHEMA, Row, Store
from bpbench.execute.workers import Workers
from bpbench.experiment import Experiment
from bpbench.measure import machine, memory
from bpbench.registry import split_mode

FINISHED = ("ok", "wrong", "diverged", "unsupported")
LOST = ("crashed", "timeout", "out of memory")
"""Kept by a later run too, unless it is told to retry; "missing" is always tried again."""
TIMEOUT = 300.0
ROUNDS = 30
PROCESSES = 3
AT_ONCE = 16
"""Workers alive at the same time, and so the most that are timed side by side, ..."""
WORKER_BYTES = 2**30
"""... and what each of them is thought to take, where there is less memory."""
POINTS_AT_ONCE = 8
"""Points that are timed in the same processes; a run that is killed loses their samples."""
MEMORY_SHARE = 0.9


def run(
    experiments: Experiment | Sequence[Experiment],
    *,
    backends: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    out: str | Path = "results",
    threads: int | Sequence[int] | None = None,
    timeout: float | None = None,
    questions: Sequence[str] | None = None,
    retry: bool = False,
    memory_limit: int | None = None,
    python: Mapping[str, str] | None = None,
    rounds: int = ROUNDS,
    processes: int = PROCESSES,
    blocks_like: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> list[Row]:
    """Run every cell that has no result yet, and return the rows of all.

    Args:
        experiments: what to run; the next six replace what they say.
        backends: such as "torch", "jax:eager" or "my.py:Mine".
        devices, dtypes, seeds, threads, questions: as in ``Experiment``.
        out: the folder of results, made where it is not there.
        timeout: seconds that a worker may take for one answer (a training gives about 50), before
            its cell is given up; 300 where None.
        retry: run those cells again, too, that crashed, timed out or ran out of memory; cells of
            missing backends are always tried again, finished ones never.
        memory_limit: bytes that a worker may have resident; 90 % of what is free where None.
        python: backend -> the interpreter that runs it, where it is not this one.
        rounds: samples that each backend gives to a timing, over all its processes.
        processes: fresh processes that each backend is timed in.
        blocks_like: backend -> another, such as "keras:jax", run beside it: samples of the first
            are then of as many steps as those of the other. For two recipes of the same work, so
            that what a call costs is shared out alike.
        progress: told what happens.
        command: what a person typed for this; rows keep it, so that reports can say it.

    Raises:
        UsageError: something that cannot be meant; nothing has been run then.
        BpbenchError: the folder cannot be written, or another run holds it.
        KeyboardInterrupt: workers have been ended, and finished rows kept.
    """
    chosen = [experiments] if isinstance(experiments, Experiment) else list(experiments)
    cells = _cells(
        chosen, backends=backends, devices=devices, dtypes=dtypes, seeds=seeds, threads=threads,
        questions=questions,
    )  # fmt: skip
    limits = Limits(
        _positive("timeout", TIMEOUT if timeout is None else timeout),
        int(_positive("memory_limit", memory_limit or memory.available_bytes() * MEMORY_SHARE)),
    )
    _positive("rounds", rounds)
    _positive("processes", processes)
    for name in blocks_like or ():
        if name not in {cell.backend for cell in cells}:
            raise unknown("blocks_like: backend", name, {cell.backend for cell in cells})
    interpreters = _interpreters(python or {}, cells)
    cores = {count: machine.idlest_cores(count) for count in {cell.threads for cell in cells}}

    store = Store(out)
    shown = progress or Progress()
    with store.held() as scratch:
        found = {cell: store.find(cell) for cell in cells}
        keep = FINISHED if retry else FINISHED + LOST
        kept = {cell: row for cell, row in found.items() if row and row["status"] in keep}
        todo = [cell for cell in cells if cell not in kept]
        shown.planned(todo, list(kept.values()))
        notes = {experiment.name: experiment.notes for experiment in chosen}
        supervisor = Supervisor(
            store,
            scratch,
            Workers(scratch, limits, interpreters, cores),
            rounds,
            processes,
            blocks_like or {},
            shown,
            command,
            notes,
        )
        rows = {**kept, **supervisor.run(todo, kept)}
    return [rows[cell] for cell in cells]


def _cells(experiments: Sequence[Experiment], **replaced: Any) -> list[Cell]:
    """The cells of all experiments, those with the same workers beside one another."""
    names = [experiment.name for experiment in experiments]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two experiments are called {name!r}; give each its own name")
    for question in replaced["questions"] or ():
        if question not in QUESTIONS:
            raise unknown("question", question, QUESTIONS)
    cells = [cell for experiment in experiments for cell in experiment.cells(**replaced)]
    groups = {_group(cell): None for cell in cells}
    return sorted(cells, key=lambda cell: list(groups).index(_group(cell)))


def _group(cell: Cell) -> tuple[str, str, int]:
    return cell.dtype, cell.device, cell.threads


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise UsageError(f"{name} is {value!r}; expected a number above 0")
    return value


def _interpreters(python: Mapping[str, str], cells: Sequence[Cell]) -> dict[str, str]:
    names = {cell.backend for cell in cells}
    for name, interpreter in python.items():
        if split_mode(name)[0] not in names:
            raise unknown("python: backend", name, names)
        if not Path(interpreter).is_file():
            raise UsageError(f"python: there is no interpreter {interpreter} for {name!r}")
    # "" is the worker that does bare matrix products
    return {name: str(python.get(name, sys.executable)) for name in ("", *names)}


class Supervisor:
    """A run: its workers and what it knows of them.

    Args:
        store: where rows go.
        scratch: a folder for what passes between the processes.
        workers: none of them started yet.
        rounds: samples of each timing.
        processes: fresh processes of each backend in a timing.
        blocks_like: backend -> whose samples its own are like, as in ``run``.
        progress: told what happens.
        command: what a person typed.
        notes: experiment -> what its script says of it.
    """

    def __init__(
        self,
        store: Store,
        scratch: Path,
        workers: Workers,
        rounds: int,
        processes: int,
        blocks_like: Mapping[str, str],
        progress: Progress,
        command: str,
        notes: Mapping[str, str],
    ) -> None:
        self._store = store
        self._workers = workers
        self._progress = progress
        self._command = command
        self._notes = notes
        self._given = Given(scratch)
        self._machine = machine.describe()
        self._verified: dict[tuple[Point, Place], tuple[str, str]] = {}
        self._rows: dict[Cell, Row] = {}
        self._rounds = Rounds(
            workers, self._given, progress, rounds, min(processes, rounds), blocks_like,
            self._verified, self._finish,
        )  # fmt: skip

    def run(self, cells: Sequence[Cell], kept: Mapping[Cell, Row]) -> dict[Cell, Row]:
        """Run the cells, whose verdicts may lie among the rows kept; returns their rows."""
        for cell, row in kept.items():
            if cell.question == "verify":
                self._verified[cell.point, place_of(cell)] = row["status"], row["say"]
        for group in _unique(map(_group, cells)):
            places = _unique(place_of(cell) for cell in cells if _group(cell) == group)
            at_once = _at_once()
            for first in range(0, len(places), at_once):
                self._run_places(cells, places[first : first + at_once])
        return self._rows

    def _run_places(self, cells: Sequence[Cell], places: Sequence[Place]) -> None:
        """Every cell of some places, a few points at a time: verified and trained, then timed.

        The workers that verify and train are not those that are timed.
        """
        mine = [cell for cell in cells if place_of(cell) in places]
        points = _unique(cell.point for cell in mine)
        for first in range(0, len(points), POINTS_AT_ONCE):
            few = points[first : first + POINTS_AT_ONCE]
            here = [cell for point in few for cell in mine if cell.point is point]
            try:
                for cell in here:
                    if cell.question != "speed":
                        self._run_cell(cell)
            finally:
                self._workers.end()
            self._rounds.time([cell for cell in here if cell.question == "speed"])
            self._given.forget()

    # ── One cell ───────────────────────────────────────────────────────────────────────────────

    def _run_cell(self, cell: Cell) -> None:
        """Verify or train."""
        stopwatch = Stopwatch()
        self._progress.started(cell)
        with stopwatch.running():
            answer = self._attempt(cell, partial(self._ask, cell))
        self._finish(cell, answer, stopwatch)

    def _ask(self, cell: Cell) -> Answer:
        if cell.question == "verify":
            return ask_about.verify(self._asker(cell))
        refused = self._refused(cell, "trained")
        if refused:
            return refused
        return ask_about.train(self._asker(cell), partial(self._progress.advanced, cell))

    def _asker(self, cell: Cell) -> Asker:
        return Asker(self._workers.at(place_of(cell)), self._given, cell)

    def _refused(self, cell: Cell, done: str) -> Answer | None:
        """What is to be said of a cell whose backend has been found wrong."""
        status, say = self._verified.get((cell.point, place_of(cell)), ("", ""))
        return Answer("wrong", f"not {done}: {say}") if status == "wrong" else None

    def _attempt(self, cell: Cell, work: Callable[[], Answer]) -> Answer:
        """What some work with a cell's worker comes to, or how it ended."""
        try:
            return work()
        except CellEnded as end:
            if end.lost:
                self._workers.lost(place_of(cell))
            return Answer(end.status, end.say, stderr=end.stderr)

    def _finish(self, cell: Cell, answer: Answer, stopwatch: Stopwatch) -> None:
        """Write the row of a cell that has ended, and tell of it."""
        opened = self._workers.opened.get(place_of(cell), {})
        row: Row = {
            "schema": SCHEMA,
            "cell": {**cell.describe(), "mode": opened.get("mode", cell.mode)},
            "status": answer.status,
            "say": answer.say,
            "stderr": answer.stderr,
            "given_digest": answer.given_digest,
            "measured": answer.measured,
            "command": self._command,
            "notes": self._notes[cell.point.experiment],
            "machine": self._machine,
            "versions": opened.get("versions", {}),
            "started": stopwatch.started.isoformat(timespec="seconds"),
            "seconds": round(stopwatch.seconds, 3),
        }
        if cell.question == "verify" and answer.status in FINISHED:
            self._verified[cell.point, place_of(cell)] = answer.status, answer.say
        self._rows[cell] = self._store.write(cell, row, answer.arrays)
        self._progress.finished(self._rows[cell])


def _at_once() -> int:
    """How many workers there is room for."""
    return int(max(2, min(AT_ONCE, memory.available_bytes() / WORKER_BYTES)))


def _unique(items: Any) -> list[Any]:
    return list(dict.fromkeys(items))
