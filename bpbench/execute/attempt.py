"""What becomes of a cell that is tried? An answer, whatever its worker does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from bpbench.cells import Cell
from bpbench.execute.process import CellEnded, Place
from bpbench.execute.workers import Workers
from bpbench.network import Array
from bpbench.results.rows import Status

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What a cell came to, before it is a row."""

    status: Status = "ok"
    say: str = ""
    measured: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    given_digest: str | None = None
    stderr: str = ""


@dataclass
class Attempt:
    """A cell from when it is begun, and the seconds that are spent on it alone."""

    cell: Cell
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0

    def go_on(self, workers: Workers, work: Callable[[], T]) -> T | Outcome:
        """Do some work with the cell's worker; its answer, or how the worker ended."""
        start = time.monotonic()
        try:
            found = workers.attempt(Place.of(self.cell), work)
        finally:
            self.seconds += time.monotonic() - start
        if isinstance(found, CellEnded):
            return Outcome(found.status, found.say, stderr=found.stderr)
        return found


class Ended(NamedTuple):
    """A cell that has ended, well or not."""

    attempt: Attempt
    answer: Outcome
