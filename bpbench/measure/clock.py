"""How long did a piece of work take, and how much of it makes one good sample?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

SHORTEST, AIM, LONGEST = 0.03, 0.06, 0.1
"""Seconds of a sample: long against the timer, short against what else the machine does."""
CANARY = 60_000
"""Additions and multiplications of Python's integers."""


@dataclass(frozen=True)
class Sample:
    """One timing: seconds on the wall, and of all of this process's threads together."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Sample:
    """Do ``work``, which must return when it is really over, and time it."""
    cpu = time.process_time_ns()
    wall = time.perf_counter_ns()
    work()
    end = time.perf_counter_ns()
    return Sample((end - wall) / 1e9, (time.process_time_ns() - cpu) / 1e9)


def canary() -> float:
    """Seconds of a fixed piece of arithmetic, about two milliseconds: always the same, but for what
    else keeps the machine busy."""
    start = time.perf_counter_ns()
    total = 0
    for number in range(CANARY):
        total += number * number
    return (time.perf_counter_ns() - start) / 1e9


def block_length(seconds: Callable[[int], float], most: int) -> int:
    """How many steps make a sample of 30 to 100 ms; a single step may take longer.

    Args:
        seconds: how long a block of so many steps takes, compilation not included.
        most: the largest block allowed.

    Returns:
        From 1 to ``most`` steps; after ten attempts the last, if the times will not settle.
    """
    steps = 1
    for _ in range(10):
        took = max(seconds(steps), 1e-9)
        enough = took >= SHORTEST or steps == most
        if enough and (took <= LONGEST or steps == 1):
            break
        # short blocks are mostly overhead and say little of longer ones: go up in bounds
        steps = max(1, min(round(steps * AIM / took), steps * 1000, most))
    return steps
