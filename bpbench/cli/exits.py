"""With which exit code does a command end? One number for each kind of ending."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bpbench.results.rows import Row

FINE = 0
FAILED = 1
USAGE = 2
CRASHED = 3
MISSING = 4
INTERRUPTED = 130

CODES = {"wrong": FAILED, "crashed": CRASHED, "timeout": CRASHED, "out of memory": CRASHED}
"""The statuses of a cell that are a failure whoever asked for it."""


def exit_code(rows: Collection[Row], required: Collection[str] = ()) -> int:
    """The code for the rows of a run: the worst news wins (wrong, then crashed, then missing).

    A backend that was asked for by name must be there; where no cell at all could be run, whatever
    the reason, nothing was shown and that is no success either.

    Args:
        rows: result rows.
        required: the names of the backends that were asked for by name.
    """
    codes = {CODES.get(row["status"], FINE) for row in rows}
    if any(row["status"] == "missing" and row["cell"]["backend"] in required for row in rows):
        codes.add(MISSING)
    if rows and all(row["status"] in ("missing", "unsupported") for row in rows):
        codes.add(MISSING)
    return min(codes - {FINE}, default=FINE)
