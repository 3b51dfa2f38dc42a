"""How does time grow with width, depth and batch, and where does one backend overtake another?

Exponents are fitted to the medians; an overtaking is told only where the difference was seen on
both sides of it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from bpbench.report.speed import compare
from bpbench.results.rows import Row, backend_of, timed

GROWING = ("width", "depth", "batch_size")
"""What may grow; an experiment that varies one of them, and nothing else, is a scaling."""
LEAST = 3
"""Values that it takes."""


@dataclass(frozen=True)
class Growth:
    """How one backend's time of a step grows.

    Attributes:
        over: "width", "depth" or "batch_size".
        values, seconds: the points, by size.
        exponent: p of the power law seconds ~ value^p through all points, by least squares of
            their logarithms.
        last_exponent: that through the two largest, where what is fixed weighs least.
    """

    experiment: str
    backend: str
    mode: str
    dtype: str
    threads: int
    over: str
    values: tuple[float, ...]
    seconds: tuple[float, ...]
    exponent: float
    last_exponent: float


@dataclass(frozen=True)
class Overtaking:
    """Where one backend becomes faster than another as something grows.

    Attributes:
        slower, faster: "numpy:fast" and "jax:scan": who is overtaken beyond it, and by whom.
        at: about where, between ``low`` and ``high``, the nearest points at which a difference
            was seen.
    """

    experiment: str
    over: str
    slower: str
    faster: str
    at: float
    low: float
    high: float


def growths(rows: Iterable[Row]) -> list[Growth]:
    """The growth of every backend and mode that was timed at enough points."""
    found = []
    for over, series in _series(rows):
        values = tuple(value for value, _ in series)
        seconds = tuple(float(row["measured"]["median_s"]) for _, row in series)
        logs = np.log([values, seconds])
        exponent = float(np.polyfit(logs[0], logs[1], 1)[0])
        (x, y), (last_x, last_y) = logs.T[-2:]
        cell = series[0][1]["cell"]
        found.append(
            Growth(
                cell["experiment"], cell["backend"], cell["mode"], cell["dtype"], cell["threads"],
                over, values, seconds, exponent, float((last_y - y) / (last_x - x)),
            )
        )  # fmt: skip
    return found


def overtakings(rows: Iterable[Row]) -> list[Overtaking]:
    """Every change of the faster of two backends that was seen, in each scaling."""
    scalings: dict[Hashable, list[tuple[str, dict[float, Row]]]] = {}
    for over, series in _series(rows):
        cell = series[0][1]["cell"]
        key = (cell["experiment"], cell["device"], cell["dtype"], cell["threads"])
        scalings.setdefault(key, []).append((over, dict(series)))
    return [
        overtaking
        for several in scalings.values()
        for (over, one), (_, other) in combinations(several, 2)
        for overtaking in _between(over, one, other)
    ]


def _between(over: str, one: dict[float, Row], other: dict[float, Row]) -> list[Overtaking]:
    """Where the faster of two changes, from one point at which it was seen to the next."""
    seen = []
    for value in sorted(one.keys() & other.keys()):
        decision = compare(one[value], other[value])
        if decision is not None and decision.verdict != "no difference seen":
            seen.append((value, math.log(decision.ratio.middle)))
    found = []
    for (low, log), (high, next_log) in pairwise(seen):
        if (log > 0) == (next_log > 0):
            continue
        share = log / (log - next_log)  # where the logarithm of the ratio crosses 0
        at = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        names = [backend_of(next(iter(each.values()))["cell"]) for each in (one, other)]
        slower, faster = names if next_log > 0 else names[::-1]
        experiment = next(iter(one.values()))["cell"]["experiment"]
        found.append(Overtaking(experiment, over, slower, faster, at, low, high))
    return found


def _series(rows: Iterable[Row]) -> list[tuple[str, Sequence[tuple[float, Row]]]]:
    """For every backend of a scaling, what grows, and its rows by the size of that."""
    groups: dict[tuple[Hashable, ...], dict[float, Row]] = {}
    for row in rows:
        cell = row["cell"]
        if not timed(row) or len(cell["point"]) != 1:
            continue
        ((over, value),) = cell["point"].items()
        if over in GROWING:
            where = (cell["device"], cell["dtype"], cell["threads"])
            key = (over, cell["experiment"], cell["backend"], cell["mode"], *where)
            groups.setdefault(key, {})[float(value)] = row
    return [
        (str(over), sorted(points.items(), key=lambda point: point[0]))
        for (over, *_), points in groups.items()
        if len(points) >= LEAST and min(points) > 0
    ]
