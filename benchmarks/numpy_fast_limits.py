"""How near do numpy's modes ``fast`` and ``compiled`` come to their bare matrix products?

Four ways to take the same training step are timed side by side, in rounds, on six workloads:

    products   nothing but the step's matrix products (np.dot into arrays made beforehand), in the
               layout of numpy_reference.py (a sample is a row) and of ``fast`` (it is a column)
    tutorial   the step as tutorials write it
    fast       bpbench's mode ``fast``, called as ``bpbench run`` calls it
    compiled   bpbench's mode ``compiled``, the same

    python benchmarks/numpy_fast_limits.py --rounds 60
    python benchmarks/numpy_fast_limits.py --workload d --workload e --threads 2
    python benchmarks/numpy_fast_limits.py --beside jax:scan

Ratios travel from machine to machine, microseconds do not. On a machine that others use as well,
trust the minima of many short rounds, and ``--clock cpu``, which does not run while others do.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from bpbench import MLP, SGD, get_backend, initial_parameters
from bpbench.backend import Batches
from bpbench.network import Array, Parameters

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")

Work = Callable[[int], object]
"""Takes so many steps."""

ROWS = 2048
"""Rows of the data; a batch is drawn from them at random."""


def classifier(*sizes: int) -> MLP:
    return MLP(sizes, output="softmax", loss="cross_entropy")


WORKLOADS = {
    "a": (MLP((2, 3, 1)), 4, "float64"),
    "b": (classifier(64, 32, 10), 64, "float32"),
    "c": (classifier(784, 30, 10), 10, "float32"),
    "d": (classifier(784, 256, 256, 10), 128, "float32"),
    "e": (classifier(784, 1024, 1024, 10), 512, "float32"),
    "f": (classifier(64, *[128] * 16, 10), 128, "float32"),
}
"""Network, batch size and dtype; sigmoid hidden layers, plain SGD."""

LEARNING_RATE = 0.01

MOST_STEPS = 4096
"""Steps of the longest sample."""


# ── The subjects ───────────────────────────────────────────────────────────────────────────────


def products_by_rows(network: MLP, m: int, dtype: str) -> Work:
    """The products of a step where a sample is a row: x @ W.T, delta.T @ a, delta @ W."""
    rng = np.random.default_rng(0)
    calls = []
    for layer, (n_in, n_out) in enumerate(zip(network.sizes, network.sizes[1:], strict=False)):
        W, gradient = rng.random((2, n_out, n_in)).astype(dtype)
        below, error = rng.random((2, m, n_in)).astype(dtype)
        z, delta = rng.random((2, m, n_out)).astype(dtype)
        calls += [(below, W.T, z), (delta.T, below, gradient)]
        calls += [(delta, W, error)] if layer else []
    return repeated(calls)


def products_by_columns(network: MLP, m: int, dtype: str) -> Work:
    """The same where a sample is a column, but for x: W @ a, delta @ a.T, W.T @ delta."""
    rng = np.random.default_rng(0)
    calls = []
    for layer, (n_in, n_out) in enumerate(zip(network.sizes, network.sizes[1:], strict=False)):
        W, gradient = rng.random((2, n_out, n_in)).astype(dtype)
        below, error = rng.random((2, n_in, m)).astype(dtype)
        z, delta = rng.random((2, n_out, m)).astype(dtype)
        if not layer:
            below = rng.random((m, n_in)).astype(dtype).T
        calls += [(W, below, z), (delta, below.T, gradient)]
        calls += [(W.T, delta, error)] if layer else []
    return repeated(calls)


def repeated(calls: list[tuple[Array, Array, Array]]) -> Work:
    def work(steps: int) -> None:
        dot = np.dot
        for _ in range(steps):
            for left, right, out in calls:
                dot(left, right, out)

    return work


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def tutorial(network: MLP, parameters: Parameters, x: Array, y: Array, order: Array) -> Work:
    """The step as tutorials write it: new arrays for everything, a loop over the layers."""
    W, b = [w.copy() for w in parameters.W], [v.copy() for v in parameters.b]
    last = network.layers - 1

    def step(x: Array, y: Array) -> float:
        a = [x]
        for layer in range(network.layers):
            z = a[-1] @ W[layer].T + b[layer]
            if layer < last or network.output == "sigmoid":
                a.append(sigmoid(z))
            else:
                e = np.exp(z - z.max(axis=1, keepdims=True))
                a.append(e / e.sum(axis=1, keepdims=True))
        if network.loss == "half_squared_error":
            loss = 0.5 * np.sum((a[-1] - y) ** 2) / len(x)
            delta = (a[-1] - y) * a[-1] * (1 - a[-1]) / len(x)
        else:
            loss = -np.sum(y * np.log(a[-1])) / len(x)
            delta = (a[-1] - y) / len(x)
        gradients = []
        for layer in range(last, -1, -1):
            gradients.append((layer, delta.T @ a[layer], delta.sum(axis=0)))
            if layer:
                delta = (delta @ W[layer]) * a[layer] * (1 - a[layer])
        for layer, dW, db in gradients:
            W[layer] -= LEARNING_RATE * dW
            b[layer] -= LEARNING_RATE * db
        return loss

    def work(steps: int) -> list[float]:
        return [step(x[rows], y[rows]) for rows in order[:steps]]

    return work


def fast(network: MLP, parameters: Parameters, x: Array, y: Array, order: Array) -> Work:
    """bpbench's own, as its worker calls it: data loaded, one ``run`` for all steps."""
    return bpbench_mode("numpy:fast", network, parameters, x, y, order)


