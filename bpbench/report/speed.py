"""What do the timings of several rows say together? Who is faster, and what compiling costs.

Rows that shared their rounds are compared sample by sample; others by their medians, which says
less, for the machine may have changed between them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from bpbench.measure.statistics import Decision, Ratio, decide, paired_ratio, unpaired_ratio
from bpbench.results.rows import Row, Timed, backend_of, timed, times, work


def ratio(row: Row, other: Row) -> Ratio | None:
    """How many times as long a step of one row takes as one of another."""
    own, others = timed(row), timed(other)
    shared = own and own.get("timing")
    if shared and others and shared == others.get("timing"):
        paired = paired_ratio(times(row), times(other))
        if paired is not None:
            return paired
    return unpaired_ratio(times(row), times(other))


def same_code_margin(row: Row) -> float:
    """By how much the same code, timed twice in the row's rounds, seemed to differ; at least 1."""
    measured = timed(row)
    bounds = measured and measured.get("aa_ratio")
    return Ratio(1.0, *bounds).margin if bounds else 1.0


def compare(row: Row, other: Row) -> Decision | None:
    """Whether one row is faster or slower than another; None where they have no samples."""
    found = ratio(row, other)
    if found is None:
        return None
    return decide(found, max(same_code_margin(row), same_code_margin(other)))


def break_even(row: Timed, other: Timed) -> float | None:
    """After how many steps a row has repaid what its first call took longer than another's.

    Returns:
        0 where its first call did not take longer; None where its steps are no faster, so that
        it never does.
    """
    extra = row["first_call_s"] - other["first_call_s"]
    saved = other["median_s"] - row["median_s"]
    if saved <= 0:
        return None
    return float(max(0.0, extra / saved))


def together(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """What the speed rows of the same work say of each other, by the cells' ids.

    ``factor``, ``factor_low`` and ``factor_high``, times the step of the fastest; ``difference``,
    the verdict on that; ``minimum_detectable_difference``, as a share; and
    ``break_even``, a line such as "jax:eager 120; numpy:fast 2300": steps.
    """
    groups: dict[Hashable, list[tuple[Row, Timed]]] = {}
    for row in rows:
        measured = timed(row)
        if measured:
            where = (row["cell"]["device"], row["cell"]["threads"])
            groups.setdefault((work(row), where), []).append((row, measured))
    found: dict[str, dict[str, Any]] = {}
    for group in groups.values():
        fastest, _ = min(group, key=lambda pair: pair[1]["median_s"])
        for row, measured in group:
            others = [(other, its) for other, its in group if other is not row]
            found[row["cell"]["id"]] = {
                **_against(row, fastest),
                "break_even": _break_evens(measured, others) or None,
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
        "minimum_detectable_difference": decision.minimum_detectable_difference,
    }


def _break_evens(own: Timed, others: Sequence[tuple[Row, Timed]]) -> str:
    steps = {backend_of(other["cell"]): break_even(own, its) for other, its in others}
    return "; ".join(f"{who} {count:.0f}" for who, count in steps.items() if count is not None)
