"""``bpbench report``: tables and pages from result files alone."""

from __future__ import annotations

from pathlib import Path

import click

from bpbench.cli import output
from bpbench.cli.options import Name, common
from bpbench.errors import UsageError
from bpbench.report import FORMATS, render


@click.command(
    "report",
    epilog="""\b
    Examples:
      bpbench report results/
      bpbench report results/xor --output xor.md
      bpbench report results/ --format csv > cells.csv
      bpbench report results/ --json | jq .tables.speed
    """,
)
@click.argument("results", type=click.Path(path_type=Path), metavar="RESULTS")
@click.option(
    "--format", "format_", type=Name(tuple(FORMATS)),
    help="What to write. [default: by the ending of --output, else markdown]",
)  # fmt: skip
@click.option(
    "--output", "file", type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write. [default: stdout]",
)  # fmt: skip
@common
def command(
    results: Path,
    format_: str | None,
    file: Path | None,
    json_: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Make a report from a folder of result files. No framework is needed, nothing is run again.

    markdown is a page for people. csv has a line for every cell, with raw numbers. json has the
    tables and every cell with all that was measured.
    """
    from bpbench.report.agreement import with_agreement
    from bpbench.results import store

    if not results.is_dir():
        raise UsageError(f"there is no folder of results {results}; expected what --out named")
    rows = with_agreement(store.read(results), results)
    if not rows:
        raise UsageError(f"{results} holds no result files; bpbench run writes them")

    if file is None:
        if json_ and format_ not in (None, "json"):
            raise UsageError(f"--json and --format {format_} contradict each other; give one")
        chosen = "json" if json_ else format_ or "markdown"
        output.show(render(rows, chosen).rstrip("\n"))
        return
    chosen = format_ or _format_of(file)
    store.write_whole(file, render(rows, chosen).encode())
    if json_:
        output.document({"written": str(file), "format": chosen, "cells": len(rows)})
    elif not quiet:
        output.note(f"wrote {file}")


def _format_of(file: Path) -> str:
    """The format that a file's ending says; markdown where it says none."""
    endings = {ending: name for name, ending in FORMATS.items()}
    return endings.get(file.suffix.lower(), "markdown")
