"""What does each trick of numpy's mode ``fast`` pay?

Two tables. The first takes one trick at a time out of the real step and times the whole step with
and without it, in rounds. The second times single NumPy calls beside what they replace.

    python benchmarks/numpy_fast_tricks.py --workload a --workload b --rounds 300
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy_fast_limits import (
    WORKLOADS,
    Work,
    fast,
    machine,
    options,
    problem,
    ratios,
    spread,
    timed,
)

from bpbench import MLP
from bpbench.backends.numpy_common import plan as numpy_plan
from bpbench.backends.numpy_fast import kernels as numpy_kernels
from bpbench.backends.numpy_fast import model as numpy_fast
from bpbench.backends.numpy_fast import passes as numpy_pass
from bpbench.network import Array

# ── The whole step, with one trick taken out ───────────────────────────────────────────────────


def looped(plan: numpy_plan.Plan) -> numpy_plan.Written:
    """The plan as lists of calls that are looped over, where ``fast`` has it written out."""
    lists: dict[int, list[tuple[Any, list[Any], dict[str, Any]]]] = {}

    def filled(given: tuple[Any, ...]) -> list[tuple[Any, list[Any], dict[str, Any]]]:
        slots = dict(zip(plan.slots, given, strict=True))

        def find(thing: Any) -> Any:
            return slots[thing] if isinstance(thing, str) else thing

        return [
            (find(function), list(map(find, arguments)), {} if out is None else {"out": find(out)})
            for function, arguments, out in plan.calls
        ]

    def run(runs: Iterable[tuple[Any, ...]]) -> None:
        for given in runs:
            if id(given) not in lists:
                lists[id(given)] = filled(given)
            for function, arguments, named in lists[id(given)]:
                function(*arguments, **named)

    return run


class Unfolded(numpy_pass.Layout):
    """Each W and b by itself."""

    def __init__(self, network: MLP) -> None:
        super().__init__(network)
        self.folded = [False] * network.layers


NEVER, ALWAYS = 0, 2**60
WITHOUT: dict[str, list[tuple[Any, str, Any]]] = {
    "calls written out": [(numpy_plan.Plan, "written_out", looped)],
    "many steps gathered at once": [(numpy_fast, "CHUNK_STEPS", 1)],
    "b as a column of W": [(numpy_fast, "Layout", Unfolded)],
    "f' of all layers at once": [(numpy_pass, "SHARED_SLOPES", NEVER)],
    "softmax shifted only where needed": [(numpy_kernels, "SAFE", 0.0)],
    "arrays on cache lines": [(numpy_plan, "CACHE_LINE", 1)],
    "elementwise calls in blocks": [(numpy_plan, "BLOCK_BYTES", ALWAYS)],
    "large layers updated one by one": [(numpy_fast, "ONE_UPDATE_BYTES", ALWAYS)],
}
"""Trick -> what to put where, so that a model built meanwhile does without it."""


@contextmanager
def changed(changes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def whole_steps(chosen: argparse.Namespace) -> None:
    print("\nThe step without one trick, over the step with all: minima / median by round\n")
    workloads = chosen.workload or sorted(WORKLOADS)
    print(f"| without | {' | '.join(workloads)} |\n" + "|---" * (len(workloads) + 1) + "|")
    columns = []
    for name in workloads:
        network, _, _ = WORKLOADS[name]
        works: dict[str, Work] = {"all": _built(network, problem(name))}
        for trick, changes in WITHOUT.items():
            with changed(changes):
                works[trick] = _built(network, problem(name))
        columns.append(timed(works, chosen))
    for trick in WITHOUT:
        cells = [ratios(times, trick, "all") for times in columns]
        print(f"| {trick} | {' | '.join(cells)} |")
    print(f"| (us a step, all) | {' | '.join(spread(times['all']) for times in columns)} |")


def _built(network: Any, given: Any) -> Work:
    """A model that has taken a step, so that all its arrays are made."""
    work = fast(network, *given)
    work(1)
    return work


# ── Single calls beside what they replace ──────────────────────────────────────────────────────


def repeated(call: Callable[..., object], *args: Any, **kwargs: Any) -> Work:
    def work(steps: int) -> None:
        for _ in range(steps):
            call(*args, **kwargs)

    return work


def pairs() -> Iterator[tuple[str, str, Work, Work]]:
    """(trick, size, without, with it)."""
    rng = np.random.default_rng(0)

    def f32(*shape: int) -> Array:
        return rng.random(shape).astype("float32")

    one = np.ones((), "float32")
    for n, m in ((3, 4), (32, 64), (1024, 512)):
        a, out, size = f32(n, m), f32(n, m), f"{n} x {m}"
        yield "exp into an array", size, repeated(np.exp, a), repeated(np.exp, a, out)
        yield ("1 as a 0-d array", size,
               repeated(np.add, a, 1.0, out), repeated(np.add, a, one, out))  # fmt: skip
        yield ("sum over samples by a product", size,
               repeated(a.sum, axis=1, out=f32(n)),
               repeated(a.dot, np.ones(m, "float32"), f32(n)))  # fmt: skip
        yield ("softplus by log1p", size,
               repeated(np.logaddexp, 0, a, out=out), repeated(softplus(a, out)))  # fmt: skip
    small = f32(3, 4), f32(4, 4), f32(3, 4)
    yield (
        "array.dot, not np.dot",
        "3 x 4 x 4",
        repeated(np.dot, *small),
        repeated(small[0].dot, *small[1:]),
    )
    yield (
        "np.dot, not np.matmul",
        "3 x 4 x 4",
        repeated(np.matmul, *small),
        repeated(np.dot, *small),
    )
    z = f32(10, 64)
    rows = np.ascontiguousarray(z.T)
    yield ("largest of a sample that is a column", "10 x 64",
           repeated(rows.max, axis=1),
           repeated(np.maximum.reduce, z, 0, None, f32(64)))  # fmt: skip
    x, wanted, into = f32(2048, 64), rng.integers(0, 2048, 64), f32(64, 64)
    yield ("rows by take, clipped, into an array", "64 of 64",
           repeated(x.__getitem__, wanted),
           repeated(x.take, wanted, 0, into, "clip"))  # fmt: skip
    left, right = f32(16, 640), f32(16, 640)
    yield ("sums of products by vecdot", "16 x 640",
           repeated(lambda: (left * right).sum(axis=1)),
           repeated(np.vecdot, left, right))  # fmt: skip


def softplus(z: Array, out: Array) -> Callable[[], object]:
    """max(z, 0) + log(1 + e^-|z|)."""
    tail, zero = np.empty_like(z), np.zeros((), z.dtype)

    def call() -> None:
        np.abs(z, tail)
        np.negative(tail, tail)
        np.exp(tail, tail)
        np.log1p(tail, tail)
        np.maximum(z, zero, out=out)
        np.add(out, tail, out)

    return call


def single_calls(chosen: argparse.Namespace) -> None:
    print("\nMicroseconds of single calls, minimum / median\n")
    print("| trick | size | without | with | without : with |\n" + "|---" * 5 + "|")
    for trick, size, without, with_it in pairs():
        times = timed({"without": without, "with": with_it}, chosen)
        cells = [spread(each) for each in times.values()]
        print(f"| {trick} | {size} | {' | '.join(cells)} | {ratios(times, 'without', 'with')} |")


def main() -> None:
    chosen = options(str(__doc__).partition("\n")[0], rounds=200)
    print(machine(chosen))
    whole_steps(chosen)
    single_calls(chosen)


if __name__ == "__main__":
    main()
