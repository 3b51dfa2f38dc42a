"""What does a step cost through bpbench, beside the same recipe in a bare script?

Every recipe of ``benchmarks/bare_*.py`` is timed in the same rounds as bpbench's own backend, by
the same clock, on the workloads of ``speed.py``; both are judged first.

    python experiments/overhead.py --workload b --workload d --backend jax --rounds 30

As an experiment (``bpbench run experiments/overhead.py``) it gives the usual tables; run by itself,
one line for each pair, the ratio of bpbench's step to the bare one, and one for each framework: its
fastest mode in bpbench beside its fastest bare recipe.
"""

from __future__ import annotations

import argparse
from operator import mul
from pathlib import Path
from statistics import median

from speed import NETWORKS, workload
from tabulate import tabulate

from bpbench.execute import RunOptions, run
from bpbench.report import numbers
from bpbench.report.speed import compare

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
PAIRS = {
    "numpy:fast": f"{BENCHMARKS}/bare_numpy.py:Bare",
    "torch:eager": f"{BENCHMARKS}/bare_torch.py:Eager",
    "torch:manual": f"{BENCHMARKS}/bare_torch.py:Manual",
    "torch:compiled": f"{BENCHMARKS}/bare_torch.py:Compiled",
    "torch:unrolled": f"{BENCHMARKS}/bare_torch.py:Unrolled",
    "jax:scan": f"{BENCHMARKS}/bare_jax.py:Bare",
    "tensorflow:function": f"{BENCHMARKS}/bare_tensorflow.py:Bare",
    "keras:jax": f"{BENCHMARKS}/bare_keras.py:Jax",
    "keras:tensorflow": f"{BENCHMARKS}/bare_keras.py:TensorFlow",
}
"""bpbench's mode, and the same recipe without it."""
ALLOWED = 1.05


def overhead(name, pairs=PAIRS):
    """The experiment that times both sides of every pair on one workload."""
    both = [backend for pair in pairs.items() for backend in pair]
    return workload(name, name=f"overhead-{name}", backends=both, threads=1)


experiments = [overhead(name) for name in NETWORKS]


def ratios(rows, pairs):
    """A line for every workload and pair whose steps were both timed."""
    timed = {
        (row["cell"]["experiment"], row["cell"]["backend"], row["cell"]["mode"]): row
        for row in rows
        if row["cell"]["question"] == "speed"
    }
    lines = []
    for (experiment, backend, mode), row in timed.items():
        bare_name = pairs.get(f"{backend}:{mode}")
        bare = next(
            (r for (e, b, _), r in timed.items() if (e, b) == (experiment, bare_name)), None
        )
        if bare is None:
            continue
        name = [experiment.removeprefix("overhead-"), f"{backend}:{mode}"]
        if {row["status"], bare["status"]} != {"ok"}:
            said = [f"{each['status']}: {each['say']}" for each in (row, bare) if each["say"]]
            lines.append([*name, *said])
            continue
        own, other = row["measured"], bare["measured"]
        decision = compare(row, bare)
        found = decision.ratio
        beyond = found.low > ALLOWED and decision.verdict == "slower"
        lines.append([
            *name,
            numbers.seconds(own["median_s"]),
            numbers.seconds(other["median_s"], like=own["median_s"]),
            numbers.spread(*map(numbers.digits, (found.low, found.middle, found.high))),
            numbers.digits(own["min_s"] / other["min_s"]),
            numbers.digits(cpu_seconds(own) / cpu_seconds(other)),
            "yes" if found.middle <= ALLOWED else "no" if beyond else "not certain",
        ])  # fmt: skip
    return lines


def cpu_seconds(measured):
    """The middle CPU time of a step: work alone, without what threads wait for one another."""
    return median(map(mul, measured["samples"], measured["cpu_per_wall"]))


def fastest(rows, pairs):
    """A line for every workload and framework: its fastest mode over its fastest bare recipe."""
    own, bare = {}, {}
    names = {recipe: pair.partition(":")[0] for pair, recipe in pairs.items()}
    for row in rows:
        cell = row["cell"]
        if cell["question"] != "speed" or row["status"] != "ok":
            continue
        workload_name = cell["experiment"].removeprefix("overhead-")
        if cell["backend"] in names:
            bare.setdefault((workload_name, names[cell["backend"]]), []).append(row)
        elif f"{cell['backend']}:{cell['mode']}" in pairs:
            own.setdefault((workload_name, cell["backend"]), []).append(row)
    lines = []
    for key in sorted(own.keys() & bare.keys()):
        line = list(key)
        for measure in ("median_s", "min_s"):
            best, other = (
                min(each[key], key=lambda row: row["measured"][measure]) for each in (own, bare)
            )
            ratio = best["measured"][measure] / other["measured"][measure]
            which = f"{best['cell']['mode']} / {other['cell']['mode']}"
            line += [which, numbers.digits(ratio)]
        lines.append(line)
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workload", action="append", choices=NETWORKS, help="default: all six")
    parser.add_argument("--backend", action="append", help="such as jax or torch:eager; all")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--out", default="results/overhead")
    options = parser.parse_args()
    pairs = {
        name: bare
        for name, bare in PAIRS.items()
        if not options.backend or {name, name.partition(":")[0]} & set(options.backend)
    }
    how = RunOptions(
        out=options.out, rounds=options.rounds, processes=options.processes,
        blocks_like={bare: own for own, bare in pairs.items()},
    )  # fmt: skip
    rows = run([overhead(name, pairs) for name in options.workload or NETWORKS], how)
    headings = [
        "",
        "mode",
        "bpbench",
        "bare",
        "ratio of medians",
        "of minima",
        "of CPU",
        "within 5 %",
    ]
    print(tabulate(ratios(rows, pairs), headings, disable_numparse=True))
    headings = ["", "", "fastest by medians", "ratio", "fastest by minima", "ratio"]
    print("\nEach framework's fastest mode over its fastest bare recipe")
    print(tabulate(fastest(rows, pairs), headings, disable_numparse=True))
    for row in rows:
        if row["status"] != "ok":
            print(row["cell"]["backend"], row["cell"]["question"], row["status"], row["say"])


if __name__ == "__main__":
    main()
