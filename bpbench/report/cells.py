"""What did each cell come to? Result rows as one flat pandas table, a cell a line, raw numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from bpbench.registry import BUILT_IN
from bpbench.report import speed

Row = Mapping[str, Any]

WHERE = ("backend", "mode", "device", "dtype", "threads")
"""What tells the cells of one experiment apart, but for the question and the seed."""
POINT = "point."
"""Starts the columns of what an experiment varies: "point.learning_rate"."""
VARIANT = "variant"
DEFINITION = (
    "network_text", "data", "data_digest", "optimizer", "epochs", "batch_size", "initial",
    "shuffle", "drop_last",
)  # fmt: skip
"""What an experiment declares. A folder keeps the results of a script as it was before a change, so
that one experiment may have several definitions: the column ``variant`` tells them apart."""


def flat(rows: Iterable[Row]) -> pd.DataFrame:
    """One line per cell, sorted: what it was, how it ended, and every single number measured.

    Columns are absent where no cell has them; times are in seconds, memory in bytes, shares from
    0 to 1, errors relative to each tensor's largest entry.
    """
    ordered = in_order(rows)
    several = _several_definitions(ordered)
    lines = [_line(row, several.get(_experiment(row), ())) for row in ordered]
    compared = speed.together(ordered, work)
    for line in lines:
        line.update(compared.get(line["id"], {}))
    return pd.DataFrame(lines, columns=list(dict.fromkeys(key for line in lines for key in line)))


def in_order(rows: Iterable[Row]) -> list[Row]:
    """The rows by experiment, point and dtype, then in the order of the registry."""
    return sorted(rows, key=_place)


def points(frame: pd.DataFrame) -> list[str]:
    """The columns of what the experiments vary."""
    return [column for column in frame.columns if str(column).startswith(POINT)]


def work(row: Row) -> tuple[Any, ...]:
    """What two rows have in common that did the same work, on whichever backend."""
    cell = row["cell"]
    definition = tuple(str(cell.get(name)) for name in DEFINITION)
    return (*_experiment(row), *definition, cell["question"], cell["dtype"], cell["seed"])


def _experiment(row: Row) -> tuple[str, str]:
    return row["cell"]["experiment"], str(row["cell"].get("point"))


def _several_definitions(rows: Sequence[Row]) -> dict[tuple[str, str], list[str]]:
    """The parts of its definition that an experiment's rows do not agree on."""
    found: dict[tuple[str, str], list[set[str]]] = {}
    for row in rows:
        values = found.setdefault(_experiment(row), [set() for _ in DEFINITION])
        for name, seen in zip(DEFINITION, values, strict=True):
            seen.add(str(row["cell"].get(name)))
    return {
        experiment: [name for name, seen in zip(DEFINITION, values, strict=True) if len(seen) > 1]
        for experiment, values in found.items()
    }


def _line(row: Row, several: Sequence[str]) -> dict[str, Any]:
    cell = row["cell"]
    measured = row.get("measured") or {}
    reading = {"verify": _verify, "speed": _speed, "train": _train}[cell["question"]]
    return {
        "experiment": cell["experiment"],
        **{POINT + name: value for name, value in (cell.get("point") or {}).items()},
        **({VARIANT: _variant(cell, several)} if several else {}),
        **{name: cell[name] for name in WHERE},
        "seed": cell["seed"],
        "question": cell["question"],
        "status": row["status"],
        **(reading(measured) if measured else {}),
        "say": row.get("say") or "",
        "id": cell["id"],
    }


def _variant(cell: Row, several: Sequence[str]) -> str:
    return ", ".join(f"{name.removesuffix('_text')} {cell.get(name)}" for name in several)


def _verify(measured: Row) -> dict[str, Any]:
    report, training = measured.get("report") or {}, measured.get("training") or {}
    tensors = report.get("tensors") or []
    worst = max(tensors, key=lambda tensor: _or_infinite(tensor["sigmas"]), default=None)
    detectable = [tensor["detectable"] for tensor in tensors]
    return {
        "verdict": report.get("verdict"),
        "worst_error": measured.get("max_scaled_error"),
        "worst_sigmas": measured.get("worst_sigmas"),
        "worst_tensor": worst and tensor_name(worst),
        "detectable": None if None in detectable else max(detectable, default=None),
        "training_verdict": training.get("verdict"),
    }


def tensor_name(tensor: Row) -> str:
    """W[1] of a tensor's name and layer, loss of one that belongs to no layer."""
    layer = tensor.get("layer")
    return str(tensor.get("name")) + ("" if layer is None else f"[{layer}]")


def _speed(measured: Row) -> dict[str, Any]:
    low, high = measured.get("interval") or (None, None)
    plain = ("import_s", "upload_s", "first_call_s", "second_call_s", "median_s", "min_s")
    rest = (
        "samples_per_s", "gflops", "limit_median_s", "limit_min_s", "share_of_limit",
        "peak_memory_bytes", "peak_device_bytes", "threads_observed",
        "rounds", "steps_per_sample", "timing",
    )  # fmt: skip
    same_low, same_high = measured.get("aa_ratio") or (None, None)
    marks = measured.get("disturbed") or ()
    return {
        **{name: measured.get(name) for name in plain},
        "interval_low_s": low,
        "interval_high_s": high,
        "cpu_per_wall": _middle(measured.get("cpu_per_wall") or ()),
        **{name: measured.get(name) for name in rest},
        "aa_low": same_low,
        "aa_high": same_high,
        "aa_of": measured.get("aa_of") or None,
        "disturbed_share": sum(marks) / len(marks) if marks else None,
        "noisy": measured.get("noisy") or None,
    }


def _train(measured: Row) -> dict[str, Any]:
    parts = measured.get("parts_from_numpy") or {}
    return {
        **{name: measured.get(name) for name in ("steps", "first_loss", "final_loss")},
        **{f"accuracy_{part}": v for part, v in (measured.get("accuracy") or {}).items()},
        "train_s": measured.get("seconds"),
        "parameters_digest": measured.get("parameters_digest"),
        "parts_step": parts.get("step"),
        "from_numpy": parts.get("largest"),
    }


def _middle(values: Sequence[float]) -> float | None:
    return float(pd.Series(list(values)).median()) if len(values) else None


def _or_infinite(value: float | None) -> float:
    """Result files hold None for a number that is not finite."""
    return math.inf if value is None or math.isnan(value) else value


def _place(row: Row) -> tuple[Any, ...]:
    cell = row["cell"]
    names = list(BUILT_IN)
    modes = list(BUILT_IN[cell["backend"]].targets) if cell["backend"] in BUILT_IN else []
    return (
        cell["experiment"],
        [_number_or_text(value) for value in (cell.get("point") or {}).values()],
        cell["dtype"],
        cell["device"],
        cell["threads"],
        names.index(cell["backend"]) if cell["backend"] in names else len(names),
        cell["backend"],
        modes.index(cell["mode"]) if cell["mode"] in modes else len(modes),
        str(cell["mode"]),
        cell["seed"],
        cell["question"],
    )


def _number_or_text(value: Any) -> tuple[int, float, str]:
    """A key that puts 0.1 before 0.01 before none of the names: numbers first, by size."""
    try:
        return (0, float(value), "")
    except (TypeError, ValueError):
        return (1, 0.0, str(value))
