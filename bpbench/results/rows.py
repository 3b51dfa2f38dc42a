"""What is a result row? The schema of a result file, and what rows say whoever reads them.

A row is the JSON object of one file: one cell, how it ended, and what was measured. It is checked
against the types below whenever it is read or written, and nowhere else. What they do not name is
kept as it is, so that files of later versions can be read; a number that is not finite is null.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast

import msgspec

from bpbench.measure.statistics import Slot, undisturbed
from bpbench.registry import BUILT_IN

SCHEMA = 1

Status = Literal[
    "ok", "wrong", "diverged", "unsupported", "missing", "crashed", "timeout", "out of memory"
]
"""How a cell ended. "wrong" is a verdict on gradients or training; it is not timed then."""
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Interval = Annotated[list[Seconds], msgspec.Meta(min_length=2, max_length=2)]
"""Low and high."""


class CellData(TypedDict):
    """What was asked: ``bpbench.cells.Cell.describe``."""

    id: str  # the name of its file
    question: Literal["verify", "train", "speed"]
    experiment: str
    point: dict[str, str]  # what the experiment varies, by name, as text
    network: dict[str, Any]
    network_text: str
    data: str
    data_digest: str  # of all arrays of the data set
    optimizer: dict[str, Any]
    epochs: int
    batch_size: int
    shuffle: bool
    drop_last: bool
    initial: str  # the scheme of the initial parameters, or the name of what made them
    backend: str
    mode: str
    device: str
    dtype: str
    threads: int
    seed: int


class FindingData(TypedDict):
    """One thing that a judge found: ``bpbench.verify.findings.Finding``."""

    say: str
    mistake: NotRequired[str]
    layer: NotRequired[int | None]
    tensor: NotRequired[str | None]
    certain: NotRequired[bool]


class TensorData(TypedDict):
    """The error of one tensor: ``bpbench.verify.findings.TensorError``."""

    name: str
    layer: int | None
    error: float | None
    sigmas: float | None
    detection_limit: float | None


class ReportData(TypedDict):
    """A judge's report: ``bpbench.verify.findings.Report``."""

    verdict: str
    findings: list[FindingData]
    tensors: list[TensorData]
    subject: NotRequired[str]
    worst_sigmas: NotRequired[float | None]
    max_scaled_error: NotRequired[float | None]
    detection_limit: NotRequired[float | None]


class Verified(TypedDict):
    """What verifying measured."""

    report: ReportData  # on one backpropagation
    training: ReportData  # on a few steps of training
    worst_sigmas: float | None  # of the first of them
    max_scaled_error: float | None


class Parting(TypedDict):
    """How a training differs from NumPy's; reports add it, no file holds it."""

    step: int | None  # the first at which the losses differ by a hundredth
    largest: float  # difference of any final parameter


class Trained(TypedDict):
    """What training measured; losses and final parameters lie beside the row."""

    steps: int
    first_loss: float | None  # of one batch, as is the final loss
    final_loss: float | None
    curve: list[list[float | None]]  # [step, loss] of some, the first and the last among them
    seconds: float  # of all steps
    parameters_digest: str
    accuracy: NotRequired[dict[str, float]]  # share of right answers by part of the data
    parts_from_numpy: NotRequired[Parting]


class Timed(TypedDict):
    """What timing measured; all times are in seconds."""

    import_s: float  # of the middle process, as are the next three
    upload_s: float
    first_call_s: float
    second_call_s: float
    processes: NotRequired[list[dict[str, float]]]  # the same, and memory, of each process
    peak_memory_bytes: NotRequired[int]
    peak_device_bytes: NotRequired[int]
    steps_per_sample: int
    rounds: int
    warmups: list[float]
    samples: list[Seconds]  # seconds a step, in the order in which they were taken
    sample_process: NotRequired[list[int]]
    sample_round: NotRequired[list[int]]
    disturbed: NotRequired[list[bool]]  # whether something else kept the machine busy beside it
    canary_s: NotRequired[list[Seconds]]  # a fixed piece of arithmetic beside each sample
    cpu_per_wall: list[float]  # cores that were busy during each sample
    threads_observed: float
    median_s: Seconds  # of the samples that count
    min_s: Seconds
    interval: Interval  # of the median
    samples_per_s: float
    flops: NotRequired[int]  # of a step's matrix products
    gflops: NotRequired[float]
    limit_median_s: NotRequired[Seconds]  # the bare matrix products in the same rounds
    limit_min_s: NotRequired[Seconds]
    limit_layout: NotRequired[str]
    share_of_limit: NotRequired[float | None]  # their time over that of a step
    timing: NotRequired[str]  # the same for all that shared their rounds
    aa_ratio: NotRequired[Interval | None]  # what the same code timed twice showed
    aa_of: NotRequired[str]  # which code that was
    noisy: NotRequired[str]  # what made the run noisy


class MachineData(TypedDict):
    """Where it ran: ``bpbench.measure.machine.describe``."""

    id: str
    cpu: str
    cpus: NotRequired[int | None]
    usable_cpus: NotRequired[int]
    memory_bytes: NotRequired[float | None]
    system: NotRequired[str]
    blas: NotRequired[str]


