"""How fast is a training step, from XOR to two layers of 1,024, in every mode of every backend?

Six workloads, a to f, each an experiment of its own, on one thread and on two:

    a  2-3-1, half squared error, batches of 4, float64: XOR, where calls cost all
    b  64-32-10, batches of 64: what fits the smallest cache
    c  784-30-10, batches of 10: the network of Nielsen's book
    d  784-256-256-10, batches of 128
    e  784-1024-1024-10, batches of 512: where matrix products cost all
    f  64, sixteen layers of 128, 10, batches of 128: deep and narrow

All but a in float32 with softmax and cross-entropy; sigmoid hidden layers, plain SGD. The data are
random but for XOR's: the time of a step does not depend on them.

All of it takes an hour. ``--backend jax --backend numpy:fast --threads 1`` takes some minutes.
"""

import numpy as np

from bpbench import MLP, SGD, Experiment, Parameters, datasets, initial_parameters
from bpbench.datasets import Dataset, Part
from bpbench.measure.machine import usable_cores
from bpbench.registry import BUILT_IN

NETWORKS = {
    "a": ((2, 3, 1), 4),
    "b": ((64, 32, 10), 64),
    "c": ((784, 30, 10), 10),
    "d": ((784, 256, 256, 10), 128),
    "e": ((784, 1024, 1024, 10), 512),
    "f": ((64, *[128] * 16, 10), 128),
}
"""Sizes and batch size of every workload."""
ROWS = 2048
EVERY_MODE = [f"{name}:{mode}" for name, entry in BUILT_IN.items() for mode in entry.targets]
ONE_AND_TWO = [threads for threads in (1, 2) if threads <= len(usable_cores())]


def random_classes(inputs: int, classes: int) -> Dataset:
    """ROWS rows of random inputs and classes."""
    rng = np.random.default_rng(0)
    y = np.eye(classes)[rng.integers(classes, size=ROWS)]
    return Dataset(f"random {inputs}-{classes}", Part(rng.random((ROWS, inputs)), y))


def for_sigmoids(network: MLP, seed: int) -> Parameters:
    """Glorot's initial weights for the logistic sigmoid: four times those for tanh.

    Through sixteen layers the others let the error vanish, and no training could be judged.
    """
    drawn = initial_parameters(network, seed, "xavier")
    return Parameters(tuple(4 * W for W in drawn.W), drawn.b)


def workload(letter: str, **changes: object) -> Experiment:
    """One of the six workloads; ``changes`` replace fields of the experiment."""
    sizes, batch_size = NETWORKS[letter]
    classes = {"output": "softmax", "loss": "cross_entropy"} if letter != "a" else {}
    fields = {
        "name": f"speed-{letter}",
        "network": MLP(sizes=sizes, **classes),
        "data": random_classes(sizes[0], sizes[-1]) if classes else datasets.xor(),
        "optimizer": SGD(learning_rate=0.1),
        "epochs": 1,
        "batch_size": batch_size,
        "dtype": "float32" if classes else "float64",
        "initial": for_sigmoids,
        "backends": EVERY_MODE,
        "threads": ONE_AND_TWO,
        "questions": ["speed"],
    }
    return Experiment(**{**fields, **changes})


experiments = [workload(letter) for letter in NETWORKS]

if __name__ == "__main__":
    experiments[0].main()
