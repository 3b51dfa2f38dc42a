"""``bpbench check``: are the gradients of someone's own function right, and if not, why?"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from bpbench.cli import output
from bpbench.cli.exits import FAILED, FINE
from bpbench.cli.options import WHOLE, Name, common, described, network, options
from bpbench.errors import UsageError, unknown
from bpbench.experiment import DTYPES
from bpbench.network import MLP
from bpbench.verify.arguments import LABELS, SAMPLES, WEIGHTS

NAMES = (
    "my_gradients", "gradients", "gradient", "compute_gradients", "backpropagate", "backprop",
    "back_propagation", "backpropagation", "backward", "backward_pass", "loss_and_gradients",
    "loss_and_grads", "grads", "grad",
)  # fmt: skip
"""What a function of gradients is called, the likeliest first, where none is named."""
SIZES = (4, 3, 2)
RECOGNISED = "[default: recognised]"
HOW = ("weights", "samples", "labels", "l2", "dtype", "seed")
"""The options that do not describe a network."""


@click.command(
    "check",
    epilog="""\b
    Examples:
      bpbench check my_network.py
      bpbench check my_network.py:backward --sizes 784,30,10
      bpbench check net.py --sizes 8,16,3 --hidden relu --output softmax --loss cross_entropy
      bpbench check net.py --sizes 2,3,1 --weights in_out --samples columns --json

    \b
    The function is my_gradients(W, b, x, y) -> (dW, db) or (loss, dW, db). Without :FUNCTION, the
    first of these names that the file has: my_gradients, gradients, backward, backprop, ...
    The file may hold network = bpbench.MLP(...) instead of the options.
    """,
)
@click.argument("file", metavar="FILE.py[:FUNCTION]")
@network(
    sizes="[default: 4,3,2]",
    output="[default: the loss's own; sigmoid for half_squared_error]",
    loss="[default: half_squared_error; cross_entropy after softmax]",
)
@options(
    click.option(
        "--l2", type=click.FloatRange(min=0), default=0.0, show_default=True, metavar="NUMBER",
        help="Weight decay: 0.5 * l2 * sum of W^2 is part of the loss.",
    ),
    click.option("--weights", type=Name(WEIGHTS), help=f"How W lies. {RECOGNISED}"),
    click.option("--samples", type=Name(SAMPLES), help=f"How x and y lie. {RECOGNISED}"),
    click.option("--labels", type=Name(LABELS), help=f"What y holds. {RECOGNISED}"),
    click.option(
        "--dtype", type=Name(DTYPES), default="float64", show_default=True,
        help="What the function computes in.",
    ),
    click.option(
        "--seed", type=WHOLE, default=0, show_default=True, metavar="N",
        help="Of the parameters and inputs that it is given.",
    ),
)  # fmt: skip
@common
def command(file: str, json_: bool, quiet: bool, verbose: bool, **given: Any) -> int:
    """Are your own gradients right, and if not, in which layer and why?

    The function is called on its own sizes and on small networks that tell mistakes apart. Its
    layout of weights and samples is recognised.
    """
    from bpbench.verify.check import check

    with contextlib.redirect_stdout(sys.stderr):  # what the file prints is no result
        module, function = load_function(file)
        how = {name: given.pop(name) for name in HOW}
        meant, chosen = network_of(module, given)
        if not chosen and not quiet:
            output.note(
                f"no network was described, so it is {meant} "
                "(--sizes, --hidden, --output, --loss, or network = bpbench.MLP(...) in the file)"
            )
        report = check(meant, function, **how)
    if json_:
        output.document(report.as_dict())
    else:
        output.show(str(report))
    return FINE if report.verdict == "right" else FAILED


def load_function(name: str) -> tuple[ModuleType, Callable[..., Any]]:
    """The module and the function of "file.py:function", or of "file.py" where one is likely.

    Raises:
        UsageError: no such file or function, or several that might be meant.
    """
    from bpbench.registry import load_file

    path_text, _, wanted = name.partition(".py:")
    path = Path(path_text + ".py" if wanted else name)
    if not path.is_file():
        raise UsageError(f"check: there is no file {path}")
    module = load_file(path)
    functions = {
        key: value
        for key, value in vars(module).items()
        if callable(value) and not isinstance(value, type) and not key.startswith("_")
    }
    if wanted:
        if wanted not in functions:
            raise unknown(f"check: function of {path}", wanted, functions)
        return module, functions[wanted]
    likely = [key for key in NAMES if key in functions]
    own = [key for key, f in functions.items() if getattr(f, "__module__", "") == module.__name__]
    if not likely and len(own) == 1:
        likely = own
    if not likely:
        raise UsageError(
            f"check: {path} defines {', '.join(own) or 'no function'}; name the one you mean, "
            f"such as {path}:{own[0] if own else 'my_gradients'}"
        )
    return module, functions[likely[0]]


def network_of(module: ModuleType, options: dict[str, Any]) -> tuple[MLP, bool]:
    """The network of the options, or the file's own, or a small one; and whether it was chosen."""
    given = {name: value for name, value in options.items() if value is not None}
    own = getattr(module, "network", None)
    if not given and isinstance(own, MLP):
        return own, True
    chosen = bool(given)
    return described(SIZES, "half_squared_error", given), chosen
