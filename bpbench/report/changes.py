"""What changed between two runs, and what is only noise? Timings of the same work, old and new."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from bpbench.errors import UsageError
from bpbench.measure.statistics import decide, unpaired_ratio
from bpbench.report import numbers
from bpbench.report.speed import same_code_margin
from bpbench.report.tables import Column, Line, Table, column
from bpbench.results.rows import Row, in_order, timed, times, work

VERDICTS = ("faster", "slower", "same", "noise", "gone", "new")
SAME = 0.1
"""The same: no difference was seen, and one of this share would have been. Else noise."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of one timing.

    Attributes:
        old_s, new_s: the median step; None where there is none.
        ratio, low, high: of the new times to the old ones, with its interval.
        verdict: one of VERDICTS.
        minimum_detectable_difference: as a share; a smaller one may not be seen.
        say: why a timing is gone.
    """

    experiment: str
    point: str
    backend: str
    mode: str
    device: str
    dtype: str
    threads: int
    old_s: float | None
    new_s: float | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str
    minimum_detectable_difference: float | None = None
    say: str = ""


def changes(
    old: Iterable[Row], new: Iterable[Row], *, across_machines: bool = False
) -> list[Change]:
    """Every timing that either run has, the new one compared with the old.

    Args:
        old, new: rows, as ``bpbench.results.store.read`` gives them.
        across_machines: compare timings of different machines, too.

    Raises:
        UsageError: nothing was timed in both, or on different machines.
    """
    before, after = _timings(old), _timings(new)
    both = before.keys() & after.keys()
    if not both:
        raise UsageError(
            f"nothing was timed in both: {len(before)} timings in the first folder, {len(after)} "
            "in the second, and none of the same work, backend, mode, device and threads"
        )
    if not across_machines:
        _check_machines([before[key] for key in both], [after[key] for key in both])
    return [_change(before.get(key), after.get(key)) for key in dict.fromkeys([*before, *after])]


def table(found: Sequence[Change]) -> Table:
    """The changes as a table."""
    frame = pd.DataFrame([asdict(change) for change in found])
    names = ("experiment", "point", "backend", "mode", "device", "dtype", "threads")
    always = ("backend", "mode")
    shown = [name for name in names if name in always or frame[name].nunique() > 1]
    return Table(
        "changes",
        "Changes",
        frame,
        (
            *map(column, shown),
            column("old", "old_s", numbers.seconds),
            Column("new", lambda line: numbers.seconds(line["new_s"], like=line["old_s"])),
            Column("new / old", _ratio),
            Column("verdict", _verdict),
        ),
        (
            "Old and new: the median training step. Faster or slower: the interval of the ratio "
            "excludes 1, and the ratio is larger than two things can explain: what the same code, "
            "timed twice in each run, has shown, and what a fixed piece of arithmetic says of the "
            "machine.",
            f"Same: a difference of more than {SAME:.0%} would have been seen. Noise: it might not "
            "have been. Time both again with more --rounds.",
        ),
    )


def _timings(rows: Iterable[Row]) -> dict[Hashable, Row]:
    """The speed rows that have something to say, by what was timed."""
    found: dict[Hashable, Row] = {}
    for row in in_order(rows):
        cell = row["cell"]
        if cell["question"] == "speed" and row["status"] not in ("missing", "unsupported"):
            where = (cell["backend"], cell["mode"], cell["device"], cell["threads"])
            found[work(row), where] = row
    return found


def _check_machines(old: Sequence[Row], new: Sequence[Row]) -> None:
    machines = [{row["machine"]["id"]: row["machine"] for row in rows} for rows in (old, new)]
    if len(machines[0].keys() | machines[1].keys()) < 2:
        return
    named = [" and ".join(f"{m['cpu']} ({i})" for i, m in each.items()) for each in machines]
    raise UsageError(
        f"the first run was timed on {named[0]}, the second on {named[1]}: a difference would be "
        "the machines'; --across-machines compares them all the same"
    )


def _change(old: Row | None, new: Row | None) -> Change:
    some = new or old
    assert some is not None
    cell = some["cell"]
    identity: dict[str, Any] = {
        "experiment": cell["experiment"],
        "point": ", ".join(f"{name} {value}" for name, value in cell["point"].items()),
        "backend": cell["backend"],
        "mode": cell["mode"],
        "device": cell["device"],
        "dtype": cell["dtype"],
        "threads": cell["threads"],
    }
    for name, row in (("old_s", old), ("new_s", new)):
        measured = timed(row) if row else None
        identity[name] = measured and measured["median_s"]
    if old is None or identity["old_s"] is None:
        return Change(**identity, verdict="gone" if identity["new_s"] is None else "new")
    if new is None or identity["new_s"] is None:
        say = "not in the second run" if new is None else f"{new['status']}: {new['say']}"
        return Change(**identity, verdict="gone", say=say)
    ratio = unpaired_ratio(times(new), times(old))
    assert ratio is not None, "a row with a median has samples"
    margin = max(same_code_margin(old), same_code_margin(new), _machine_margin(old, new))
    decision = decide(ratio, margin)
    hidden = decision.minimum_detectable_difference
    verdict = decision.verdict
    if verdict not in ("faster", "slower"):
        verdict = "same" if hidden <= SAME else "noise"
    return Change(
        **identity, ratio=ratio.middle, low=ratio.low, high=ratio.high, verdict=verdict,
        minimum_detectable_difference=hidden,
    )  # fmt: skip


def _machine_margin(old: Row, new: Row) -> float:
    """By how much a fixed piece of arithmetic took longer in one run; at least 1.

    Two runs have no rounds in common that would take out what slows the machine for all.
    """
    canaries = [measured.get("canary_s") for row in (old, new) if (measured := timed(row))]
    first, second = (float(np.median(each)) if each else None for each in canaries)
    if first is None or second is None:
        return 1.0
    return max(first / second, second / first)


def _ratio(line: Line) -> str:
    if line["ratio"] is None:
        return numbers.NOTHING
    return numbers.spread(*(numbers.digits(line[name]) for name in ("low", "ratio", "high")))


def _verdict(line: Line) -> str:
    if line["verdict"] == "noise":
        return f"noise (±{numbers.percent(line['minimum_detectable_difference'])})"
    return f"{line['verdict']}: {line['say']}" if line["say"] else str(line["verdict"])
