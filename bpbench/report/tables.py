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
            column("worst error", "worst_error", numbers.error),
            column("in sigmas", "worst_sigmas", numbers.error),
            column("of", "worst_tensor"),
            column("detection limit", "detection_limit", numbers.error),
            column("training", "training_verdict"),
        ),
        (
            "Worst error: the largest error of any loss, z, a, delta, dW, db or input gradient, "
            "relative to the largest entry of its tensor. In sigmas: the same in standard "
            "deviations of the rounding of this network in this dtype. Above 8 is wrong.",
            "Detection limit: in every tensor a relative error of this size would have been seen. "
            "Training: a few steps of the function that is timed, compared with the truth.",
        ),
    )


def speed(cells: pd.DataFrame) -> Table:
    """How fast is a training step, and what does it cost to get there?"""
    frame = _of(cells, "speed")
    repaid = Column("repaid after", _repaid)
    return Table(
        "speed",
        "Speed",
        frame,
        (
            *_identity(frame),
            *_status(frame),
            column("import", "import_s", numbers.seconds),
            column("first call", "first_call_s", numbers.seconds),
            Column("step, median", _median_with_interval),
            column("minimum", "min_s", numbers.seconds),
            column("GFLOP/s", "gflops", numbers.digits),
            column("of limit", "share_of_limit", numbers.percent),
            column("CPU/wall", "cpu_per_wall", numbers.digits),
            column("memory", "peak_memory_bytes", numbers.memory),
            Column("vs fastest", _factor),
            *([repaid] if any(repaid.show(line) != NOTHING for line in _lines(frame)) else []),
        ),
        (
            "First call: tracing and compiling included. Step: one training step after that, with "
            "the interval of its median. Of limit: the time of the step's bare matrix products in "
            "NumPy, as a share of the step. It is above 100 % where NumPy's calls cost more than "
            "its products, or another library's products are faster. CPU/wall: busy cores.",
            "Vs fastest: how many times the fastest step of the same work. ≈: no difference was "
            "seen; one below the share in brackets may be there. Repaid after: the steps after "
            "which a longer first call has paid, compared with another mode of the same backend.",
            *_warnings(frame),
        ),
    )


def scaling(rows: Sequence[Row]) -> Table:
    """How does a step's time grow with width, depth or batch, and who overtakes whom?"""
    frame = pd.DataFrame([vars(growth) for growth in growths(rows)])
    return Table(
        "scaling",
        "Scaling",
        frame,
        (
            *_varying(frame, "experiment"),
            *_varying(frame, "threads"),
            *map(column, ("backend", "mode", "dtype")),
            Column("over", lambda line: f"{line['over']} {_ends(line['values'], numbers.digits)}"),
            column("step", "seconds", lambda values: _ends(values, numbers.seconds)),
            column("exponent", "exponent", numbers.digits),
            column("at the largest", "last_exponent", numbers.digits),
        ),
        (
            "Exponent: p of the power law value^p that fits the medians. At the largest: p between "
            "the last two, where the fixed costs of a step weigh least.",
            *map(_overtaken, overtakings(rows)),
        ),
    )


