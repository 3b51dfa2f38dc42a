"""How is a number shown to a person? Three significant digits, with the unit that suits it."""

from __future__ import annotations

import math

NOTHING = "–"
"""Stands where there is no number."""


def seconds(value: float | None, like: float | None = None) -> str:
    """A duration, such as "310 ns", "12.3 ms" or "2 min 5 s".

    Args:
        value: in seconds.
        like: in seconds, another duration whose unit is to be used.
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    size = value if like is None else like
    if size >= 120:
        return f"{int(value // 60)} min {value % 60:.0f} s"
    for name, unit in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if size >= 0.9995 * unit:
            return f"{digits(value / unit)} {name}"
    return f"{digits(value / 1e-9)} ns"


def memory(value: float | None) -> str:
    """A number of bytes: "218 MB"; 1 MB is 10^6 bytes."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= 0.9995 * size:
            return f"{digits(value / size)} {unit}"
    return f"{digits(value)} B"


def share(value: float | None) -> str:
    """A part of a whole: 0.9567 is "95.7 %"."""
    return NOTHING if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def percent(value: float | None) -> str:
    """A share that need not be a part: 0.957 is "96 %", 0.0123 is "1.2 %", 12.5 is "1,250 %"."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{100 * value:.1f} %" if value < 0.1 else f"{100 * value:,.0f} %"


def error(value: float | None) -> str:
    """A relative error or a number of standard deviations: "2.1e-16", "0", "3.4"."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return str(value)
    if value and not 0.01 <= abs(value) < 1000:
        return f"{value:.1e}"
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def digits(value: float | None) -> str:
    """A plain number with three significant digits: "0.125", "12.3", "1.23e-07"."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    places = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def spread(low: str, middle: str, high: str) -> str:
    """A value between its bounds: "12.3 ms [12, 12.9]"; the bounds go without the unit."""
    number, _, unit = middle.rpartition(" ")
    if low == middle == high:
        return middle
    bounds = [bound.removesuffix(f" {unit}") if number else bound for bound in (low, high)]
    return f"{middle} [{bounds[0]}, {bounds[1]}]"
