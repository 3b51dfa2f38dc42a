"""Which options do the commands share, and what may each of them be?"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from bpbench.errors import BpbenchError, UsageError, unknown
from bpbench.registry import BUILT_IN, ENTRY_POINTS, list_backends, modes_of, split_mode

F = TypeVar("F", bound=Callable[..., Any])

DTYPES = ("float32", "float64")
DEVICES = ("cpu", "cuda")


class Name(click.ParamType):  # type: ignore[type-arg]  # generic in new clicks only
    """One of a few names; a wrong one is answered with those allowed and the nearest of them."""

    name = "name"

    def __init__(self, allowed: Sequence[str]) -> None:
        self.allowed = tuple(allowed)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.allowed:
            subject = param.opts[-1].lstrip("-") if param else "name"
            self.fail(str(unknown(subject, value, self.allowed)), param, ctx)
        return str(value)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self.allowed)}]"


class BackendName(click.ParamType):  # type: ignore[type-arg]  # generic in new clicks only
    """A backend that exists, perhaps with a mode; what is not bpbench's own is not imported."""

    name = "backend"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            check_backend(str(value))
        except BpbenchError as error:
            self.fail(str(error), param, ctx)
        return str(value)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "NAME[:MODE]"


def check_backend(name: str) -> None:
    """Raise UsageError for a backend, or a mode of a built-in one, that does not exist.

    Backends of other packages and files are imported only where they run, in a process of their
    own, so that their classes and modes are checked there.
    """
    bare, mode = split_mode(name)
    if name == "all":
        return
    if bare.endswith(".py"):
        raise UsageError(f"backend {name!r} names no class; expected {bare}:YourBackend")
    if ".py:" in bare:
        path = bare.rpartition(":")[0]
        if not Path(path).is_file():
            raise UsageError(f"backend {name!r}: there is no file {path}")
        return
    names = {*BUILT_IN, *importlib.metadata.entry_points(group=ENTRY_POINTS).names, "all"}
    if bare not in names:
        raise unknown("backend", bare, names)
    if mode is not None and bare in BUILT_IN and mode not in modes_of(bare):
        raise unknown(f"backend {bare!r}: mode", mode, modes_of(bare))


def chosen_backends(names: Sequence[str]) -> list[str] | None:
    """What ``--backend`` asks for, each once: None where nothing was named.

    "all" is every mode of every backend that is installed or known.
    """
    found: dict[str, None] = {}
    for name in names:
        if name != "all":
            found[name] = None
            continue
        for info in list_backends():
            modes = info.modes or (modes_of(info.name) if info.name in BUILT_IN else ())
            found.update(dict.fromkeys(f"{info.name}:{mode}" for mode in modes))
    return list(found) or None


def named_backends(names: Sequence[str]) -> set[str]:
    """The bare names of the backends that were asked for one by one, and so must be there."""
    return {split_mode(name)[0] for name in names} - {"all"}


def common(command: F) -> F:
    """``--json``, ``-q`` and ``-v``, which every command takes."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Say more on stderr."),
        click.option("-q", "--quiet", is_flag=True, help="No progress on stderr."),
        click.option("--json", "json_", is_flag=True, help="One JSON document on stdout."),
    ):
        command = option(command)
    return command


def where_to_run(command: F) -> F:
    """``--backend``, ``--device``, ``--dtype``, ``--threads`` and ``--timeout``."""
    for option in (
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            help="The longest that one answer of a backend may take.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            metavar="N",
            help="Threads for each backend.",
        ),
        click.option(
            "--dtype",
            "dtypes",
            multiple=True,
            type=Name(DTYPES),
            help="May be repeated.",
        ),
        click.option(
            "--device",
            "devices",
            multiple=True,
            type=Name(DEVICES),
            help="May be repeated.",
        ),
        click.option(
            "--backend",
            "backends",
            multiple=True,
            type=BackendName(),
            help="Such as torch, jax:eager or my.py:MyBackend; all is every mode of every backend. "
            "May be repeated. [default: every backend, in its default mode]",
        ),
    ):
        command = option(command)
    return command
