"""The training step as an expert writes it in TensorFlow: an XLA while loop over all steps.

``train`` knows nothing of bpbench. The class below lets bpbench's worker call it in the place of
its own backend's ``run``: ``experiments/overhead.py``. Sigmoid hidden layers and plain SGD.
"""

from __future__ import annotations

import tensorflow as tf

from bpbench.backends.tensorflow_backend import TensorFlowBackend, TensorFlowModel


def loss(W, b, x, y, softmax):
    """Softmax and cross-entropy, or sigmoids and half squared error; the mean over the rows."""
    for w, c in zip(W[:-1], b[:-1], strict=True):
        x = tf.sigmoid(tf.matmul(x, w, transpose_b=True) + c)
    z = tf.matmul(x, W[-1], transpose_b=True) + b[-1]
    if softmax:
        return tf.reduce_mean(-tf.reduce_sum(y * tf.nn.log_softmax(z), axis=1))
    return 0.5 * tf.reduce_mean(tf.reduce_sum((tf.sigmoid(z) - y) ** 2, axis=1))


@tf.function(jit_compile=True, autograph=False)
def train(W, b, x, y, order, learning_rate, softmax):
    """One step for each row of ``order``: the weights then, and the losses before each."""
    count = order.shape[0]

    def body(k, losses, W, b):
        rows = order[k]
        with tf.GradientTape() as tape:
            tape.watch((W, b))
            value = loss(W, b, tf.gather(x, rows), tf.gather(y, rows), softmax)
        dW, db = tape.gradient(value, (W, b))
        W = tuple(p - learning_rate * g for p, g in zip(W, dW, strict=True))
        b = tuple(p - learning_rate * g for p, g in zip(b, db, strict=True))
        return k + 1, losses.write(k, value), W, b

    losses = tf.TensorArray(x.dtype, size=count, element_shape=())
    _, losses, W, b = tf.while_loop(lambda k, *_: k < count, body, (tf.constant(0), losses, W, b))
    return W, b, losses.stack()


class BareModel(TensorFlowModel):
    """bpbench's model, trained by ``train``."""

    def run(self, batches, optimizer):
        self.W, self.b, losses = train(
            self.W, self.b, batches.data.x, batches.data.y, batches.order,
            optimizer.learning_rate, self.network.output == "softmax",
        )  # fmt: skip
        return losses


class Bare(TensorFlowBackend):
    """The bare recipe, for bpbench: ``--backend benchmarks/bare_tensorflow.py:Bare``."""

    name = "bare_tensorflow"
    modes = ("function",)

    def __init__(self, mode=None, device="cpu", dtype="float32"):
        super().__init__(mode, device, dtype)

    def model(self, network, parameters):
        return BareModel(self, network, parameters)
