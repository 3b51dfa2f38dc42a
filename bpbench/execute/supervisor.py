"""Which worker does what, and what becomes of it? The parent of all workers.

It imports no framework. Every cell ends as a row, whatever becomes of its worker, and every row is
written before the next cell begins.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bpbench.cells import Cell, Point
from bpbench.errors import UsageError
from bpbench.execute.attempt import Attempt, Ended, Outcome
from bpbench.execute.given import Given
from bpbench.execute.local import LocalWorker
from bpbench.execute.options import RunOptions
from bpbench.execute.process import Limits, Place, WorkerProcess, workers_can_be_had
from bpbench.execute.progress import Progress
from bpbench.execute.protocol import Message
from bpbench.execute.questions import Asker, train, verify
from bpbench.execute.rounds import Rounds
from bpbench.execute.workers import Workers
from bpbench.experiment import Experiment
from bpbench.measure import machine, memory
from bpbench.results.rows import SCHEMA, Row, validated
from bpbench.results.store import Store, plain

FINISHED = ("ok", "wrong", "diverged", "unsupported")
LOST = ("crashed", "timeout", "out of memory")
"""Kept by a later run too, unless it is told to retry; "missing" is always tried again."""
AT_ONCE = 16
"""Workers alive at the same time, and so the most that are timed side by side ..."""
WORKER_BYTES = 2**30
"""... where there is so much memory for each."""
POINTS_AT_ONCE = 8
"""Points that are timed in the same processes; a run that is killed loses their samples."""
MEMORY_SHARE = 0.9


def run(
    experiments: Experiment | Sequence[Experiment],
    options: RunOptions | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Run every cell that has no result yet, and return the rows of all.

    Args:
        experiments: what to run.
        options: how; ``RunOptions()`` where None.
        progress: told what happens.

    Raises:
        UsageError: something that cannot be meant; nothing has been run then.
        BpbenchError: the folder cannot be written, or another run holds it.
        KeyboardInterrupt: workers have been ended, and finished rows kept.
    """
    chosen = [experiments] if isinstance(experiments, Experiment) else list(experiments)
    options, shown = options or RunOptions(), progress or Progress()
    cells = options.cells(chosen)
    processes = workers_can_be_had()
    store = None if options.out is None else Store(options.out)
    if not processes and (store or any(cell.question != "verify" for cell in cells)):
        raise UsageError(
            "run needs worker processes, which need Linux or macOS; bpbench check, verify, "
            "report, compare and backends work here"
        )
    cores: dict[int, list[int]] = {}
    if processes:
        cores = {count: machine.idlest_cores(count) for count in {cell.threads for cell in cells}}
    notes = {experiment.name: experiment.notes for experiment in chosen}
    here = machine.describe()

    with ExitStack() as stack:
        if store:
            scratch = stack.enter_context(store.held())
        else:
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix="bpbench-")))
        found = {cell: store.find(cell) for cell in cells} if store else {}
        keep = FINISHED if options.retry else FINISHED + LOST
        rows = {cell: row for cell, row in found.items() if row and row["status"] in keep}
        todo = [cell for cell in cells if cell not in rows]
        shown.planned(todo, list(rows.values()))
        workers = Workers(_starter(options, scratch, cores) if processes else LocalWorker)
        stack.callback(workers.end)
        at_once = 1
        if processes:
            at_once = int(max(2, min(AT_ONCE, memory.available_bytes() / WORKER_BYTES)))
        verdicts: dict[tuple[Point, Place], tuple[str, str]] = {
            (cell.point, Place.of(cell)): (row["status"], row["say"])
            for cell, row in rows.items()
            if cell.question == "verify"
        }
        supervisor = Supervisor(workers, Given(scratch), shown, options, at_once, verdicts)
        for ended in supervisor.run(todo):
            cell = ended.attempt.cell
            opened = workers.opened.get(Place.of(cell), {})
            rows[cell] = _row(ended, opened, options.command, notes[cell.point.experiment], here)
            if store:
                store.write(cell, rows[cell], ended.answer.arrays)
            shown.finished(rows[cell])
    return [rows[cell] for cell in cells]


