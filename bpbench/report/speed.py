"""What do the timings of several rows say together? Who is faster, and what compiling costs.

Rows that shared their rounds are compared sample by sample; others by their medians, which says
less, for the machine may have changed between them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from bpbench.measure.statistics import Decision, Ratio, Slot, decide, paired_ratio, unpaired_ratio

Row = Mapping[str, Any]


def times(row: Row) -> dict[Slot, float]:
    """The samples that count, seconds a step by (process, round).

    Those beside a disturbed canary do not, unless half of all are.
    """
    measured = row["measured"]
    samples: Sequence[float] = measured.get("samples") or ()
    processes = measured.get("sample_process") or [0] * len(samples)
    rounds = measured.get("sample_round") or range(len(samples))
    marks = measured.get("disturbed") or [False] * len(samples)
    if 2 * sum(marks) > len(marks):
        marks = [False] * len(samples)
    each = zip(processes, rounds, samples, marks, strict=True)
    return {(process, number): sample for process, number, sample, mark in each if not mark}


def ratio(row: Row, other: Row) -> Ratio | None:
    """How many times as long a step of one row takes as one of another."""
    shared = row["measured"].get("timing")
    if shared is not None and shared == other["measured"].get("timing"):
        paired = paired_ratio(times(row), times(other))
        if paired is not None:
            return paired
    return unpaired_ratio(times(row), times(other))


def same_code_margin(row: Row) -> float:
    """By how much the same code, timed twice in the row's rounds, seemed to differ; at least 1."""
    bounds = row["measured"].get("aa_ratio")
    return max(bounds[1], 1 / bounds[0], 1.0) if bounds else 1.0


def compare(row: Row, other: Row) -> Decision | None:
    """Whether one row is faster or slower than another; None where they have no samples."""
    found = ratio(row, other)
    if found is None:
        return None
    return decide(found, max(same_code_margin(row), same_code_margin(other)))


def break_even(row: Row, other: Row) -> float | None:
    """After how many steps a row has repaid what its first call took longer than another's.

    Returns:
        0 where its first call did not take longer; None where its steps are no faster, so that
        it never does.
    """
    own, others = row["measured"], other["measured"]
    extra = own["first_call_s"] - others["first_call_s"]
    saved = others["median_s"] - own["median_s"]
    if saved <= 0:
        return None
    return float(max(0.0, extra / saved))


def together(rows: Iterable[Row], work: Callable[[Row], Hashable]) -> dict[str, dict[str, Any]]:
    """What the speed rows of the same work say of each other, by the cells' ids.

    ``factor``, ``factor_low`` and ``factor_high``, times the step of the fastest; ``difference``,
    the verdict on that; ``hidden``, how large a difference could have hidden, as a share; and
    ``break_even``, a line such as "jax:eager 120; numpy:fast 2300": steps.

    Args:
        work: what rows have in common that did the same work.
    """
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        if row["cell"]["question"] == "speed" and (row.get("measured") or {}).get("median_s"):
            where = (row["cell"]["device"], row["cell"]["threads"])
            groups.setdefault((work(row), where), []).append(row)
    found: dict[str, dict[str, Any]] = {}
    for group in groups.values():
        fastest = min(group, key=lambda row: float(row["measured"]["median_s"]))
        for row in group:
            found[row["cell"]["id"]] = {
                **_against(row, fastest),
                "break_even": _break_evens(row, group) or None,
            }
    return found


def _against(row: Row, fastest: Row) -> dict[str, Any]:
    if row is fastest:
        return {"factor": 1.0, "factor_low": 1.0, "factor_high": 1.0, "difference": "fastest"}
    decision = compare(row, fastest)
    if decision is None:
        return {}
    return {
        "factor": decision.ratio.middle,
        "factor_low": decision.ratio.low,
        "factor_high": decision.ratio.high,
        "difference": decision.verdict,
        "hidden": decision.hidden,
    }


def _break_evens(row: Row, group: Sequence[Row]) -> str:
    steps = {name(other): break_even(row, other) for other in group if other is not row}
    return "; ".join(f"{who} {count:.0f}" for who, count in steps.items() if count is not None)


def name(row: Mapping[str, Any]) -> str:
    """Backend and mode of a row: "jax:scan"."""
    cell = row["cell"]
    return f"{cell['backend']}:{cell['mode']}"
