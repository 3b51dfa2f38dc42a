"""The training step as a user of Keras writes it: ``compile`` and ``fit``, many steps in each call.

``trainer`` knows nothing of bpbench. The classes below let bpbench's worker call it in the place
of its own backend's ``run``: ``experiments/overhead.py``. Sigmoid hidden layers and plain SGD.

The data lie on the device, and ``fit`` is fed the numbers of the rows: fed with the rows themselves
it would need a copy of all the batches. The loss of each step is kept in a weight, for ``fit``
itself gives a mean over all.
"""

from __future__ import annotations

import importlib

from bpbench.backends.keras_backend import KerasBackend, KerasModel

TOGETHER = 4096
"""Steps that ``fit`` runs in one call of what it compiled."""


def trainer(layers, x, y, learning_rate, softmax):
    """A Keras model of Dense layers without activations, to ``fit`` to row numbers of x and y."""
    import keras
    from keras import ops

    class Trainer(keras.Model):
        def __init__(self):
            super().__init__(dtype=layers[0].dtype)
            self.dense = layers
            self.data = [self.constant(array.shape) for array in (x, y)]
            self.kept, self.step = self.constant((TOGETHER,)), self.constant((), "int32")
            self.built = True
            for weight, array in zip(self.data, (x, y), strict=True):
                weight.assign(ops.copy(array))  # on jax fit gives away what its weights hold
            sgd = keras.optimizers.SGD(learning_rate)
            self.compile(sgd, steps_per_execution=TOGETHER)

        def constant(self, shape, dtype=None):
            return self.add_weight(shape=shape, dtype=dtype, initializer="zeros", trainable=False)

        def call(self, rows):
            a = ops.take(self.data[0], rows, axis=0)
            for layer in self.dense[:-1]:
                a = ops.sigmoid(layer(a))
            return self.dense[-1](a)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            y = ops.take(self.data[1], x, axis=0)
            if softmax:
                total = -ops.sum(y * ops.log_softmax(y_pred))
            else:
                total = 0.5 * ops.sum(ops.square(ops.sigmoid(y_pred) - y))
            loss = total / ops.cast(ops.shape(y)[0], y.dtype)
            at, value = ops.reshape(self.step, (1,)), ops.reshape(ops.stop_gradient(loss), (1,))
            self.kept.assign(ops.slice_update(self.kept.value, at, value))
            self.step.assign_add(1)
            return loss

    return Trainer()


def train(model, order, from_tensor_slices=None):
    """Fit one step for each row of ``order``, TOGETHER at most; the losses before each."""
    from keras import ops

    model.step.assign(0)
    if from_tensor_slices is None:
        model.fit(order.reshape(-1), batch_size=order.shape[1], shuffle=False, verbose=0)
    else:
        model.fit(from_tensor_slices(order), shuffle=False, verbose=0)
    return ops.copy(model.kept[: len(order)])


class BareModel(KerasModel):
    """bpbench's model, trained by ``train``."""

    trainer = None

    def run(self, batches, optimizer):
        x, y, order = batches.data.x, batches.data.y, batches.order
        slices = None
        if self.backend.mode == "tensorflow":
            slices = importlib.import_module("tensorflow").data.Dataset.from_tensor_slices
        with self.backend.scope():
            if self.trainer is None or self.held is not batches.data:
                softmax = self.network.output == "softmax"
                self.trainer = trainer(self.layers, x, y, optimizer.learning_rate, softmax)
                self.held = batches.data
            starts = range(0, len(order), TOGETHER)
            losses = [train(self.trainer, order[k : k + TOGETHER], slices) for k in starts]
            return losses[0] if len(losses) == 1 else self.ops.concatenate(losses)


class Jax(KerasBackend):
    """The bare recipe on JAX: ``--backend benchmarks/bare_keras.py:Jax``."""

    name = "bare_keras"
    modes = ("jax",)

    def model(self, network, parameters):
        return BareModel(self, network, parameters)


class TensorFlow(KerasBackend):
    """The bare recipe on TensorFlow: ``--backend benchmarks/bare_keras.py:TensorFlow``."""

    name = "bare_keras"
    modes = ("tensorflow",)

    def model(self, network, parameters):
        return BareModel(self, network, parameters)
