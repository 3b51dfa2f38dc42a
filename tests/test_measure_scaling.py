"""Are growth and overtaking read rightly from timings? From rows made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from bpbench.report.scaling import growths, overtakings
from bpbench.report.tables import tables
from tests.result_rows import row

WIDTHS = (8, 32, 128, 512)


def timed(backend: str, width: int, seconds: float, wobble: float = 0.01) -> dict[str, Any]:
    samples = [seconds * (1 + wobble * step) for step in (-2, -1, 0, 1, 2)]
    made = row(
        "speed", backend, point={"width": str(width)}, median_s=seconds, samples=samples,
        cpu_per_wall=[1.0] * 5,
    )  # fmt: skip
    made["cell"]["id"] = f"{backend}-{width}"
    made["cell"]["network_text"] = f"64-{width}-10"
    return made


def both(wobble: float = 0.01) -> list[dict[str, Any]]:
    """numpy grows as the square; jax is slower at first and grows in proportion."""
    square = [timed("numpy", width, 1e-9 * width**2, wobble) for width in WIDTHS]
    return square + [timed("jax", width, 6.4e-8 * width, wobble) for width in WIDTHS]


def test_the_exponent_is_that_of_the_power_law() -> None:
    found = {growth.backend: growth for growth in growths(both())}
    assert found["numpy"].exponent == pytest.approx(2)
    assert found["jax"].last_exponent == pytest.approx(1)
    assert (found["numpy"].over, found["numpy"].values) == ("width", WIDTHS)


def test_at_the_largest_what_a_step_costs_anyhow_weighs_least() -> None:
    (growth,) = growths([timed("numpy", width, 1e-6 + 1e-9 * width**2) for width in WIDTHS])
    assert growth.exponent < growth.last_exponent < 2


def test_one_overtakes_the_other_where_the_lines_cross() -> None:
    (found,) = overtakings(both())
    assert (found.faster, found.slower) == ("jax:reference", "numpy:reference")
    assert found.at == pytest.approx(64)
    assert (found.low, found.high) == (32, 128)


def test_nobody_overtakes_where_no_difference_was_seen() -> None:
    assert overtakings(both(wobble=0.49)) == []


def test_fewer_than_three_points_and_other_grids_are_no_scaling() -> None:
    rows = both()[:2]
    other = row("speed", point={"learning_rate": "0.1"})
    assert growths([*rows, other]) == overtakings([*rows, other]) == []


def test_the_report_shows_growth_and_overtaking() -> None:
    (table,) = [table for table in tables(both()) if table.name == "scaling"]
    assert "width 8 … 512" in table.text()
    assert table.notes[-1] == (
        "xor: jax:reference overtakes numpy:reference at a width of about 64, between 32 and 128."
    )
