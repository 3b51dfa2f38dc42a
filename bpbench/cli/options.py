"""Which options do the commands share, and what may each of them be?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from bpbench.errors import BpbenchError, unknown
from bpbench.execute.options import TIMEOUT, RunOptions
from bpbench.experiment import DTYPES, Experiment, check_backend
from bpbench.registry import BUILT_IN, list_backends, modes_of, split_mode

F = TypeVar("F", bound=Callable[..., Any])


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


class BackendName(click.ParamType):  # type: ignore[type-arg]
    """A backend that exists, perhaps with a mode; what is not bpbench's own is not imported."""

    name = "backend"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            if value != "all":
                check_backend(str(value))
        except BpbenchError as error:
            self.fail(str(error), param, ctx)
        return str(value)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "NAME[:MODE]"


@dataclass(frozen=True)
class Where:
    """On what the cells are to run, as the options of ``where_to_run`` say.

    Attributes:
        options: of a run, for the command to add its own to.
        named: the bare names of the backends that were asked for one by one.
    """

    options: RunOptions
    named: frozenset[str]

    def required(self, experiments: Iterable[Experiment]) -> set[str]:
        """The bare names of the backends that must be there: those that somebody named."""
        if self.options.backends is not None:
            return set(self.named)
        return {split_mode(name)[0] for each in experiments for name in each.backends or ()}


def common(command: F) -> F:
    """``--json``, ``-q`` and ``-v``, which every command takes."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Say more on stderr."),
        click.option("-q", "--quiet", is_flag=True, help="No progress on stderr."),
        click.option("--json", "json_", is_flag=True, help="One JSON document on stdout."),
    ):
        command = option(command)
    return command


def where_to_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--backend``, ``--device``, ``--dtype``, ``--threads`` and ``--timeout``, as ``where``."""

    @functools.wraps(command)
    def with_where(
        *args: Any,
        backends: tuple[str, ...],
        devices: tuple[str, ...],
        dtypes: tuple[str, ...],
        threads: int | None,
        timeout: float,
        **others: Any,
    ) -> Any:
        named = frozenset(split_mode(name)[0] for name in backends) - {"all"}
        _check_devices(devices, named or frozenset(BUILT_IN))
        options = RunOptions(
            backends=_each_mode(backends) or None,
            devices=devices or None,
            dtypes=dtypes or None,
            threads=threads,
            timeout=timeout,
        )
        return command(*args, where=Where(options, named), **others)

    decorated: Callable[..., Any] = with_where
    for option in (
        click.option(
            "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
            default=TIMEOUT, show_default=True,
            help="The longest that one answer of a backend may take.",
        ),
        click.option(
            "--threads", type=click.IntRange(min=1), metavar="N", help="Threads for each backend.",
        ),
        click.option(
            "--dtype", "dtypes", multiple=True, type=Name(DTYPES), help="May be repeated.",
        ),
        click.option(
            "--device", "devices", multiple=True, metavar="[cpu|cuda]", help="May be repeated.",
        ),
        click.option(
            "--backend", "backends", multiple=True, type=BackendName(),
            help="Such as torch, jax:eager or my.py:MyBackend; all is every mode of every backend. "
            "May be repeated. [default: every backend, in its default mode]",
        ),
    ):  # fmt: skip
        decorated = option(decorated)
    return decorated


def _each_mode(names: Sequence[str]) -> list[str]:
    """The backends named, each once; "all" is every mode of every backend that is known."""
    found: dict[str, None] = {}
    for name in names:
        if name != "all":
            found[name] = None
            continue
        for info in list_backends():
            modes = modes_of(info.name) if info.name in BUILT_IN else info.modes
            found.update(dict.fromkeys(f"{info.name}:{mode}" for mode in modes))
    return list(found)


def _check_devices(devices: Sequence[str], backends: frozenset[str]) -> None:
    """Raise UsageError for a device that none of these backends knows.

    What backends of other packages and files know is found out where they run.
    """
    if not backends <= BUILT_IN.keys():
        return
    known = {device for name in backends for device in BUILT_IN[name].devices}
    for device in devices:
        if device not in known:
            raise unknown("device", device, known)
