"""``bpbench conform``: does a backend keep all that the interface promises?"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from bpbench.cli import output
from bpbench.cli.exits import FAILED, FINE
from bpbench.cli.options import BackendName, Name, common
from bpbench.cli.progress import contracts_shown
from bpbench.execute.environment import with_own_package
from bpbench.registry import modes_of, split_mode

if TYPE_CHECKING:
    from bpbench.conformance import ConformanceReport


@click.command(
    "conform",
    short_help="Is your backend a good citizen?",
    epilog="""\b
    Examples:
      bpbench conform my_backend.py:MyBackend
      bpbench conform my_backend.py:MyBackend --mode fast --dtype float64
      bpbench conform torch:eager --json
    """,
)
@click.argument("backend", type=BackendName())
@click.option("--mode", "modes", multiple=True, metavar="NAME", help="May be repeated. [all]")
@click.option("--device", "devices", multiple=True, type=Name(("cpu", "cuda")), help="[cpu]")
@click.option(
    "--dtype", "dtypes", multiple=True, type=Name(("float32", "float64")), help="[all it claims]"
)
@common
def command(
    backend: str,
    modes: tuple[str, ...],
    devices: tuple[str, ...],
    dtypes: tuple[str, ...],
    json_: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Does a backend keep all that the interface promises?

    Gradients against the truth, training by every formula, arrays that are the caller's own,
    nothing that was passed in changed; what is broken is named.
    """
    several = modes or (modes_of(backend) if split_mode(backend)[1] is None else ())
    if len(several) > 1:
        options = [f"--device={name}" for name in devices] + [f"--dtype={name}" for name in dtypes]
        report = _each_by_itself(backend, several, options + (["-q"] if quiet else []))
    else:
        report = _tried(backend, modes, devices, dtypes, quiet)
    if json_:
        output.document(report.as_dict())
        return FINE if report.passed else FAILED
    output.show(str(report))
    if verbose:
        for one in report.tried:
            output.note(f"{'broken' if one.faults else 'kept'}: {one.contract} ({one.way})")
    return FINE if report.passed else FAILED


def _tried(
    backend: str,
    modes: tuple[str, ...],
    devices: tuple[str, ...],
    dtypes: tuple[str, ...],
    quiet: bool,
) -> ConformanceReport:
    """The report on a backend that is tried in this process."""
    from bpbench.conformance import conform

    with contracts_shown(quiet) as progress, contextlib.redirect_stdout(sys.stderr):
        # what the file prints is no result
        return conform(backend, modes=modes, devices=devices, dtypes=dtypes, progress=progress)


def _each_by_itself(
    backend: str, modes: Sequence[str], options: Sequence[str]
) -> ConformanceReport:
    """The report on several modes, each tried in a process of its own: Keras's engines need one.

    Raises:
        Exit: one of the processes ended without a report, for a reason that it has told.
    """
    from bpbench.conformance import ConformanceReport

    environment = with_own_package({"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ})
    documents = []
    for mode in modes:
        command = [sys.executable, "-m", "bpbench", "conform", backend, f"--mode={mode}", "--json"]
        ended = subprocess.run(
            [*command, *options], stdout=subprocess.PIPE, env=environment, check=False
        )
        if ended.returncode not in (FINE, FAILED):
            raise click.exceptions.Exit(ended.returncode)
        documents.append(json.loads(ended.stdout))
    return ConformanceReport.of(backend, documents)
