"""What can be asked of bpbench at a shell? The group of commands, and how each of them ends.

A command is a file of this folder, named as the command, that holds a ``click`` command called
``command``. It is imported when it is asked for, and what it needs (pandas, scipy, ...) is imported
when it runs, so that ``bpbench --help`` starts at once.
"""

from __future__ import annotations

import importlib
import io
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from bpbench import __version__
from bpbench.cli.exits import INTERRUPTED, MISSING, USAGE
from bpbench.errors import BpbenchError, MissingBackend, unknown

COMMANDS = {
    "backends": "What is installed, and how to get the rest.",
    "verify": "Is every backend's backpropagation right?",
    "run": "Verify, time and train an experiment.",
    "report": "Make a report from result files.",
    "compare": "Compare the timings of two runs.",
    "check": "Are your own gradients right, and if not, why?",
    "conform": "Does your backend keep the contracts of the interface?",
}
"""The commands in the order of the help, which imports none of them."""


class Commands(click.Group):
    """A group that imports a command when it is asked for, and ends as exits.py says."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"bpbench.cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(str(unknown("command", args[0], COMMANDS)), ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> NoReturn:
        try:
            code = super().invoke(ctx)
        except KeyboardInterrupt:
            goes_on = ctx.invoked_subcommand == "run"
            hint = "; the same command goes on where it stopped" if goes_on else ""
            raise Ended(f"interrupted{hint}", INTERRUPTED) from None
        except BpbenchError as error:
            code = MISSING if isinstance(error, MissingBackend) else USAGE
            raise Ended(str(error), code) from error
        ctx.exit(int(code or 0))


class Ended(click.ClickException):
    """The end of a command: one message on stderr and an exit code of its own."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
    Examples:
      bpbench backends
      bpbench verify --sizes 784,30,10 --output softmax --loss cross_entropy
      bpbench run experiments/xor.py
      bpbench report results/ --output report.md

    \b
    Exit codes:
      0 fine · 1 a gradient or a gate failed · 2 usage · 3 a cell crashed or timed out
      4 a required backend is missing · 130 interrupted
    """,
)
@click.version_option(__version__, "-V", "--version", message="bpbench %(version)s")
def commands() -> None:
    """Are a network's gradients right, how fast are they, and do the frameworks learn the same?"""


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command line (``sys.argv`` where no arguments are given) and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no σ shows ? for it
    typed = sys.argv[1:] if arguments is None else arguments
    commands.main(typed, prog_name="bpbench", obj=shlex.join(["bpbench", *typed]))
