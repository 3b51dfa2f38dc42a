"""How often does bpbench call the same different, or miss what is 15 % slower, on this machine?

numpy's ``fast`` is timed against itself under another name, and against itself with 15 % more
work, as many times as asked for: each time is a point of its own with all its rounds, and eight
points share their processes. Of 100, at most 5 of the same should be called different, and at least
90 of the slower ones slower. A hundred take about half an hour.

    python experiments/planted_slowness.py --times 20
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from speed import workload

from bpbench.execute import RunOptions, run
from bpbench.report.speed import compare

PLANTED = Path(__file__).resolve().parent.parent / "benchmarks/planted.py"


def planted(times):
    """The experiment: as many points as times, alike but for a learning rate that costs nothing."""
    return workload(
        "b",
        name="planted-slowness",
        backends=["numpy:fast", f"{PLANTED}:Same", f"{PLANTED}:Slower"],
        threads=1,
        vary={"learning_rate": np.linspace(0.01, 0.1, times).round(6).tolist()},
    )


def verdicts(rows):
    """How often each verdict was given on "Same" and on "Slower", beside numpy's ``fast``."""
    points = {}
    for row in rows:
        if row["cell"]["question"] == "speed" and row["status"] == "ok":
            name = row["cell"]["backend"].rpartition(":")[2]
            points.setdefault(row["cell"]["point"]["learning_rate"], {})[name] = row
    return {
        name: Counter(
            compare(point[name], point["numpy"]).verdict
            for point in points.values()
            if {name, "numpy"} <= point.keys()
        )
        for name in ("Same", "Slower")
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--out", default="results/planted")
    options = parser.parse_args()
    how = RunOptions(out=options.out, rounds=options.rounds, processes=options.processes)
    rows = run(planted(options.times), how)
    for name, counts in verdicts(rows).items():
        print(f"{name}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


if __name__ == "__main__":
    main()
