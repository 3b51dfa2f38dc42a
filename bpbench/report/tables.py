"""What came out? Three tables: do the gradients agree, how fast is a step, what was learnt.

Each keeps its raw numbers in a pandas frame, for programs, and knows how to show them to people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from tabulate import tabulate

from bpbench.report import numbers
from bpbench.report.cells import POINT, VARIANT, WHERE, flat, points
from bpbench.report.numbers import NOTHING
from bpbench.report.scaling import Overtaking, growths, overtakings
from bpbench.results.rows import Row, backend_of, verified, whose

Line = dict[str, Any]
STARVED = 0.8
"""Cores that a backend must have had while it was timed; one that never waits has all of one."""


class Column(NamedTuple):
    """A heading, and what is shown under it for one line of the frame."""

    heading: str
    show: Callable[[Line], str]


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: its key among the tables of a JSON document.
        title: its heading.
        frame: the raw numbers; None where a cell has none.
        columns: what is shown of them.
        notes: sentences below the table.
    """

    name: str
    title: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[Line]:
        """The frame as plain data, a dictionary a line, None for what is not there."""
        return _lines(self.frame)

    def text(self, style: str = "simple") -> str:
        """The table as text, in one of tabulate's styles: "simple", "github", ..."""
        cells = [[column.show(line) for column in self.columns] for line in self.lines()]
        headings = [column.heading for column in self.columns]
        if style == "github":
            cells = [[cell.replace("|", "\\|") for cell in line] for line in cells]
        return tabulate(cells, headings, tablefmt=style, disable_numparse=True)


def tables(rows: Iterable[Row]) -> list[Table]:
    """The tables that ``rows`` have something for, of: gradient agreement, speed, scaling,
    convergence."""
    kept = list(rows)
    cells = flat(kept)
    found = [gradient_agreement(cells), speed(cells), scaling(kept), convergence(cells)]
    return [table for table in found if len(table.frame)]


def gradient_agreement(cells: pd.DataFrame) -> Table:
    """Is each backend's backpropagation right, and how far is it from the truth?"""
    frame = _of(cells, "verify")
    return Table(
        "gradient_agreement",
        "Gradient agreement",
        frame,
        (
            *_identity(frame),
            Column("gradients", lambda line: line.get("verdict") or line["status"]),
            Column("worst error", lambda line: numbers.error(line.get("worst_error"))),
            Column("in sigmas", lambda line: numbers.error(line.get("worst_sigmas"))),
            Column("of", lambda line: line.get("worst_tensor") or NOTHING),
            Column("detection limit", lambda line: numbers.error(line.get("detection_limit"))),
            Column("training", lambda line: line.get("training_verdict") or NOTHING),
        ),
        (
            "Worst error: the largest error of any loss, z, a, delta, dW, db or input gradient, "
            "relative to the largest entry of its tensor. In sigmas: in standard deviations of the "
            "rounding that this network allows in this dtype; above 8 is wrong. Detection limit: "
            "the relative error of a whole tensor that would have been seen in each of them. "
            "Training: a few steps of the function that is timed, compared with the truth.",
        ),
    )


