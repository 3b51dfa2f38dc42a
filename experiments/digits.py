"""Handwritten digits, small and real: how good is the network, and how fast is each backend?

64-32-10 on 1,797 digits of 8 x 8 pixels: 1,197 to train, 300 to validate, 300 to test. Forty
epochs take the test accuracy to about 98 %.
"""

from bpbench import MLP, SGD, Experiment, datasets

experiment = Experiment(
    name="digits",
    network=MLP(sizes=(64, 32, 10), hidden="sigmoid", output="softmax", loss="cross_entropy"),
    data=datasets.digits(),
    optimizer=SGD(learning_rate=1.0),
    epochs=40,
    batch_size=64,
    seeds=3,
    initial="xavier",
)

if __name__ == "__main__":
    experiment.main()
