"""How does the time of a step grow with width, depth and batch, and who overtakes whom?

64 inputs, 10 classes, sigmoid hidden layers, float32. The report fits exponents: with the width a
step of products grows as its square, with depth and batch in proportion; what is lower is what a
step costs whatever its size. All of it takes about ten minutes on two idle cores; another backend
a minute or two more (``--backend keras``), more ``--rounds`` as much more.

    python experiments/scaling.py --rounds 12 --out results/scaling
"""

from speed import random_classes

from bpbench import MLP, SGD, Experiment


def scaling(over: str, values: list[int], sizes: tuple[int, ...]) -> Experiment:
    """The experiment in which one field grows."""
    return Experiment(
        name=f"scaling-{over.partition('_')[0]}",
        network=MLP(sizes=sizes, output="softmax", loss="cross_entropy"),
        data=random_classes(sizes[0], sizes[-1]),
        optimizer=SGD(learning_rate=0.1),
        epochs=1,
        batch_size=64,
        initial="xavier",
        backends=["numpy:fast", "torch:eager", "jax:scan", "tensorflow:function"],
        questions=["speed"],
        vary={over: values},
    )


experiments = [
    scaling("width", [8, 32, 128, 512], (64, 32, 32, 10)),
    scaling("depth", [1, 2, 4, 8], (64, 64, 10)),
    scaling("batch_size", [1, 8, 64, 512], (64, 128, 10)),
]

if __name__ == "__main__":
    experiments[0].main()