def convergence(cells: pd.DataFrame) -> Table:
    """Do the backends learn the same, and how well? One line for all seeds of a backend."""
    train = _of(cells, "train")
    keys = _keys(train)
    groups = [group for _, group in train.groupby(keys, sort=False, dropna=False)]
    frame = pd.DataFrame([{**group.iloc[0][keys], **_over_seeds(group)} for group in groups])
    any_right = "all_rows_right" in frame.columns and frame["all_rows_right"].any()
    several = len(frame) and frame["seeds"].max() > 1
    parts = [p for p in ("train", "validation", "test") if f"accuracy_{p}" in train.columns]
    return Table(
        "convergence",
        "Convergence",
        frame,
        (
            *_identity(frame),
            *_status(frame),
            *_varying(frame, "seeds"),
            _spread("first loss", "first_loss", numbers.digits),
            _spread("final loss", "final_loss", numbers.digits),
            *(_spread(f"{part} accuracy", f"accuracy_{part}", numbers.share) for part in parts),
            *([Column("all rows right", _all_right)] if several and any_right else []),
            column("training time", "train_s", numbers.seconds),
            Column("parameters", _agreement),
        ),
        (
            "Losses: of the first and the last batch. Over several seeds: the median, with the "
            "least and the greatest.",
            "Parameters: the largest difference of any final parameter from numpy's, from the same "
            "start and the same batches. Identical: every bit agrees. Correct backends part "
            "company by rounding alone where a training is long and does not contract.",
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


def _warnings(frame: pd.DataFrame) -> list[str]:
    """A sentence where runs were noisy, and one where a backend did not get its cores."""
    found = []
    whys = list(frame["noisy"].dropna()) if "noisy" in frame.columns else []
    if whys:
        like = " (and the like)" if len(set(whys)) > 1 else ""
        found.append(
            f"A noisy run: in {len(whys)} of these {len(frame)} lines {whys[0]}{like}. "
            "More --rounds, or an idle machine, show smaller differences."
        )
    if "cpu_per_wall" in frame.columns:
        starved = int(((frame["device"] == "cpu") & (frame["cpu_per_wall"] < STARVED)).sum())
        if starved:
            found.append(
                f"In {starved} of these {len(frame)} lines the backend had less than {STARVED} of "
                "a core: something else kept the machine busy. Time them again when it is idle."
            )
    return found


def _over_seeds(group: pd.DataFrame) -> Line:
    """One line of the convergence table from the cells of several seeds."""
    counts = group["status"].value_counts()
    status = ", ".join(f"{count} {name}" for name, count in counts.items())
    found: Line = {"seeds": len(group), "status": status if len(counts) > 1 else counts.index[0]}
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


def _lines(frame: pd.DataFrame) -> list[Line]:
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(key): value for key, value in line.items()} for line in plain.to_dict("records")]


# ── Columns ────────────────────────────────────────────────────────────────────────────────────


def column(
    heading: str, name: str = "", show: Callable[[Any], str] = lambda value: str(value)
) -> Column:
    """What a line has under a name (the heading, where none is given), as ``show`` writes it."""

    def text(line: Line) -> str:
        value = line.get(name or heading)
        return NOTHING if value is None else show(value)

    return Column(heading, text)


def _identity(frame: pd.DataFrame) -> list[Column]:
    """Backend, mode and dtype always; the rest where the table has more than one of them."""
    columns = []
    for name in (*_keys(frame), "seed"):
        always = name in ("backend", "mode", "dtype")
        columns += [column(name)] if always else _varying(frame, name)
    return columns


def _varying(frame: pd.DataFrame, name: str) -> list[Column]:
    if name not in frame.columns or frame[name].nunique(dropna=False) < 2:
        return []
    return [column(name.removeprefix(POINT).replace("_", " "), name)]


def _status(frame: pd.DataFrame) -> list[Column]:
    """The status, where there is any that is not ok."""
    return [column("status")] if len(frame) and (frame["status"] != "ok").any() else []


def _ends(values: Sequence[float], show: Callable[[float], str]) -> str:
    return f"{show(values[0])} … {show(values[-1])}"


def _overtaken(found: Overtaking) -> str:
    at, low, high = map(numbers.digits, (found.at, found.low, found.high))
    return (
        f"{found.experiment}: {found.faster} overtakes {found.slower} at a {found.over} of about "
        f"{at}, between {low} and {high}."
    )


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
    times = f"{numbers.digits(factor)}×"
    if line["difference"] != "no difference seen":
        return times
    return f"≈ {times} (±{numbers.percent(line['minimum_detectable_difference'])})"


def _repaid(line: Line) -> str:
    """After how many steps a mode has repaid what its first call took longer than another's."""
    own = f"{line['backend']}:"
    each = (line.get("break_even") or "").split("; ")
    return ", ".join(part.removeprefix(own) for part in each if part.startswith(own)) or NOTHING


def _spread(heading: str, name: str, show: Callable[[Any], str]) -> Column:
    def text(line: Line) -> str:
        if line.get(name) is None:
            return NOTHING
        values = (line[f"{name}_least"], line[name], line[f"{name}_greatest"])
        return numbers.spread(*map(show, values))

    return Column(heading, text)


def _all_right(line: Line) -> str:
    known = line.get("accuracy_train") is not None
    return f"{line['all_rows_right']} of {line['seeds']}" if known else NOTHING


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
