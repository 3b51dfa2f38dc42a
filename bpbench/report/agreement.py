"""Did the backends learn the same? Every training compared with NumPy's, from the kept arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bpbench.network import Array
from bpbench.results import store
from bpbench.results.rows import Parting, Row, in_order, trained, work

REFERENCE = "numpy"
PARTED = 0.01
"""Two trainings have parted at the first step whose losses differ by this share of the loss."""


def with_agreement(rows: Sequence[Row], folder: Path) -> list[Row]:
    """The rows, those of trainings with ``parts_from_numpy`` among what was measured.

    Without NumPy's training, or the arrays of either, it is absent.

    Args:
        rows: as ``bpbench.results.store.read`` gives them.
        folder: the folder of results that holds the rows' arrays.
    """
    references = {
        work(row): row for row in reversed(in_order(rows)) if row["cell"]["backend"] == REFERENCE
    }
    found = []
    for row in rows:
        reference = references.get(work(row))
        if reference and trained(row) and row["status"] == reference["status"] == "ok":
            arrays = (store.read_arrays(folder, each) for each in (reference, row))
            parting = _difference(*arrays)
            if parting:
                row = {**row, "measured": {**row["measured"], "parts_from_numpy": parting}}
        found.append(row)
    return found


def _difference(reference: dict[str, Array], own: dict[str, Array]) -> Parting | None:
    parameters = reference.keys() - {"losses"}
    if not parameters or reference.keys() != own.keys():
        return None
    largest = max(float(np.abs(own[name] - reference[name]).max()) for name in parameters)
    apart = np.abs(own["losses"] - reference["losses"]) > PARTED * np.abs(reference["losses"])
    step = int(apart.argmax()) if apart.any() else None
    return {"step": step, "largest": largest}