def speed(cells: pd.DataFrame) -> Table:
    """How fast is a training step, and what does it cost to get there?"""
    frame = _of(cells, "speed")
    return Table(
        "speed",
        "Speed",
        frame,
        (
            *_identity(frame),
            *_status(frame),
            Column("import", lambda line: numbers.seconds(line.get("import_s"))),
            Column("first call", lambda line: numbers.seconds(line.get("first_call_s"))),
            Column("step, median", _median_with_interval),
            Column("minimum", lambda line: numbers.seconds(line.get("min_s"))),
            Column("GFLOP/s", lambda line: numbers.digits(line.get("gflops"))),
            Column("of limit", lambda line: numbers.percent(line.get("share_of_limit"))),
            Column("CPU/wall", lambda line: numbers.digits(line.get("cpu_per_wall"))),
            Column("memory", lambda line: numbers.memory(line.get("peak_memory_bytes"))),
            Column("vs fastest", _factor),
            *_repaid(frame),
        ),
        (
            "First call: tracing and compiling included. Step: a training step once all is "
            "compiled, with the interval of its median. Of limit: of the speed of the step's bare "
            "matrix products in NumPy, timed in the same rounds; above 100 % where NumPy's calls "
            "cost more than its products, or another library's are faster. CPU/wall: cores that "
            "were busy. Vs fastest: times the fastest step of the same work; ≈ where no "
            "difference was seen, with the smallest that would have been. Repaid after: so many "
            "steps until the first call, where it takes longer "
            "than that of another mode of the same backend, has paid.",
            *_noise(frame),
            *_disturbed(frame),
        ),
    )


def scaling(rows: Sequence[Row]) -> Table:
    """How does a step's time grow with width, depth or batch, and who overtakes whom?"""
    frame = pd.DataFrame([vars(growth) for growth in growths(rows)])
    identity = ("experiment", "backend", "mode", "dtype", "threads", "over")
    columns = [_plain(name, name) for name in identity[1:4] if name in frame.columns]
    for name in ("threads", "experiment"):
        columns = _varying(frame, name, name) + columns
    return Table(
        "scaling",
        "Scaling",
        frame,
        (
            *columns,
            Column("over", _range),
            Column("step", lambda line: " … ".join(_ends(line["seconds"], numbers.seconds))),
            Column("exponent", lambda line: numbers.digits(line["exponent"])),
            Column("at the largest", lambda line: numbers.digits(line["last_exponent"])),
        ),
        (
            "Exponent: p of the power law value^p that fits the medians; at the largest: that of "
            "the last two, where what every step costs weighs least.",
            *(_overtaken(found) for found in overtakings(rows)),
        ),
    )


def convergence(cells: pd.DataFrame) -> Table:
    """Do the backends learn the same, and how well? One line for all seeds of a backend."""
    train = _of(cells, "train")
    keys = _keys(train)
    groups = [group for _, group in train.groupby(keys, sort=False, dropna=False)]
    frame = pd.DataFrame([{**group.iloc[0][keys], **_over_seeds(group)} for group in groups])
    parts = [
        part for part in ("train", "validation", "test") if f"accuracy_{part}" in train.columns
    ]
    return Table(
        "convergence",
        "Convergence",
        frame,
        (
            *_identity(frame),
            *_status(frame),
            *_varying(frame, "seeds", "seeds"),
            Column("first loss", lambda line: _spread(line, "first_loss", numbers.digits)),
            Column("final loss", lambda line: _spread(line, "final_loss", numbers.digits)),
            *(Column(f"{part} accuracy", _accuracy(f"accuracy_{part}")) for part in parts),
            *_all_right(frame),
            Column("training time", lambda line: numbers.seconds(line.get("train_s"))),
            Column("parameters", _agreement),
        ),
        (
            "Losses are those of one batch, the first and the last. Over several seeds: the "
            "median, with the least and the greatest. Parameters: the largest difference of any "
            "final parameter from numpy's, from the same start and the "
            "same batches; identical where every bit agrees. Where a training is long and does not "
            "contract, correct backends part company by rounding alone.",
        ),
    )


# ── Lines of a table ───────────────────────────────────────────────────────────────────────────


def _of(cells: pd.DataFrame, question: str) -> pd.DataFrame:
    if not len(cells):
        return cells
    chosen = cells[cells["question"] == question]
    identity = {*_keys(chosen), "seed", "status", "say", "id"}
    kept = [name for name in chosen.columns if name in identity or chosen[name].notna().any()]
    return chosen[kept].reset_index(drop=True)


def _keys(frame: pd.DataFrame) -> list[str]:
    return [
        name for name in ("experiment", *points(frame), VARIANT, *WHERE) if name in frame.columns
    ]


