"""XOR, the example of docs/equations.md: does it learn, and do all backends learn the same?

Not always, and not at once. The network is that of equations (16) to (19): 2-3-1 sigmoids, half
squared error averaged over the four rows, weights and biases from N(0, 1), learning rate 0.1.
After its 10,000 epochs, of the seeds 0 to 999 (NumPy, float64) 60 % had all four outputs on the
right side of 0.5 and none had all of them within 0.1; the median loss was 0.055, where 0.125 is
guessing. Ten times the epochs, or the learning rate 1.0, bring 98 % of the seeds to the right side
and within 0.1; the rest stay where they got stuck.
"""

from bpbench import MLP, SGD, Experiment, datasets

experiment = Experiment(
    name="xor",
    network=MLP(sizes=(2, 3, 1), hidden="sigmoid", output="sigmoid", loss="half_squared_error"),
    data=datasets.xor(),
    optimizer=SGD(learning_rate=0.1),
    epochs=10_000,
    batch_size=4,
    dtype="float64",
    seeds=5,
)

if __name__ == "__main__":
    experiment.main()
