"""Which options do the commands share, and what may each of them be?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from bpbench.activations import ACTIVATIONS
from bpbench.errors import BpbenchError, unknown
from bpbench.execute.options import TIMEOUT, RunOptions
from bpbench.experiment import DTYPES, Experiment, check_backend
from bpbench.losses import LOSSES, completed
from bpbench.network import MLP
from bpbench.registry import BUILT_IN, list_backends, modes_of, split_mode

F = TypeVar("F", bound=Callable[..., Any])


class Name(click.ParamType):  # type: ignore[type-arg]  # generic in new clicks only
    """One of a few names; a wrong one is answered with those allowed and the nearest of them."""

    name = "name"

    def __init__(self, allowed: Iterable[str]) -> None:
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


class Sizes(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers between commas."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return tuple(int(size) for size in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected whole numbers between commas, such as 784,30,10")

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N,N,..."


WHOLE, FROM_1 = click.IntRange(min=0), click.IntRange(min=1)


def options(*declared: Callable[[F], F]) -> Callable[[F], F]:
    """Several options, in the order of the help."""

    def decorated(command: F) -> F:
        for option in reversed(declared):
            command = option(command)
        return command

    return decorated


common = options(
    click.option("--json", "json_", is_flag=True, help="Write one JSON document. [default: text]"),
    click.option("-q", "--quiet", is_flag=True, help="Show no progress. [default: show it]"),
    click.option("-v", "--verbose", is_flag=True, help="Say more on stderr. [default: off]"),
)
"""What every command takes."""


def network(sizes: str, loss: str, output: str) -> Callable[[F], F]:
    """The options that ``described`` makes a network of; the arguments are their defaults."""
    return options(
        click.option("--sizes", type=Sizes(), help=f"Units per layer, inputs first. {sizes}"),
        click.option(
            "--hidden", metavar="NAME[,NAME...]",
            help="Hidden activations: one, or one per hidden layer. [default: sigmoid]",
        ),
        click.option(
            "--output", type=Name(ACTIVATIONS), help=f"Activation of the outputs. {output}"
        ),
        click.option("--loss", type=Name(LOSSES), help=f"Averaged over the samples. {loss}"),
        click.option(
            "--no-bias", is_flag=True, default=None, help="Without biases. [default: with biases]"
        ),
    )  # fmt: skip


def described(sizes: Sequence[int], loss: str, given: dict[str, Any]) -> MLP:
    """The network of the options that were given, taken out of them.

    Args:
        sizes: where none are given.
        loss: where neither loss nor output is given.
        given: by name; what was not given is not there.
    """
    output, loss = completed(given.pop("output", None), given.pop("loss", None), loss)
    names = tuple(given.pop("hidden", "sigmoid").split(","))
    hidden = names[0] if len(names) == 1 else names
    return MLP(given.pop("sizes", sizes), hidden, output, loss, not given.pop("no_bias", False))


where_to_run = options(
    click.option(
        "--backend", "backends", multiple=True, type=BackendName(),
        help="Such as torch, jax:eager or my.py:MyBackend; all is every mode of every backend. "
        "May be repeated. [default: every backend, in its default mode]",
    ),
    click.option(
        "--device", "devices", multiple=True, metavar="[cpu|cuda]",
        help="Where to compute. May be repeated. [default: the experiment's, or cpu]",
    ),
    click.option(
        "--dtype", "dtypes", multiple=True, type=Name(DTYPES),
        help="What to compute in. May be repeated. [default: the experiment's, or float32]",
    ),
    click.option(
        "--threads", type=FROM_1, metavar="N",
        help="Threads for each backend. [default: the experiment's, or 1]",
    ),
    click.option(
        "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
        default=TIMEOUT, show_default=True,
        help="The longest that one answer of a backend may take.",
    ),
)  # fmt: skip
"""What ``run_options`` takes."""


def run_options(
    backends: Sequence[str], devices: Sequence[str], typed: str | None, **others: Any
) -> RunOptions:
    """What the options of ``where_to_run``, and others of a run, ask for.

    Raises:
        UsageError: a device that none of the backends knows.
    """
    named = {split_mode(name)[0] for name in backends} - {"all"} or set(BUILT_IN)
    if named <= BUILT_IN.keys():  # what others know is seen where they run
        known = {device for name in named for device in BUILT_IN[name].devices}
        for device in devices:
            if device not in known:
                raise unknown("device", device, known)
    every = _each_mode(backends)
    return RunOptions(backends=every, devices=devices, command=typed or "", **others)


def required(backends: Sequence[str], experiments: Iterable[Experiment]) -> set[str]:
    """The bare names of the backends that must be there: those that somebody named."""
    names = backends or [name for each in experiments for name in each.backends or ()]
    return {split_mode(name)[0] for name in names} - {"all"}


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
