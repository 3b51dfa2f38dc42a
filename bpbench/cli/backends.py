"""``bpbench backends``: what is installed, which modes and devices, and how to get the rest."""

from __future__ import annotations

from dataclasses import asdict

import click

from bpbench.cli import output
from bpbench.cli.options import common
from bpbench.registry import list_backends


@click.command(
    "backends",
    epilog="""\b
    Examples:
      bpbench backends
      bpbench backends --json
    """,
)
@common
def command(json_: bool, quiet: bool, verbose: bool) -> None:
    """Which backends are installed, with which modes and devices, and how to get the rest.

    The first mode of each is its default. No framework is imported for this. Whether one can really
    use a device is seen when it runs there.
    """
    backends = list_backends()
    if json_:
        output.document({"backends": [asdict(backend) for backend in backends]})
        return
    from tabulate import tabulate

    rows = [
        (
            backend.name,
            (backend.version or "yes") if backend.available else "missing",
            ", ".join(backend.modes) or "–",
            ", ".join(backend.devices) or "–",
        )
        for backend in backends
    ]
    output.show(tabulate(rows, ("backend", "installed", "modes", "devices"), disable_numparse=True))
    reasons = [backend.reason for backend in backends if backend.reason]
    if reasons:
        output.show("\n" + "\n".join(reasons))
