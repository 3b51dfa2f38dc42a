"""``bpbench run``: verify, time and train an experiment on every backend, and keep the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bpbench.cells import QUESTIONS
from bpbench.cli import output
from bpbench.cli.options import FROM_1, Name, common, options, required, run_options, where_to_run
from bpbench.execute.options import PROCESSES, ROUNDS


@click.command(
    "run",
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
@options(
    click.option(
        "--seeds", type=FROM_1, metavar="N",
        help="Train from the seeds 0 to N - 1. [default: the experiment's]",
    ),
    click.option(
        "--question", "questions", multiple=True, type=Name(QUESTIONS),
        help="What to ask. May be repeated; verify is always asked first. [default: all three]",
    ),
    click.option(
        "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("results"),
        show_default=True, help="The folder of the result files.",
    ),
    click.option(
        "--rounds", type=FROM_1, default=ROUNDS, show_default=True, metavar="N",
        help="Samples that each backend gives to a timing.",
    ),
    click.option(
        "--processes", type=FROM_1, default=PROCESSES, show_default=True, metavar="N",
        help="Fresh processes that each backend is timed in.",
    ),
    click.option(
        "--retry", is_flag=True,
        help="Run cells again that crashed, timed out or ran out of memory. [default: keep them]",
    ),
)  # fmt: skip
@where_to_run
@common
@click.pass_obj
def command(
    typed: str | None,
    /,
    scripts: tuple[str, ...],
    out: Path,
    json_: bool,
    quiet: bool,
    verbose: bool,
    **asked: Any,
) -> int:
    """Verify, time and train an experiment on every backend, and show the tables.

    The result of every cell is a file in the folder of results. The same command again finishes
    what is missing and runs nothing twice.
    """
    from bpbench.cli.exits import exit_code
    from bpbench.cli.progress import shown
    from bpbench.execute import run
    from bpbench.experiment import load
    from bpbench.report.agreement import with_agreement

    experiments = [experiment for script in scripts for experiment in load(script)]
    with shown(quiet, verbose) as progress:
        rows = run(experiments, run_options(typed=typed, out=out, **asked), progress)
    output.results(with_agreement(rows, out), json_)
    if not quiet:
        output.note(f"{len(rows)} results are in {out}; bpbench report makes a page of them")
    return exit_code(rows, required(asked["backends"], experiments))