def _noise(frame: pd.DataFrame) -> list[str]:
    """A warning for every run that was noisy, with why."""
    if "noisy" not in frame.columns:
        return []
    whys = frame["noisy"].dropna()
    if not len(whys):
        return []
    return [
        f"A noisy run: in {len(whys)} of these {len(frame)} lines {whys.iloc[0]}"
        + (" (and the like)." if whys.nunique() > 1 else ".")
        + " More --rounds, or an idle machine, show smaller differences."
    ]


def _disturbed(frame: pd.DataFrame) -> list[str]:
    """A warning where a backend on the CPU did not get the cores that it was to have."""
    if "cpu_per_wall" not in frame.columns:
        return []
    starved = (frame["device"] == "cpu") & (frame["cpu_per_wall"] < STARVED)
    if not starved.any():
        return []
    return [
        f"In {starved.sum()} of these {len(frame)} lines the backend had less than {STARVED} of a "
        "core: something else kept the machine busy. Time them again when it is idle."
    ]


def _over_seeds(group: pd.DataFrame) -> Line:
    """One line of the convergence table from the cells of several seeds."""
    found: Line = {"seeds": len(group), "status": _statuses(group["status"])}
    for name in group.columns:
        if name in ("first_loss", "final_loss") or str(name).startswith("accuracy_"):
            found |= {
                name: group[name].median(),
                f"{name}_least": group[name].min(),
                f"{name}_greatest": group[name].max(),
            }
    if "accuracy_train" in group.columns:
        found["all_rows_right"] = int((group["accuracy_train"] == 1).sum())
    typical = {"train_s": "median", "from_numpy": "max", "parts_step": "min"}
    return found | {
        name: group[name].agg(how) for name, how in typical.items() if name in group.columns
    }


def _statuses(statuses: pd.Series[str]) -> str:
    counts = statuses.value_counts()
    if len(counts) == 1:
        return str(counts.index[0])
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _lines(frame: pd.DataFrame) -> list[Line]:
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(key): value for key, value in line.items()} for line in plain.to_dict("records")]


# ── Columns ────────────────────────────────────────────────────────────────────────────────────


def _identity(frame: pd.DataFrame) -> list[Column]:
    """Backend, mode and dtype always; the rest where the table has more than one of them."""
    columns = []
    for name in _keys(frame):
        if name in ("backend", "mode", "dtype"):
            columns.append(_plain(name, name))
        else:
            columns += _varying(frame, name, name.removeprefix(POINT).replace("_", " "))
    return columns + _varying(frame, "seed", "seed")


def _varying(frame: pd.DataFrame, name: str, heading: str) -> list[Column]:
    if name not in frame.columns or frame[name].nunique(dropna=False) < 2:
        return []
    return [_plain(name, heading)]


def _plain(name: str, heading: str) -> Column:
    return Column(heading, lambda line: NOTHING if line[name] is None else str(line[name]))


def _ends(values: Sequence[float], show: Callable[[float], str]) -> tuple[str, str]:
    return show(values[0]), show(values[-1])


def _range(line: Line) -> str:
    return f"{line['over']} " + " … ".join(_ends(line["values"], numbers.digits))


def _overtaken(found: Overtaking) -> str:
    at, low, high = map(numbers.digits, (found.at, found.low, found.high))
    return (
        f"{found.experiment}: {found.faster} overtakes {found.slower} at a {found.over} of about "
        f"{at}, between {low} and {high}."
    )


def _status(frame: pd.DataFrame) -> list[Column]:
    """The status, where there is any that is not ok."""
    return [_plain("status", "status")] if len(frame) and (frame["status"] != "ok").any() else []


