"""Did the backends learn the same? Every training held against NumPy's, from the kept arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bpbench.execute import store
from bpbench.network import Array
from bpbench.report.cells import Row, in_order, work

REFERENCE = "numpy"
PARTED = 0.01
"""Two trainings have parted at the first step whose losses differ by this share of the loss."""


def with_agreement(rows: Sequence[Row], folder: Path) -> list[dict[str, Any]]:
    """The rows, those of trainings with ``parts_from_numpy`` among what was measured.

    It holds ``largest``, the largest difference of any final parameter from that of NumPy's
    training on the same work, and ``step``, the first at which the losses differ by a hundredth,
    or None where they never do. Without NumPy's training, or the arrays of either, it is absent.

    Args:
        rows: as ``bpbench.execute.store.read`` gives them.
        folder: the folder of results that holds the rows' arrays.
    """
    references = {
        work(row): row for row in reversed(in_order(rows)) if row["cell"]["backend"] == REFERENCE
    }
    found = []
    for row in rows:
        reference = references.get(work(row))
        trained = row["cell"]["question"] == "train" and row["status"] == "ok"
        if trained and reference is not None and reference["status"] == "ok":
            parts = _difference(
                store.read_arrays(folder, dict(reference)), store.read_arrays(folder, dict(row))
            )
            row = {**row, "measured": {**row["measured"], **parts}}
        found.append(dict(row))
    return found


def _difference(reference: dict[str, Array], own: dict[str, Array]) -> dict[str, Any]:
    parameters = reference.keys() - {"losses"}
    if not parameters or reference.keys() != own.keys():
        return {}
    largest = max(float(np.abs(own[name] - reference[name]).max()) for name in parameters)
    apart = np.abs(own["losses"] - reference["losses"]) > PARTED * np.abs(reference["losses"])
    step = int(apart.argmax()) if apart.any() else None
    return {"parts_from_numpy": {"step": step, "largest": largest}}