class Row(TypedDict):
    """A result file."""

    schema: Literal[1]
    cell: CellData
    status: Status
    say: str  # how the cell ended, where there is something to say
    given_digest: str | None  # of all that the worker read
    measured: dict[str, Any]  # by the question Verified, Trained or Timed; {} if none came of it
    machine: MachineData
    versions: dict[str, str]
    started: str  # ISO 8601, in UTC
    seconds: float  # that were spent on this cell alone
    stderr: NotRequired[str]  # the last lines of a worker that was lost
    command: NotRequired[str | None]  # what a person typed
    notes: NotRequired[str]  # what the experiment's script says of it


MEASURED: dict[str, Any] = {"verify": Verified, "train": Trained, "speed": Timed}


def validated(value: Any) -> Row:
    """Plain data as a row, all of it.

    Raises:
        ValueError: it is no row of this schema; the message says where.
    """
    found = value.get("schema") if isinstance(value, dict) else None
    if found != SCHEMA:
        raise ValueError(f"its schema is {found!r}, expected {SCHEMA}")
    _check(value, Row, "$")
    row = cast(Row, value)
    row["measured"] = measured = _by_present_names(row["measured"])
    if measured:
        _check(measured, MEASURED[row["cell"]["question"]], "$.measured")
    per_sample = ("samples", "sample_process", "sample_round", "disturbed")
    if len({len(measured[name]) for name in per_sample if measured.get(name)}) > 1:
        raise ValueError(f"{', '.join(per_sample)} are of different lengths")
    return row


RENAMED = {"detectable": "detection_limit"}
"""What files of earlier versions call it, and what it is called now."""


def _by_present_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {RENAMED.get(name, name): _by_present_names(part) for name, part in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_by_present_names(part) for part in value]
    return value


def _check(value: Any, kind: Any, at: str) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("`$", f"`{at}")) from error


def verified(row: Row) -> Verified | None:
    """What a verification measured; None of other rows, and of one that did not come so far."""
    return cast(Verified, row["measured"]) if _has(row, "verify") else None


def trained(row: Row) -> Trained | None:
    """What a training measured; None of other rows, and of one that did not come so far."""
    return cast(Trained, row["measured"]) if _has(row, "train") else None


def timed(row: Row) -> Timed | None:
    """What a timing measured; None of other rows, and of one that did not come so far."""
    return cast(Timed, row["measured"]) if _has(row, "speed") else None


def _has(row: Row, question: str) -> bool:
    return row["cell"]["question"] == question and bool(row["measured"])


def times(row: Row) -> dict[Slot, float]:
    """The samples that count, seconds a step by (process, round); {} of a row without any."""
    measured = timed(row)
    if measured is None:
        return {}
    samples = measured["samples"]
    processes: Sequence[int] = measured.get("sample_process") or [0] * len(samples)
    rounds: Sequence[int] = measured.get("sample_round") or range(len(samples))
    slots = list(zip(processes, rounds, strict=True))
    return undisturbed(slots, samples, measured.get("disturbed") or ())


DEFINITION = (
    "network_text", "data", "data_digest", "optimizer", "epochs", "batch_size", "initial",
    "shuffle", "drop_last",
)  # fmt: skip
"""What an experiment declares. A folder keeps the results of a script as it was before a change, so
that one experiment may have several definitions."""


def definition(cell: CellData) -> tuple[str, ...]:
    """What the experiment of a cell declared when it ran, in the order of DEFINITION."""
    return tuple(str(cast(dict[str, Any], cell)[name]) for name in DEFINITION)


def training(cell: CellData) -> tuple[str, str]:
    """Which experiment a cell belongs to, and which point of it."""
    return cell["experiment"], str(cell["point"])


def work(row: Row) -> Hashable:
    """What two rows have in common that did the same work, on whichever backend."""
    cell = row["cell"]
    return training(cell), definition(cell), cell["question"], cell["dtype"], cell["seed"]


def backend_of(cell: CellData) -> str:
    """Backend and mode as people type them: "jax:scan"."""
    return f"{cell['backend']}:{cell['mode']}"


def whose(cell: CellData) -> str:
    """Experiment and point for people: "xor, learning_rate 0.1"."""
    varied = (f"{name} {value}" for name, value in cell["point"].items())
    return ", ".join((cell["experiment"], *varied))


def in_order(rows: Iterable[Row]) -> list[Row]:
    """The rows by experiment, point and dtype, then in the order of the registry."""
    return sorted(rows, key=lambda row: _place(row["cell"]))


def _place(cell: CellData) -> tuple[Any, ...]:
    backend, mode = cell["backend"], cell["mode"]
    known = BUILT_IN[backend].targets if backend in BUILT_IN else ()  # others stand behind them
    return (
        cell["experiment"],
        [_number_or_text(value) for value in cell["point"].values()],
        *(cell["dtype"], cell["device"], cell["threads"]),
        *([*BUILT_IN, backend].index(backend), backend),
        *([*known, mode].index(mode), mode),
        *(cell["seed"], cell["question"]),
    )


def _number_or_text(value: str) -> tuple[int, float, str]:
    """A key that puts numbers first, by size, and then what is none, by name."""
    try:
        return (0, float(value), "")
    except ValueError:
        return (1, 0.0, value)
