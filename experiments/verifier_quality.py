"""How good is the judge of gradients? False alarms on correct backends, and planted errors seen.

Random networks (widths 1 to 512, depths 1 to 10, every activation and loss; N(0, 1), scaled, He and
all-positive weights; saturated, ordinary and tiny inputs) are differentiated and trained by each
backend. Every result is judged as it is, which must raise no alarm, and once more with one tensor
multiplied by 1 + 1e-4 (float32) or 1 + 1e-9 (float64), or with a planted training mistake, which
should. Beside bpbench stand the rules that people use: np.allclose, torch.testing.assert_close
and the relative error of the course CS231n.

    python experiments/verifier_quality.py --networks 50 --backend numpy --backend torch
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import click
import numpy as np

import bpbench
from bpbench import MLP, SGD, Adam, Backpropagation, Parameters, RMSProp
from bpbench.activations import hidden_activations
from bpbench.backend import Model
from bpbench.losses import LOSSES
from bpbench.network import Array
from bpbench.optimizers import Optimizer
from bpbench.registry import modes_of
from bpbench.verify import truth
from bpbench.verify.verdict import Report, judge, judge_training

BUILT_IN = ("numpy", "torch", "jax", "tensorflow", "keras")
PLANTED = {"float32": 1e-4, "float64": 1e-9}
STEPS = 12
DECLARED = ("vacuous", "noise-limited", "kink")
"""Verdicts that say that an error could not have been seen."""


# ── Random problems ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Problem:
    """A network with its parameters, data and training, as a seed draws them."""

    network: MLP
    parameters: Parameters
    x: Array
    y: Array
    cotangent: Array | None
    l2: float
    order: Array
    optimizer: Optimizer


def draw(seed: int, widest: int) -> Problem:
    """The problem of one seed: any network of the zoo, with layers of up to ``widest`` units."""
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(1, 11))
    width = widest ** rng.random()
    sizes = tuple(
        max(1, min(widest, round(width * rng.uniform(0.5, 1.5)))) for _ in range(depth + 1)
    )
    loss = str(rng.choice(list(LOSSES)))
    mixed = rng.random() < 0.5
    hidden = rng.choice(hidden_activations(), depth - 1 if mixed else 1).tolist()
    network = MLP(
        sizes,
        hidden=tuple(hidden) if mixed else hidden[0],
        output=str(rng.choice(LOSSES[loss].allowed)),
        loss=loss,
        bias=bool(rng.random() < 0.8),
    )
    rows, outputs = int(64 ** rng.random()), sizes[-1]
    x = rng.standard_normal((4 * rows, sizes[0])) * rng.choice([1e-3, 1, 1, 1, 10])
    y = rng.random((len(x), outputs))
    if loss == "cross_entropy" or (loss == "binary_cross_entropy" and rng.random() < 0.5):
        y = np.eye(outputs)[rng.integers(0, outputs, len(x))]
    rate, decay = float(10 ** rng.uniform(-3, 0.5)), float(rng.choice([0, 0, 1e-4, 1e-2]))
    optimizers: list[Optimizer] = [
        SGD(rate, decay), SGD(rate, decay, 0.9), SGD(rate, decay, 0.9, True),
        RMSProp(rate / 30, decay), Adam(rate / 30, decay),
    ]  # fmt: skip
    return Problem(
        network,
        _parameters(network, seed, str(rng.choice(["normal", "scaled_normal", "he", "positive"]))),
        x,
        y,
        rng.standard_normal((rows, outputs)) * 1e-6 if rng.random() < 0.1 else None,
        decay,
        rng.integers(0, len(x), (STEPS, rows)),
        optimizers[int(rng.integers(len(optimizers)))],
    )


def _parameters(network: MLP, seed: int, scheme: str) -> Parameters:
    if scheme != "positive":
        return bpbench.initial_parameters(network, seed, scheme)
    drawn = bpbench.initial_parameters(network, seed, "normal")
    return Parameters(tuple(map(np.abs, drawn.W)), tuple(map(np.abs, drawn.b)))


# ── The rules that people use ──────────────────────────────────────────────────────────────────

Rule = Callable[[Array, Array], bool]
"""found, true -> does it pass?"""


def _close(relative: float, absolute: float) -> Rule:
    return lambda found, true: bool(np.all(abs(found - true) <= absolute + relative * abs(true)))


def _cs231n(limit: float) -> Rule:
    def rule(found: Array, true: Array) -> bool:
        size = np.maximum(np.maximum(abs(found), abs(true)), 1e-8)
        return bool(np.max(abs(found - true) / size) < limit)

    return rule


RULES: dict[str, dict[str, Rule]] = {
    "np.allclose": dict.fromkeys(PLANTED, _close(1e-5, 1e-8)),
    "torch.testing.assert_close": {"float32": _close(1.3e-6, 1e-5), "float64": _close(1e-7, 1e-7)},
    "CS231n's relative error": {"float32": _cs231n(1e-4), "float64": _cs231n(1e-7)},
}
"""With their defaults; CS231n asks for 1e-7 in float64, and in float32 1e-4 is taken."""


def passes(rule: Rule, found: Backpropagation[Array], true: Backpropagation[Array]) -> bool:
    """Whether every gradient passes a rule."""
    pairs = zip(
        (*found.gradients.W, *found.gradients.b),
        (*true.gradients.W, *true.gradients.b),
        strict=True,
    )
    return all(rule(np.asarray(f, np.float64), t.astype(np.float64)) for f, t in pairs)


# ── Planted mistakes ───────────────────────────────────────────────────────────────────────────


def scaled(
    found: Backpropagation[Array], rng: np.random.Generator, factor: float
) -> tuple[Backpropagation[Array], str] | None:
    """One tensor of the gradients times ``factor``, and its name; None if all of them are zero."""
    places = [
        (name, layer)
        for name in ("W", "b")
        for layer, gradient in enumerate(getattr(found.gradients, name))
        if np.any(gradient)  # a factor is no mistake where everything is zero
    ]
    if not places:
        return None
    name, layer = places[rng.integers(len(places))]
    arrays = list(getattr(found.gradients, name))
    arrays[layer] = (arrays[layer] * factor).astype(arrays[layer].dtype)
    gradients = replace(found.gradients, **{name: tuple(arrays)})
    return replace(found, gradients=gradients), f"d{name}[{layer}]"


def mistaken_training(model: Model, problem: Problem, mistake: str) -> tuple[Array, Parameters]:
    """Losses and final parameters of a training with a planted mistake."""
    x, y, order, optimizer = problem.x, problem.y, problem.order, problem.optimizer
    model.set_parameters(problem.parameters)
    train: Callable[..., Array] = model.train
    if mistake == "a step skipped":
        losses = np.concatenate(
            [train(x, y, order[:5], optimizer), [0], train(x, y, order[6:], optimizer)]
        )
        skipped = model.backend.model(problem.network, problem.parameters)
        skipped.train(x, y, order[:5], optimizer)
        losses[5] = skipped.backpropagate(x[order[5]], y[order[5]], l2=optimizer.l2).loss
    elif mistake == "losses after the step":
        losses = np.empty(STEPS)
        for step, rows in enumerate(order):
            train(x, y, rows[None], optimizer)
            losses[step] = model.backpropagate(x[rows], y[rows], l2=optimizer.l2).loss
    elif mistake == "another row in one batch":
        moved = order.copy()
        moved[3, 0] = (moved[3, 0] + 1) % len(x)
        losses = train(x, y, moved, optimizer)
    elif mistake == "learning rate off by 1e-3":
        losses = train(
            x, y, order, replace(optimizer, learning_rate=1.001 * optimizer.learning_rate)
        )
    elif mistake == "l2 ignored":
        losses = train(x, y, order, replace(optimizer, l2=0.0))
    else:
        assert mistake == "parameters not moved"
        losses = train(x, y, order, optimizer)
        model.set_parameters(problem.parameters)
    return losses.astype(model.backend.dtype), model.parameters()


MISTAKES = (
    "a step skipped", "losses after the step", "another row in one batch",
    "learning rate off by 1e-3", "l2 ignored", "parameters not moved",
)  # fmt: skip


# ── Judging one backend ────────────────────────────────────────────────────────────────────────


def outcome(report: Report, planted: float = 0.0, tensor: str | None = None) -> str:
    """What a report on a planted error comes to.

    Returns:
        "seen"; the verdict that said that it could not be seen, with a limit above its size;
        "small" where what a training mistake does is below the printed limits; or "missed".
    """
    if report.verdict == "wrong":
        return "seen"
    limits = [t.detection_limit for t in report.tensors if tensor in (None, t.place)]
    if report.verdict in DECLARED and max(limits) > planted:
        return report.verdict
    small = not planted and all(t.error < t.detection_limit for t in report.tensors)
    return "small" if small else "missed"


def judge_one(model: Model, problem: Problem, dtype: str, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of results on one problem: gradients and training, as they are and with an error."""
    network, parameters = problem.network, problem.parameters
    rows = problem.order[0]
    x, l2, cotangent = problem.x[rows], problem.l2, problem.cotangent
    y = problem.y[rows] if cotangent is None else None
    l2 = l2 if cotangent is None else 0.0
    asked = (network, parameters, x, y)
    found = model.backpropagate(x, y, cotangent=cotangent, l2=l2)
    true = truth.backpropagate(
        network,
        parameters.astype(dtype),
        *(None if v is None else v.astype(dtype) for v in (x, y)),
        cotangent=None if cotangent is None else cotangent.astype(dtype),
        l2=l2,
        dtype=truth.precision_above(dtype),
    )
    report = judge(*asked, found, dtype, cotangent=cotangent, l2=l2)
    passed = {name: passes(rule[dtype], found, true) for name, rule in RULES.items()}
    yield {"what": "gradients", "verdict": report.verdict, "sigmas": report.worst_sigmas,
           "rules": passed, "report": str(report)}  # fmt: skip

    size = PLANTED[dtype]
    if planted := scaled(found, np.random.default_rng(seed), 1 + size):
        wrong, tensor = planted
        report = judge(*asked, wrong, dtype, cotangent=cotangent, l2=l2)
        passed = {name: passes(rule[dtype], wrong, true) for name, rule in RULES.items()}
        yield {"what": "planted", "outcome": outcome(report, size, tensor), "rules": passed,
               "report": f"{tensor} planted\n{report}"}  # fmt: skip

    model.set_parameters(parameters)
    with np.errstate(all="ignore"):  # some of these trainings diverge, as they should
        losses = model.train(problem.x, problem.y, problem.order, problem.optimizer)
        trained = (network, parameters, problem.x, problem.y, problem.order, problem.optimizer)
        report = judge_training(*trained, losses, model.parameters(), dtype)
        yield {"what": "training", "verdict": report.verdict, "sigmas": report.worst_sigmas,
               "report": str(report)}  # fmt: skip
        mistake = MISTAKES[seed % len(MISTAKES)]
        if mistake != "l2 ignored" or problem.optimizer.l2:
            report = judge_training(*trained, *mistaken_training(model, problem, mistake), dtype)
            yield {"what": mistake, "outcome": outcome(report), "report": str(report)}


