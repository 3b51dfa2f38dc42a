"""``bpbench run``: verify, time and train an experiment on every backend, and keep the results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from bpbench.cells import QUESTIONS
from bpbench.cli import output
from bpbench.cli.options import Name, Where, common, where_to_run
from bpbench.execute.options import PROCESSES, ROUNDS


@click.command(
    "run",
    short_help="Verify, time and train an experiment.",
    epilog="""\b
    Examples:
      bpbench run experiments/xor.py
      bpbench run experiments/*.py --dtype float32 --dtype float64 --out results/
      bpbench run experiments/digits.py --backend torch:compiled --backend jax --seeds 5
      bpbench run experiments/digits.py --question speed --threads 2 --rounds 60
      python experiments/xor.py --backend all
    """,
)
@click.argument("scripts", nargs=-1, required=True, metavar="EXPERIMENT.py...")
@click.option(
    "--seeds", type=click.IntRange(min=1), metavar="N",
    help="Train from the seeds 0 to N - 1. [default: the experiment's]",
)  # fmt: skip
@click.option(
    "--question", "questions", multiple=True, type=Name(QUESTIONS),
    help="May be repeated; nothing is trained or timed unverified. [default: all three]",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("results"),
    show_default=True, help="The folder of the result files.",
)  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True, metavar="N",
    help="Samples that each backend gives to a timing.",
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(min=1), default=PROCESSES, show_default=True, metavar="N",
    help="Fresh processes that each backend is timed in.",
)  # fmt: skip
@click.option(
    "--retry", is_flag=True, help="Run again the cells that crashed, timed out or were missing."
)
@where_to_run
@common
@click.pass_obj
def command(
    typed: str | None,
    scripts: tuple[str, ...],
    where: Where,
    seeds: int | None,
    questions: tuple[str, ...],
    out: Path,
    rounds: int,
    processes: int,
    retry: bool,
    json_: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Verify, time and train an experiment on every backend; three tables come out.

    Every cell's result is a file under the folder of results. The same command again finishes what
    is missing and runs nothing twice.
    """
    from bpbench.cli.exits import exit_code
    from bpbench.cli.progress import shown
    from bpbench.execute import run
    from bpbench.experiment import load
    from bpbench.report.agreement import with_agreement

    experiments = [experiment for script in scripts for experiment in load(script)]
    options = replace(
        where.options, seeds=seeds, questions=questions or None, out=out, retry=retry,
        rounds=rounds, processes=processes, command=typed or "",
    )  # fmt: skip
    with shown(quiet, verbose) as progress:
        rows = run(experiments, options, progress)
    output.results(with_agreement(rows, out), json_)
    if not quiet:
        output.note(f"{len(rows)} results are in {out}; bpbench report makes a page of them")
    return exit_code(rows, where.required(experiments))
