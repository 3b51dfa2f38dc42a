"""``bpbench conform``: does a backend keep the contracts of the interface?"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from bpbench.cli import output
from bpbench.cli.exits import FAILED, FINE
from bpbench.cli.options import BackendName, Name, common, options
from bpbench.cli.progress import contracts_shown
from bpbench.execute.environment import with_own_package
from bpbench.experiment import DTYPES
from bpbench.registry import modes_of, split_mode

if TYPE_CHECKING:
    from bpbench.conformance import ConformanceReport


@click.command(
    "conform",
    epilog="""\b
    Examples:
      bpbench conform my_backend.py:MyBackend
      bpbench conform my_backend.py:MyBackend --mode fast --dtype float64
      bpbench conform torch:eager --json
    """,
)
@click.argument("backend", type=BackendName())
@options(
    click.option(
        "--mode", "modes", multiple=True, metavar="NAME",
        help="Which mode to try. May be repeated. [default: all]",
    ),
    click.option(
        "--device", "devices", multiple=True, type=Name(("cpu", "cuda")),
        help="Where to compute. May be repeated. [default: cpu]",
    ),
    click.option(
        "--dtype", "dtypes", multiple=True, type=Name(DTYPES),
        help="What to compute in. May be repeated. [default: all that the backend has]",
    ),
)  # fmt: skip
@common
def command(
    backend: str, modes: tuple[str, ...], json_: bool, quiet: bool, verbose: bool, **where: Any
) -> int:
    """Does a backend keep the contracts of the interface?

    Its gradients and its training by every optimizer are compared with the truth. The arrays that
    it returns must be the caller's own, and what was passed in must not change. What is broken is
    named.
    """
    several = modes or (modes_of(backend) if split_mode(backend)[1] is None else ())
    if len(several) > 1:
        report = _each_by_itself(backend, several, where, quiet)
    else:
        from bpbench.conformance import conform

        with contracts_shown(quiet) as progress, contextlib.redirect_stdout(sys.stderr):
            # what the file prints is no result
            report = conform(backend, modes=modes, progress=progress, **where)
    if json_:
        output.document(report.as_dict())
    else:
        output.show(str(report))
        for one in report.tried if verbose else ():
            output.note(f"{'broken' if one.faults else 'kept'}: {one.contract} ({one.way})")
    return FINE if report.passed else FAILED


def _each_by_itself(
    backend: str, modes: Sequence[str], where: Mapping[str, Sequence[str]], quiet: bool
) -> ConformanceReport:
    """The report on several modes, each tried in a process of its own: Keras's engines need one.

    Raises:
        Exit: one of the processes ended without a report, for a reason that it has told.
    """
    from bpbench.conformance import ConformanceReport

    environment = with_own_package({"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ})
    given = [f"--device={name}" for name in where["devices"]]
    given += [f"--dtype={name}" for name in where["dtypes"]] + ["-q"] * quiet
    documents = []
    for mode in modes:
        command = [sys.executable, "-m", "bpbench", "conform", backend, f"--mode={mode}", "--json"]
        ended = subprocess.run(
            [*command, *given], stdout=subprocess.PIPE, env=environment, check=False
        )
        if ended.returncode not in (FINE, FAILED):
            raise click.exceptions.Exit(ended.returncode)
        documents.append(json.loads(ended.stdout))
    return ConformanceReport.of(backend, documents)
