"""``bpbench verify``: is every backend's backpropagation right, layer by layer?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bpbench.activations import find_activation
from bpbench.cli import options as shared
from bpbench.cli import output
from bpbench.cli.options import FROM_1, WHOLE, Name
from bpbench.errors import UsageError
from bpbench.losses import find_loss
from bpbench.network import SCHEMES

if TYPE_CHECKING:
    from bpbench.experiment import Experiment

STEPS = 4
"""Batches of data drawn for a network without an experiment, so that a few steps can be judged."""
RUN = ("backends", "devices", "dtypes", "threads", "timeout")
"""The options that do not describe a network."""


@click.command(
    "verify",
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
@shared.network(
    sizes="[default: 784,30,10]",
    output="[default: the loss's own]",
    loss="[default: the output's own, else cross_entropy]",
)
@click.option("--batch", type=FROM_1, metavar="N", help="Rows of the batch. [default: 32]")
@click.option(
    "--init", type=Name(SCHEMES), help="How the parameters start. [default: scaled_normal]"
)
@click.option("--seed", type=WHOLE, metavar="N", help="Of parameters and data. [default: 0]")
@shared.where_to_run
@shared.common
def command(experiment: str | None, json_: bool, quiet: bool, verbose: bool, **options: Any) -> int:
    """Is every backend's backpropagation right, layer by layer, and its training too?

    Loss, z, a, delta, dW, db and the input gradient of one batch are compared with a truth of
    higher precision. So are a few steps of training. Without an experiment the network is made from
    the options, with random data.
    """
    asked = {name: options.pop(name) for name in RUN}
    given = {name: value for name, value in options.items() if value is not None}
    if experiment is None:
        experiments = [random_experiment(**given)]
    elif given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
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
    how = shared.run_options(typed=None, questions=("verify",), out=None, **asked)
    with shown(quiet, verbose) as progress:
        rows = run(experiments, how, progress)
    output.results(rows, json_)
    return exit_code(rows, shared.required(asked["backends"], experiments))


def random_experiment(
    batch: int = 32, init: str = "scaled_normal", seed: int = 0, **described: Any
) -> Experiment:
    """A network as the options describe it, with random data of ``STEPS`` batches.

    x is standard normal; y is drawn as the loss allows it.
    """
    import numpy as np

    from bpbench.datasets import Dataset, Part
    from bpbench.experiment import Experiment
    from bpbench.optimizers import SGD

    network = shared.described((784, 30, 10), "cross_entropy", described)
    rng = np.random.default_rng(seed)
    rows = STEPS * batch
    x = rng.standard_normal((rows, network.sizes[0]))
    y = find_loss(network.loss).draw(rng, rows, network.sizes[-1], find_activation(network.output))
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