def _median_with_interval(line: Line) -> str:
    median = line.get("median_s")
    bounds = [line.get("interval_low_s"), line.get("interval_high_s")]
    if median is None or None in bounds:
        return numbers.seconds(median)
    low, high = (numbers.seconds(bound, like=median) for bound in bounds)
    return numbers.spread(low, numbers.seconds(median), high)


def _factor(line: Line) -> str:
    factor = line.get("factor")
    if factor is None:
        return NOTHING
    if line["difference"] != "no difference seen":
        return f"{numbers.digits(factor)}×"
    return (
        f"≈ {numbers.digits(factor)}× (±{numbers.percent(line['minimum_detectable_difference'])})"
    )


def _repaid(frame: pd.DataFrame) -> list[Column]:
    """Where a backend has several modes: after how many steps each has repaid its compilation."""
    if "break_even" not in frame.columns:
        return []

    def show(line: Line) -> str:
        own = f"{line['backend']}:"
        each = (line.get("break_even") or "").split("; ")
        return ", ".join(part.removeprefix(own) for part in each if part.startswith(own)) or NOTHING

    shown = Column("repaid after", show)
    return [shown] if any(show(line) != NOTHING for line in _lines(frame)) else []


def _spread(line: Line, name: str, show: Callable[[float | None], str]) -> str:
    if line.get(name) is None:
        return NOTHING
    values = (line[f"{name}_least"], line[name], line[f"{name}_greatest"])
    return numbers.spread(*map(show, values))


def _accuracy(name: str) -> Callable[[Line], str]:
    return lambda line: _spread(line, name, numbers.share)


def _all_right(frame: pd.DataFrame) -> list[Column]:
    """How many seeds learnt every row, where there are several and any did."""
    if "all_rows_right" not in frame.columns or not frame["all_rows_right"].any():
        return []
    if (frame["seeds"] < 2).all():
        return []

    def show(line: Line) -> str:
        known = line.get("accuracy_train") is not None
        return f"{line['all_rows_right']} of {line['seeds']}" if known else NOTHING

    return [Column("all rows right", show)]


def _agreement(line: Line) -> str:
    largest = line.get("from_numpy")
    if line["backend"] == "numpy" and not largest:
        return "numpy's own"
    if largest is None:
        return NOTHING
    if largest == 0:
        return "identical"
    step = line.get("parts_step")
    return numbers.error(largest) + ("" if step is None else f" (part at step {step:,.0f})")


# ── What is not right ──────────────────────────────────────────────────────────────────────────


def findings(rows: Sequence[Row]) -> list[str]:
    """A sentence for everything in the judges' reports that is not right, with whose it is.

    Of a training nothing is said where the gradients are wrong: it cannot be right then.
    """
    sentences: dict[str, None] = {}
    for row in rows:
        measured = verified(row)
        if measured is None:
            continue
        judged = (("gradients", measured["report"]), ("training", measured["training"]))
        for what, report in judged:
            verdict = report["verdict"]
            if verdict == "right":
                continue
            said = [finding["say"] for finding in report["findings"]]
            for say in said or [row["say"] or "no finding explains it"]:
                sentences[f"{subject(row)}, {what}: {verdict}: {say}"] = None
            if verdict == "wrong":
                break
    return list(sentences)


def problems(rows: Sequence[Row]) -> list[str]:
    """A sentence for every way in which cells did not end well, with the questions it cost.

    What ``findings`` says of a verification is not said again.
    """
    cost: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in rows:
        if row["status"] != "ok" and not verified(row):
            key = (subject(row), row["status"], row["say"])
            cost.setdefault(key, {})[row["cell"]["question"]] = None
    return [
        f"{who} ({', '.join(questions)}): {status}" + (f": {say}" if say else "")
        for (who, status, say), questions in cost.items()
    ]


def subject(row: Row) -> str:
    """Whose row it is: "xor, jax:scan, float32"."""
    cell = row["cell"]
    return f"{whose(cell)}, {backend_of(cell)}, {cell['dtype']}"