def _row(ended: Ended, opened: Message, command: str, notes: str, here: dict[str, Any]) -> Row:
    """The row of a cell that has ended, whose worker said ``opened`` when it was started."""
    attempt, answer = ended
    row = {
        "schema": SCHEMA,
        "cell": {**attempt.cell.describe(), "mode": opened.get("mode", attempt.cell.mode)},
        "status": answer.status,
        "say": answer.say,
        "stderr": answer.stderr,
        "given_digest": answer.given_digest,
        "measured": answer.measured,
        "command": command,
        "notes": notes,
        "machine": here,
        "versions": opened.get("versions", {}),
        "started": attempt.started.isoformat(timespec="seconds"),
        "seconds": round(attempt.seconds, 3),
    }
    return validated(plain(row))


def _starter(
    options: RunOptions, scratch: Path, cores: Mapping[int, Sequence[int]]
) -> Callable[[Place], WorkerProcess]:
    """What starts worker processes, on the cores for so many threads."""
    most = options.memory_limit or memory.available_bytes() * MEMORY_SHARE
    limits = Limits(options.timeout, int(most))
    logs = (scratch / f"worker-{number}.log" for number in itertools.count(1))
    return lambda place: WorkerProcess(
        place, options.interpreter(place.backend), cores[place.threads], limits, next(logs)
    )


@dataclass(frozen=True)
class Supervisor:
    """A run: its workers, and what has been verified.

    Attributes:
        given: what passes between the processes.
        at_once: how many workers there is room for.
        verdicts: status and sentence of what has been verified, in this run or an earlier one.
    """

    workers: Workers
    given: Given
    progress: Progress
    options: RunOptions
    at_once: int
    verdicts: dict[tuple[Point, Place], tuple[str, str]]

    def run(self, cells: Sequence[Cell]) -> Iterator[Ended]:
        """Each cell when it has ended; the next begins when the one behind it is asked for.

        Args:
            cells: those of the same dtype, device and threads beside one another.
        """
        for _, group in groupby(cells, lambda cell: (cell.dtype, cell.device, cell.threads)):
            same = list(group)
            places = list(dict.fromkeys(map(Place.of, same)))
            for first in range(0, len(places), self.at_once):
                some = places[first : first + self.at_once]
                mine = [cell for cell in same if Place.of(cell) in some]
                points = list(dict.fromkeys(cell.point for cell in mine))
                for start in range(0, len(points), POINTS_AT_ONCE):
                    few = points[start : start + POINTS_AT_ONCE]
                    yield from self._few([c for point in few for c in mine if c.point is point])

    def _few(self, cells: Sequence[Cell]) -> Iterator[Ended]:
        """The cells of some places and a few points: all are verified and trained, then timed.

        The workers that verify and train are not those that are timed.
        """
        for cell in cells:
            if cell.question != "speed":
                self.progress.started(cell)
                attempt = Attempt(cell)
                refused = self._refused(cell, "trained") if cell.question == "train" else None
                work = partial(self._answer, cell)
                answer = refused if refused else attempt.go_on(self.workers, work)
                if cell.question == "verify":
                    self.verdicts[cell.point, Place.of(cell)] = answer.status, answer.say
                yield Ended(attempt, answer)
        self.workers.end()
        timed: dict[Cell, bool] = {}
        for cell in cells:
            if cell.question == "speed":
                refused = self._refused(cell, "timed")
                if refused:
                    self.progress.started(cell)
                    yield Ended(Attempt(cell), refused)
                else:
                    status, _ = self.verdicts.get((cell.point, Place.of(cell)), ("", ""))
                    timed[cell] = status == "ok"
        yield from Rounds(self.workers, self.given, self.progress, self.options).time(timed)
        self.given.forget()

    def _answer(self, cell: Cell) -> Outcome:
        """Have a cell verified or trained."""
        asker = Asker(self.workers.at(Place.of(cell)), self.given, cell)
        if cell.question == "verify":
            return verify(asker)
        return train(asker, partial(self.progress.advanced, cell))

    def _refused(self, cell: Cell, done: str) -> Outcome | None:
        """What is to be said of a cell whose backend has been found wrong."""
        status, say = self.verdicts.get((cell.point, Place.of(cell)), ("", ""))
        return Outcome("wrong", f"not {done}: {say}") if status == "wrong" else None