def bpbench_mode(
    name: str, network: MLP, parameters: Parameters, x: Array, y: Array, order: Array
) -> Work:
    """A mode of bpbench's, such as numpy:compiled or jax:scan."""
    model = get_backend(name, dtype=str(x.dtype)).model(network, parameters)
    data, optimizer = model.load(x, y), SGD(LEARNING_RATE)
    made: dict[int, Batches] = {}

    def work(steps: int) -> object:
        if steps not in made:
            made[steps] = model.batches(data, order[:steps])
            model.run(made[steps], optimizer)  # whatever is compiled for so many steps is now
        losses = model.run(made[steps], optimizer)
        model.synchronize()
        return losses

    return work


def problem(name: str) -> tuple[Parameters, Array, Array, Array]:
    """Parameters, x, y and the order of a workload."""
    network, m, dtype = WORKLOADS[name]
    rng = np.random.default_rng(1)
    parameters = initial_parameters(network, 0, "xavier").astype(dtype)
    x = rng.random((ROWS, network.sizes[0])).astype(dtype)
    classes = max(2, network.sizes[-1])
    y = np.eye(classes, dtype=dtype)[rng.integers(0, classes, ROWS)][:, : network.sizes[-1]]
    return parameters, x, np.ascontiguousarray(y), rng.integers(0, ROWS, (MOST_STEPS, m))


def subjects(name: str, beside: list[str]) -> dict[str, Work]:
    """What is timed on one workload: numpy's, and whichever modes are wanted beside it."""
    network, m, dtype = WORKLOADS[name]
    given = problem(name)
    return {
        "products, rows": products_by_rows(network, m, dtype),
        "products, columns": products_by_columns(network, m, dtype),
        "tutorial": tutorial(network, *given),
        "fast": fast(network, *given),
        "compiled": bpbench_mode("numpy:compiled", network, *given),
    } | {name: bpbench_mode(name, network, *given) for name in beside}


# ── Timing ─────────────────────────────────────────────────────────────────────────────────────


CLOCKS: dict[str, Callable[[], int]] = {"wall": time.perf_counter_ns, "cpu": time.thread_time_ns}


def seconds(work: Work, steps: int, clock: str) -> float:
    start = CLOCKS[clock]()
    work(steps)
    return (CLOCKS[clock]() - start) / 1e9


def steps_per_sample(work: Work, sample: float, clock: str) -> int:
    """Steps that take at least half a sample, at the best of three: others may disturb one."""
    work(1)
    steps = 1
    while steps < MOST_STEPS:
        if min(seconds(work, steps, clock) for _ in range(3)) >= sample / 2:
            break
        steps *= 2
    return steps


def timed(works: dict[str, Work], options: argparse.Namespace) -> dict[str, list[float]]:
    """Microseconds a step of each subject, one entry per round; every round in another order."""
    clock = options.clock
    steps = {name: steps_per_sample(work, options.sample, clock) for name, work in works.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    shuffler = np.random.default_rng(2)
    for _ in range(options.rounds):
        for name in shuffler.permutation(list(works)):
            times[name].append(seconds(works[name], steps[name], clock) / steps[name] * 1e6)
    return times


def ratios(times: dict[str, list[float]], above: str, below: str) -> str:
    """Ratio of the minima, and median of the ratios round by round."""
    of_minima = min(times[above]) / min(times[below])
    of_rounds = statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))
    return f"{of_minima:.2f} / {of_rounds:.2f}"


def spread(times: list[float]) -> str:
    """Minimum and median."""
    return f"{min(times):.4g} / {statistics.median(times):.4g}"


def options(description: str, **defaults: float) -> argparse.Namespace:
    """The command line of these scripts; starts Python again with the threads that it asks for.

    The variables count only where they are set before NumPy is imported.
    """
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--threads", type=int, default=1, help="threads of the matrix products")
    add("--rounds", type=int, default=defaults["rounds"], help="samples of each subject")
    add("--sample", type=float, default=0.002, help="seconds of a sample; 1 step may take longer")
    add("--workload", action="append", choices=sorted(WORKLOADS), help="default: all")
    add("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: this thread's time alone")
    add("--beside", action="append", default=[], help="another mode to time, such as jax:scan")
    chosen = parser.parse_args()
    wanted = dict.fromkeys(THREAD_VARIABLES, str(chosen.threads)) | {"JAX_ENABLE_X64": "1"}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})
    return chosen


def machine(chosen: argparse.Namespace) -> str:
    """What was measured where, in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0].partition(":")[2].strip() if models else name
    return (
        f"{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"{chosen.threads} thread(s), {chosen.clock} clock, {chosen.rounds} rounds, "
        f"NumPy {np.__version__}, {blas()}, Python {platform.python_version()}"
    )


def blas() -> str:
    """Which BLAS, and for which processor, which OPENBLAS_CORETYPE may have set without a word."""
    (found,) = (pool for pool in threadpool_info() if pool["user_api"] == "blas")
    return f"{found['internal_api']} {found['version']} for {found.get('architecture', '?')}"


def main() -> None:
    chosen = options(str(__doc__).partition("\n")[0], rounds=200)
    print(machine(chosen))
    print(
        "\nMicroseconds a step, minimum / median; ratios of minima / median of ratios by round.\n"
    )
    columns = ("products, rows", "products, columns", "tutorial", "fast", "compiled",
               *chosen.beside)  # fmt: skip
    compared = (
        ("fast", "products, rows"), ("fast", "products, columns"), ("tutorial", "fast"),
        ("compiled", "products, rows"), ("compiled", "fast"),
        *(("compiled", name) for name in chosen.beside),
    )  # fmt: skip
    titles = ["", *columns, *(f"{above} : {below}" for above, below in compared)]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for name in chosen.workload or sorted(WORKLOADS):
        times = timed(subjects(name, chosen.beside), chosen)
        cells = [name, *(spread(times[column]) for column in columns),
                 *(ratios(times, *pair) for pair in compared)]  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
