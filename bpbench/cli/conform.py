"""``bpbench conform``: does a backend keep all that the interface promises?"""

from __future__ import annotations

import contextlib
import sys

import click

from bpbench.cli import output
from bpbench.cli.exits import FAILED, FINE
from bpbench.cli.options import BackendName, Name, common


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
    from bpbench.conformance import conform

    with contextlib.redirect_stdout(sys.stderr):  # what the file prints is no result
        report = conform(backend, modes=modes, devices=devices, dtypes=dtypes)
    if json_:
        output.document(report.as_dict())
        return FINE if report.passed else FAILED
    output.show(str(report))
    if verbose:
        for one in report.tried:
            output.note(f"{'broken' if one.faults else 'kept'}: {one.promise} ({one.way})")
    return FINE if report.passed else FAILED
