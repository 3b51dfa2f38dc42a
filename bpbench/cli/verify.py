"""``bpbench verify``: is every backend's backpropagation right, layer by layer?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from bpbench.activations import ACTIVATIONS, find_activation
from bpbench.cli import output
from bpbench.cli.options import Name, Where, common, where_to_run
from bpbench.errors import UsageError
from bpbench.losses import LOSSES, completed, find_loss
from bpbench.network import MLP, SCHEMES

if TYPE_CHECKING:
    from bpbench.experiment import Experiment

STEPS = 4
"""Batches of data drawn for a network without an experiment, so that a few steps can be judged."""


class Sizes(click.ParamType):  # type: ignore[type-arg]  # generic in new clicks only
    """Whole numbers between commas."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return tuple(int(size) for size in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected whole numbers between commas, such as 784,30,10")

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N,N,..."


@click.command(
    "verify",
    short_help="Is every backend's backpropagation right?",
    epilog="""\b
    Examples:
      bpbench verify
      bpbench verify --sizes 784,30,10 --output softmax --loss cross_entropy --batch 32
      bpbench verify --hidden tanh,relu --sizes 8,30,20,3 --dtype float64
      bpbench verify experiments/xor.py --backend torch --backend jax:eager
      bpbench verify --backend my_backend.py:MyBackend --json
      bpbench verify --backend all
    """,
)
@click.argument("experiment", required=False, metavar="[EXPERIMENT.py]")
@click.option("--sizes", type=Sizes(), help="Units per layer, inputs first. [default: 784,30,10]")
@click.option(
    "--hidden", metavar="NAME[,NAME...]",
    help="Hidden activations: one, or one per hidden layer. [default: sigmoid]",
)  # fmt: skip
@click.option("--output", "output_", type=Name(tuple(ACTIVATIONS)), help="[default: softmax]")
@click.option("--loss", type=Name(tuple(LOSSES)), help="[default: the output's own]")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Rows. [default: 32]")
@click.option("--no-bias", is_flag=True, default=None, help="A network without biases.")
@click.option("--init", type=Name(tuple(SCHEMES)), help="[default: scaled_normal]")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="[default: 0]")
@where_to_run
@common
def command(
    experiment: str | None,
    where: Where,
    json_: bool,
    quiet: bool,
    verbose: bool,
    **network: Any,
) -> int:
    """Is every backend's backpropagation right, layer by layer, and its training too?

    Loss, z, a, delta, dW, db and the input gradient of one batch are held against a truth of higher
    precision, and so are a few steps of training. Without an experiment the network is made from
    the options, with random data.
    """
    given = {name: value for name, value in network.items() if value is not None}
    if experiment is None:
        experiments = [random_experiment(**given)]
    elif given:
        names = ", ".join(f"--{name.strip('_').replace('_', '-')}" for name in given)
        raise UsageError(f"verify: {experiment} has its own network; leave out {names}")
    else:
        from bpbench.experiment import load

        experiments = load(experiment)

    from bpbench.cli.exits import exit_code
    from bpbench.cli.progress import shown
    from bpbench.execute import run
    from bpbench.execute.process import workers_can_be_had

    if not quiet and not workers_can_be_had():
        output.note("no worker processes here: all runs in this one, whatever --timeout and "
                    "--threads say")  # fmt: skip
    options = replace(where.options, questions=("verify",), out=None)
    with shown(quiet, verbose) as progress:
        rows = run(experiments, options, progress)
    output.results(rows, json_)
    return exit_code(rows, where.required(experiments))


def random_experiment(
    sizes: tuple[int, ...] = (784, 30, 10),
    hidden: str = "sigmoid",
    output_: str | None = None,
    loss: str | None = None,
    batch: int = 32,
    no_bias: bool = False,
    init: str = "scaled_normal",
    seed: int = 0,
) -> Experiment:
    """A network as the options describe it, with random data of ``STEPS`` batches.

    x is standard normal; y is drawn as the loss allows it.
    """
    import numpy as np

    from bpbench.datasets import Dataset, Part
    from bpbench.experiment import Experiment
    from bpbench.optimizers import SGD

    output_, loss = completed(output_, loss, "cross_entropy")
    names = tuple(hidden.split(","))
    network = MLP(sizes, names[0] if len(names) == 1 else names, output_, loss, not no_bias)

    rng = np.random.default_rng(seed)
    rows = STEPS * batch
    x = rng.standard_normal((rows, sizes[0]))
    y = find_loss(loss).draw(rng, rows, sizes[-1], find_activation(output_))
    return Experiment(
        name="network",
        network=network,
        data=Dataset("random", Part(x, y)),
        optimizer=SGD(learning_rate=0.1),
        epochs=1,
        batch_size=batch,
        seeds=[seed],
        initial=init,
    )
