"""How far is a run? What is told to whoever shows it."""

from __future__ import annotations

from collections.abc import Sequence

from bpbench.cells import Cell
from bpbench.results.rows import Row


class Progress:
    """The moments of a run, in their order; override those that are to be shown."""

    def planned(self, cells: Sequence[Cell], kept: Sequence[Row]) -> None:
        """The run has ``cells`` to do; ``kept`` are the rows that an earlier run finished."""

    def started(self, cell: Cell) -> None:
        """A worker is busy with ``cell``."""

    def advanced(self, cell: Cell, done: int, total: int) -> None:
        """``done`` of ``total`` steps of training, or rounds of timing, are over."""

    def finished(self, row: Row) -> None:
        """A cell has ended, well or not, and its row has been written."""