def work(backend: str, dtype: str, seeds: range, widest: int) -> None:
    """Judge one backend in this process; one line of JSON per row of results."""
    name, _, mode = backend.partition(":")
    chosen = bpbench.get_backend(name, mode=mode or None, dtype=dtype)
    for seed in seeds:
        problem = draw(seed, widest)
        model = chosen.model(problem.network, problem.parameters)
        for row in judge_one(model, problem, dtype, seed):
            print(json.dumps({"backend": backend, "dtype": dtype, "seed": seed, **row}), flush=True)


# ── The table ──────────────────────────────────────────────────────────────────────────────────


def share(count: int, total: int) -> str:
    return f"{count} of {total}" + (f" ({100 * count / total:.1f} %)" if total else "")


def ends(outcomes: Counter[str]) -> dict[str, str]:
    """The columns of a table that say what became of planted errors."""
    columns = {"seen": share(outcomes["seen"], outcomes.total())}
    columns |= {f"called {verdict}": str(outcomes[verdict]) for verdict in DECLARED}
    columns["below the limit"] = str(outcomes["small"])
    return columns | {"passed in silence": str(outcomes["missed"])}


def table(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """One line per rule and dtype: false alarms, and what became of planted errors."""
    lines = []
    for dtype in PLANTED:
        mine = [row for row in rows if row["dtype"] == dtype]
        right = [row for row in mine if row["what"] == "gradients"]
        wrong = [row for row in mine if row["what"] == "planted"]
        if not right:
            continue
        alarms = sum(row["verdict"] == "wrong" for row in right)
        line = {"rule": "bpbench", "dtype": dtype, "false alarms": share(alarms, len(right))}
        lines.append(line | ends(Counter(row["outcome"] for row in wrong)))
        for rule in RULES:
            alarms = sum(not row["rules"][rule] for row in right)
            line = {"rule": rule, "dtype": dtype, "false alarms": share(alarms, len(right))}
            found = Counter("missed" if row["rules"][rule] else "seen" for row in wrong)
            lines.append(line | ends(found))
    return lines


def training_table(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """One line per planted training mistake, and one for the trainings without any."""
    verdicts = [row["verdict"] for row in rows if row["what"] == "training"]
    alarms = Counter("seen" if v == "wrong" else v if v in DECLARED else "right" for v in verdicts)
    lines = [{"mistake": "none"} | ends(alarms)]
    for mistake in MISTAKES:
        found = Counter(row["outcome"] for row in rows if row["what"] == mistake)
        lines.append({"mistake": mistake} | ends(found))
    return lines


def markdown(lines: list[dict[str, str]]) -> str:
    heads = list(lines[0])
    body = [" | ".join(line[head] for head in heads) for line in lines]
    return "\n".join(
        f"| {row} |" for row in [" | ".join(heads), " | ".join("---" for _ in heads), *body]
    )


@click.command(help=__doc__.partition("\n\n")[0].replace("\n", " "))
@click.option("--networks", default=25, show_default=True, help="Random networks per dtype.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    metavar="NAME[:MODE]",
    help="Which to judge; again for more. Default: the five, in their default modes.",
)
@click.option("--all-modes", is_flag=True, help="Every mode of each backend.")
@click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(list(PLANTED)), help="Default: both."
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="The first network's seed; each backend has networks of its own.",
)
@click.option("--widest", default=512, show_default=True, help="The widest layer.")
@click.option("--json", "as_json", is_flag=True, help="Every row, as one JSON document.")
@click.option("--alarms", is_flag=True, help="Print the reports of false alarms on stderr.")
@click.option("--worker", is_flag=True, hidden=True)
def main(
    networks: int,
    backends: tuple[str, ...],
    all_modes: bool,
    dtypes: tuple[str, ...],
    seed: int,
    widest: int,
    as_json: bool,
    alarms: bool,
    worker: bool,
) -> None:
    """Judge every backend and dtype in a process of its own, one after the other."""
    if worker:
        work(backends[0], dtypes[0], range(seed, seed + networks), widest)
        return
    names = list(backends or BUILT_IN)
    if all_modes:
        names = [f"{name}:{mode}" for name in names for mode in modes_of(name)]
    rows: list[dict[str, Any]] = []
    for turn, name in enumerate(names):
        for dtype in dtypes or PLANTED:
            command = [
                sys.executable, __file__, "--worker", "--backend", name, "--dtype", dtype,
                "--networks", str(networks), "--seed", str(seed + turn * networks),
                "--widest", str(widest),
            ]  # fmt: skip
            got = _run(command, f"{name} {dtype}", networks)
            rows += got
            for row in got:
                wrong = row["what"] in ("gradients", "training") and row["verdict"] == "wrong"
                if alarms and (wrong or row.get("outcome") == "missed"):
                    click.echo(f"{name} {dtype} seed {row['seed']} {row['what']}", err=True)
                    click.echo(row["report"], err=True)
    if as_json:
        click.echo(json.dumps({"networks": networks, "seed": seed, "rows": rows}))
        return
    if not rows:
        raise click.ClickException("no backend could be judged; see bpbench backends")
    judged = sorted({row["backend"] for row in rows})
    click.echo(f"{len(rows)} judgements of {', '.join(judged)}\n")
    click.echo(markdown(table(rows)) + "\n")
    click.echo(markdown(training_table(rows)))


def _run(command: list[str], label: str, total: int) -> list[dict[str, Any]]:
    """The rows that one worker prints; what it says on stderr is shown if it fails."""
    rows: list[dict[str, Any]] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            rows.append(json.loads(line))
            if rows[-1]["what"] == "training" and sys.stderr.isatty():
                done = sum(row["what"] == "training" for row in rows)
                click.echo(f"\r{label}: {done} of {total} networks", err=True, nl=False)
        said = process.stderr.read()
    verdicts = Counter(row["verdict"] for row in rows if "verdict" in row)
    click.echo(f"{label}: {dict(verdicts)}".ljust(60), err=True)
    if process.returncode:
        click.echo(f"{label} stopped: {said.strip().splitlines()[-1:]}", err=True)
    return rows


if __name__ == "__main__":
    main()
