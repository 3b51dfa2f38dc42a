"""How far is a run? A live table on a terminal, one plain line per finished cell elsewhere.

A backend's contracts are shown in the same way: a bar, or a line for each broken one.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from bpbench.cells import QUESTIONS, Cell
from bpbench.cli import output
from bpbench.execute.progress import Progress
from bpbench.report import numbers
from bpbench.results.rows import CellData, Row, backend_of, timed, trained, verified, whose

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from bpbench.conformance import Tried

REDRAW_S = 0.2
"""The live table is drawn again at most this often, and only when something happens: a thread that
draws while a worker is being timed would be measured with it."""


@contextmanager
def shown(quiet: bool, verbose: bool) -> Iterator[Progress]:
    """The progress that suits stderr, for as long as the run takes."""
    if quiet:
        yield Progress()
    elif not sys.stderr.isatty():
        yield Lines(verbose)
    else:
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
            yield Board(live)


@contextmanager
def contracts_shown(quiet: bool) -> Iterator[Callable[[int, int, Tried], None]]:
    """What to call after each contract of a backend that was tried."""
    if quiet:
        yield lambda done, total, tried: None
    elif not sys.stderr.isatty():
        yield _contract_line
    else:
        from rich.console import Console
        from rich.progress import Progress as Bar

        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("contracts", total=None)
            yield lambda done, total, tried: bar.update(
                task, completed=done, total=total, description=tried.way
            )


def _contract_line(done: int, total: int, tried: Tried) -> None:
    """A line for a contract that is broken, and for every tenth that is kept."""
    if tried.faults:
        output.note(f"[{done}/{total}] {tried.way}: broken: {tried.contract}")
    elif done % 10 == 0 or done == total:
        output.note(f"[{done}/{total}] {tried.way}")


def outcome(row: Row) -> str:
    """How a cell ended, in a few words: "right, 2.1e-16", "12.3 µs a step", "missing"."""
    if row["status"] != "ok":
        return row["status"]
    if judged := verified(row):
        return f"{judged['report']['verdict']}, {numbers.error(judged['max_scaled_error'])}"
    if speed := timed(row):
        return f"{numbers.seconds(speed['median_s'])} a step"
    training = trained(row)
    return f"loss {numbers.digits(training and training['final_loss'])}"


class Lines(Progress):
    """One line on stderr for every cell that ends, and for every one that starts where asked."""

    def __init__(self, verbose: bool = False) -> None:
        self.verbose = verbose
        self.total = self.done = 0

    def planned(self, cells: Sequence[Cell], kept: Sequence[Row]) -> None:
        self.total = len(cells)
        if kept:
            output.note(f"{len(kept)} cells were finished before and are kept")

    def started(self, cell: Cell) -> None:
        if self.verbose:
            output.note(f"{_what(_data(cell))}: started")

    def finished(self, row: Row) -> None:
        self.done += 1
        took = numbers.seconds(row["seconds"])
        say = f": {row['say']}" if row["say"] and row["status"] != "ok" else ""
        output.note(
            f"[{self.done}/{self.total}] {_what(row['cell'])}: {outcome(row)}{say} ({took})"
        )
        if self.verbose and row.get("stderr"):
            output.note(textwrap.indent(row["stderr"], "    "))


class Board(Progress):
    """A table on the terminal: a line for every backend and dtype, a column for every question."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.states: dict[str, dict[str, str]] = {}
        self.busy = ""
        self.total = self.done = 0
        self.drawn = 0.0

    def planned(self, cells: Sequence[Cell], kept: Sequence[Row]) -> None:
        self.total, self.done = len(cells) + len(kept), len(kept)
        for row in kept:
            self._set(row["cell"], outcome(row))
        for cell in cells:
            self._set(_data(cell), "")
        self._draw()

    def started(self, cell: Cell) -> None:
        self.busy = _who(_data(cell))
        self._set(_data(cell), "…")
        self._draw()

    def advanced(self, cell: Cell, done: int, total: int) -> None:
        self._set(_data(cell), f"{done / total:.0%}")
        if time.monotonic() - self.drawn > REDRAW_S:
            self._draw()

    def finished(self, row: Row) -> None:
        self.done += 1
        self._set(row["cell"], outcome(row))
        self._draw()

    def _set(self, cell: CellData, state: str) -> None:
        self.states.setdefault(_who(cell), {})[cell["question"]] = state

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        self.live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        """As many lines as the terminal holds, around the one that is busy."""
        from rich.table import Table

        table = Table("", *QUESTIONS, title=f"{self.done} of {self.total} cells", box=None)
        names = list(self.states)
        room = max(1, self.live.console.height - 4)
        at = names.index(self.busy) if self.busy in names else 0
        first = max(0, min(at - room // 2, len(names) - room))
        for name in names[first : first + room]:
            states = self.states[name]
            table.add_row(name, *(states.get(question, "") for question in QUESTIONS))
        return table


def _data(cell: Cell) -> CellData:
    return cast(CellData, cell.describe())


def _who(cell: CellData) -> str:
    where = f"{backend_of(cell)} {cell['dtype']}"
    return f"{whose(cell)}, {where}" + ("" if cell["device"] == "cpu" else f" {cell['device']}")


def _what(cell: CellData) -> str:
    return f"{_who(cell)}, {cell['question']}" + (f" (seed {cell['seed']})" if cell["seed"] else "")
