"""How good is the diagnosis? Every kind of planted mistake, in every activation, loss and layout.

Each kind in tests/mistakes.py is planted into hand-written backpropagation, at a layer of
every network of the zoo where it makes sense, with W both ways round. Only dW and db are given to
``bpbench.check``. Counted are the mistakes that are detected, placed in the right layer and tensor,
and explained by the first finding; causes called certain that are none; and pairs of mistakes in
different layers of which both are named.

    python experiments/diagnosis_quality.py --pairs 200 --every 10
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

import bpbench
from bpbench import MLP
from bpbench.activations import hidden_activations
from bpbench.losses import LOSSES
from bpbench.verify.findings import Report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.handwritten import Handwritten, Mistake
from tests.mistakes import BESIDE, LAYOUTS, MISTAKES, laid_out, layers_of

KINDS = {mistake.name: mistake for mistake in MISTAKES}
SIZES = ((7, 6, 5, 4), (6, 8, 4), (5, 7, 6, 3), (8, 5, 6))


@dataclass(frozen=True)
class Trial:
    """Mistakes at layers of a network, and how the function wants its arrays."""

    network: MLP
    plants: tuple[tuple[str, int], ...]
    weights: str
    samples: str

    def __str__(self) -> str:
        planted = ", ".join(f"{name} at {layer}" for name, layer in self.plants)
        return f"{planted} of {self.network}, W {self.weights}, samples {self.samples}"


@dataclass(frozen=True)
class Outcome:
    """What a check made of a trial."""

    verdict: str
    detected: bool
    placed: bool
    first: bool
    misled: bool
    named: int
    report: str


def zoo() -> Iterator[MLP]:
    """Every hidden activation with every loss and output."""
    outputs = [(loss, output) for loss, row in LOSSES.items() for output in row.allowed]
    sizes = itertools.cycle(SIZES)
    for hidden, (loss, output) in itertools.product(hidden_activations(), outputs):
        yield MLP(next(sizes), hidden, output, loss)


def trials() -> Iterator[Trial]:
    """Each kind in each network where it makes sense, at one layer in turn, with W both ways."""
    turn = itertools.count()
    for mistake, network in itertools.product(MISTAKES, zoo()):
        layers = layers_of(mistake, network)
        for weights in ("out_in", "in_out") if layers else ():
            i = next(turn)
            layer, samples = layers[i // 2 % len(layers)], ("rows", "columns")[i // 4 % 2]
            yield Trial(network, ((mistake.name, layer),), weights, samples)


def pairs(number: int, seed: int) -> Iterator[Trial]:
    """Random pairs of kinds in different layers."""
    rng = np.random.default_rng(seed)
    networks, kinds = list(zoo()), [m for m in MISTAKES if m.place != "all"]
    while number:
        network = networks[rng.integers(len(networks))]
        chosen = [kinds[i] for i in rng.choice(len(kinds), 2, replace=False)]
        places = [layers_of(mistake, network) for mistake in chosen]
        if not all(places):
            continue
        at = [int(rng.choice(layers)) for layers in places]
        if at[0] == at[1]:
            continue
        plants = tuple((mistake.name, layer) for mistake, layer in zip(chosen, at, strict=True))
        yield Trial(network, plants, *LAYOUTS[rng.integers(len(LAYOUTS))])
        number -= 1


def ask(trial: Trial) -> Outcome:
    """Check the function of one trial and compare what is said with what was planted."""
    plants = [(KINDS[name], layer) for name, layer in trial.plants]
    l2 = 0.1 if any(mistake.needs_l2 for mistake, _ in plants) else 0.0
    function = laid_out(Handwritten(trial.network, plants, l2), trial.weights, trial.samples)
    report = bpbench.check(trial.network, function, l2=l2)
    first = report.findings[0] if report.findings else None
    mistake, layer = plants[0]
    causes = {cause for mistake, _ in plants for cause in mistake.causes}
    wrongly_certain = any(f.certain and f.mistake not in causes | BESIDE for f in report.findings)
    return Outcome(
        report.verdict,
        detected=report.verdict == "wrong",
        placed=first is not None
        and first.layer in (layer, None)
        and first.tensor in (*mistake.tensors, *_same(trial.network, layer)),
        first=first is not None and first.mistake in mistake.causes,
        misled=wrongly_certain,
        named=sum(_named(report, *plant) for plant in plants),
        report=str(report),
    )


def _same(network: MLP, layer: int) -> tuple[str, ...]:
    """Without biases nothing tells delta from dW in the lowest layer."""
    return ("delta", "dW") if layer == 0 and not network.bias else ()


def _named(report: Report, mistake: Mistake, layer: int) -> bool:
    return any(f.mistake in mistake.causes and f.layer in (layer, None) for f in report.findings)


def asked(
    chosen: list[Trial], jobs: int, show: Callable[[Trial, Outcome], object]
) -> Iterable[tuple[Trial, Outcome]]:
    """Every trial and its outcome, several at a time; what falls short is shown as it comes."""
    with ProcessPoolExecutor(jobs) as pool:
        outcomes = pool.map(ask, chosen, chunksize=4)
        with click.progressbar(
            zip(chosen, outcomes, strict=True), length=len(chosen), file=sys.stderr
        ) as bar:
            for trial, outcome in bar:
                show(trial, outcome)
                yield trial, outcome


def share(count: int, total: int) -> str:
    return f"{count} of {total} ({100 * count / max(total, 1):.1f} %)"


def row(name: str, outcomes: list[Outcome]) -> list[str]:
    total = len(outcomes)
    parts = ("detected", "placed", "first")
    return [
        name,
        *(share(sum(getattr(o, part) for o in outcomes), total) for part in parts),
        str(sum(o.misled for o in outcomes)),
    ]


def markdown(head: tuple[str, ...], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


@click.command(help=__doc__.partition("\n\n")[0].replace("\n", " "))
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Only every Nth trial.",
)
@click.option(
    "--start", type=click.IntRange(min=0), default=0, show_default=True, help="The first trial."
)
@click.option("--kind", "kinds", multiple=True, help="Only kinds whose name holds this.")
@click.option(
    "--pairs",
    "number",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Random pairs of mistakes.",
)
@click.option("--seed", default=0, show_default=True, help="Of the pairs.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=os.cpu_count(),
    help="Checks at a time.  [default: the cores]",
)
@click.option("--each", is_flag=True, help="A line for each kind, too.")
@click.option("--json", "as_json", is_flag=True, help="Every trial, as one JSON document.")
@click.option("--short", is_flag=True, help="Print the reports that fall short on stderr.")
def main(
    every: int, start: int, kinds: tuple[str, ...], number: int, seed: int, jobs: int,
    each: bool, as_json: bool, short: bool,
) -> None:  # fmt: skip
    """Ask, count, and print the tables."""

    def show(trial: Trial, outcome: Outcome) -> None:
        good = outcome.detected and outcome.placed and outcome.first and not outcome.misled
        if short and not (good if len(trial.plants) == 1 else outcome.named == 2):
            click.echo(f"\n--- {trial}\n{outcome.report}", err=True)

    chosen = [
        trial for trial in trials()
        if not kinds or any(kind in trial.plants[0][0] for kind in kinds)
    ]  # fmt: skip
    if kinds and not chosen:
        raise click.UsageError(f"no kind is called like {kinds}; there are: {', '.join(KINDS)}")
    single = list(asked(chosen[start::every], jobs, show))
    double = list(asked(list(pairs(number, seed)), jobs, show)) if number else []
    if as_json:
        rows = [{**asdict(t), **asdict(o)} for t, o in [*single, *double]]
        click.echo(json.dumps(rows, default=str))
        return
    by_kind: dict[str, list[Outcome]] = defaultdict(list)
    for trial, outcome in single:
        by_kind[trial.plants[0][0]].append(outcome)
    head = ("mistake", "detected", "in its place", "cause first", "wrong and certain")
    rows = [row(name, outcomes) for name, outcomes in by_kind.items()] if each else []
    total = row(f"{len(by_kind)} kinds", [outcome for _, outcome in single])
    click.echo(markdown(head, [*rows, total]))
    if double:
        named = Counter(outcome.named for _, outcome in double)
        misled = sum(outcome.misled for _, outcome in double)
        click.echo(
            f"\nPairs in different layers: both named in {share(named[2], len(double))}, one in "
            f"{named[1]}, none in {named[0]}; wrong and certain: {misled}"
        )


if __name__ == "__main__":
    main()
