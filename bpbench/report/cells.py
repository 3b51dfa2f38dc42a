"""What did each cell come to? Result rows as one flat pandas table, a cell a line, raw numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from bpbench.report import speed
from bpbench.results import rows as results
from bpbench.results.rows import DEFINITION, CellData, Row, TensorData, Timed, Trained, Verified

WHERE = ("backend", "mode", "device", "dtype", "threads")
"""What tells the cells of one experiment apart, but for the question and the seed."""
POINT = "point."
"""Starts the columns of what an experiment varies: "point.learning_rate"."""
VARIANT = "variant"
"""The column that tells several definitions of one experiment apart."""
FIRST_NUMBERS = ("import_s", "upload_s", "first_call_s", "second_call_s", "median_s", "min_s")
NUMBERS = (
    "samples_per_s", "gflops", "limit_median_s", "limit_min_s", "share_of_limit",
    "peak_memory_bytes", "peak_device_bytes", "threads_observed",
    "rounds", "steps_per_sample", "timing",
)  # fmt: skip
"""What a timing measured that has a column as it is, before the interval and after it."""


def flat(rows: Iterable[Row]) -> pd.DataFrame:
    """One line per cell, sorted: what it was, how it ended, and every single number measured.

    Columns are absent where no cell has them; times are in seconds, memory in bytes, shares from
    0 to 1, errors relative to each tensor's largest entry.
    """
    ordered = results.in_order(rows)
    several = _several_definitions(ordered)
    lines = [_line(row, several[results.training(row["cell"])]) for row in ordered]
    compared = speed.together(ordered)
    for line in lines:
        line.update(compared.get(line["id"], {}))
    return pd.DataFrame(lines, columns=list(dict.fromkeys(key for line in lines for key in line)))


def points(frame: pd.DataFrame) -> list[str]:
    """The columns of what the experiments vary."""
    return [column for column in frame.columns if str(column).startswith(POINT)]


def _several_definitions(rows: Sequence[Row]) -> dict[tuple[str, str], list[str]]:
    """The parts of its definition that an experiment's rows do not agree on."""
    found: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for row in rows:
        cell = row["cell"]
        found.setdefault(results.training(cell), set()).add(results.definition(cell))
    return {
        training: [
            name
            for name, values in zip(DEFINITION, zip(*seen, strict=True), strict=True)
            if len(set(values)) > 1
        ]
        for training, seen in found.items()
    }


def _line(row: Row, several: Sequence[str]) -> dict[str, Any]:
    cell = row["cell"]
    verified, timed, trained = results.verified(row), results.timed(row), results.trained(row)
    return {
        "experiment": cell["experiment"],
        **{POINT + name: value for name, value in cell["point"].items()},
        **({VARIANT: _variant(cell, several)} if several else {}),
        **{name: value for name, value in cell.items() if name in WHERE},
        "seed": cell["seed"],
        "question": cell["question"],
        "status": row["status"],
        **(_verified(verified) if verified else {}),
        **(_timed(timed) if timed else {}),
        **(_trained(trained) if trained else {}),
        "say": row["say"],
        "id": cell["id"],
    }


def _variant(cell: CellData, several: Sequence[str]) -> str:
    declared = dict(zip(DEFINITION, results.definition(cell), strict=True))
    return ", ".join(f"{name.removesuffix('_text')} {declared[name]}" for name in several)


def _verified(measured: Verified) -> dict[str, Any]:
    report = measured["report"]
    worst = max(report["tensors"], key=lambda t: _or_infinite(t["sigmas"]), default=None)
    return {
        "verdict": report["verdict"],
        "worst_error": measured["max_scaled_error"],
        "worst_sigmas": measured["worst_sigmas"],
        "worst_tensor": worst and tensor_name(worst),
        "detection_limit": report.get("detection_limit"),
        "training_verdict": measured["training"]["verdict"],
    }


def tensor_name(tensor: TensorData) -> str:
    """W[1] of a tensor's name and layer, loss of one that belongs to no layer."""
    return tensor["name"] + ("" if tensor["layer"] is None else f"[{tensor['layer']}]")


def _timed(measured: Timed) -> dict[str, Any]:
    low, high = measured["interval"]
    same_low, same_high = measured.get("aa_ratio") or (None, None)
    marks = measured.get("disturbed") or ()
    return {
        **{name: measured.get(name) for name in FIRST_NUMBERS},
        "interval_low_s": low,
        "interval_high_s": high,
        "cpu_per_wall": pd.Series(measured["cpu_per_wall"], dtype=float).median(),
        **{name: measured.get(name) for name in NUMBERS},
        "aa_low": same_low,
        "aa_high": same_high,
        "aa_of": measured.get("aa_of") or None,
        "disturbed_share": sum(marks) / len(marks) if marks else None,
        "noisy": measured.get("noisy") or None,
    }


def _trained(measured: Trained) -> dict[str, Any]:
    parts = measured.get("parts_from_numpy")
    return {
        **{name: measured.get(name) for name in ("steps", "first_loss", "final_loss")},
        **{f"accuracy_{part}": v for part, v in measured.get("accuracy", {}).items()},
        "train_s": measured["seconds"],
        "parameters_digest": measured["parameters_digest"],
        "parts_step": parts and parts["step"],
        "from_numpy": parts and parts["largest"],
    }


def _or_infinite(value: float | None) -> float:
    """Result files hold None for a number that is not finite."""
    return math.inf if value is None or math.isnan(value) else value
