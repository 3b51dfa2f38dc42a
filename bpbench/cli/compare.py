"""``bpbench compare``: what changed between two runs, and what is only noise."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click

from bpbench.cli import output
from bpbench.cli.exits import FAILED, FINE
from bpbench.cli.options import Name, common


@click.command(
    "compare",
    epilog="""\b
    Examples:
      bpbench compare results/before results/after
      bpbench compare results/before results/after --fail-on slower
      bpbench compare results/main results/branch --fail-on slower --fail-on gone --json
      bpbench compare results/laptop results/server --across-machines

    \b
    Exit codes:
      0 fine · 1 what --fail-on names was found · 2 usage, nothing to compare or another machine
    """,
)
@click.argument("old", type=click.Path(path_type=Path), metavar="RESULTS_A")
@click.argument("new", type=click.Path(path_type=Path), metavar="RESULTS_B")
@click.option(
    "--fail-on", "fail_on", multiple=True, type=Name(("slower", "faster", "noise", "gone")),
    help="End with exit code 1 where a timing is that. May be repeated. [default: never]",
)  # fmt: skip
@click.option(
    "--across-machines", is_flag=True,
    help="Compare the timings of different machines, too. [default: refuse]",
)  # fmt: skip
@common
def command(
    old: Path,
    new: Path,
    fail_on: tuple[str, ...],
    across_machines: bool,
    json_: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Compare every timing of RESULTS_B with that of the same work in RESULTS_A.

    A timing is faster, slower, the same, or lost in the noise. It is gone where only RESULTS_A has
    it, and new where only RESULTS_B has it. Nothing is run.
    """
    from bpbench.report.changes import VERDICTS, changes, table
    from bpbench.results.store import read

    found = changes(read(old), read(new), across_machines=across_machines)
    shown = table(found)
    counts = {name: sum(change.verdict == name for change in found) for name in VERDICTS}
    if json_:
        output.document({"schema": 1, "changes": shown.lines(), "counts": counts})
    else:
        output.show(shown.text())
        if not quiet:
            notes = (textwrap.fill(text, output.NOTE_WIDTH) for text in shown.notes)
            output.show("\n" + "\n\n".join(notes) + "\n")
            output.show(", ".join(f"{count} {name}" for name, count in counts.items() if count))
    return FAILED if any(counts[name] for name in fail_on) else FINE
