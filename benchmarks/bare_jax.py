"""The training step as an expert writes it in JAX: one jitted scan over all steps, donated.

``train`` knows nothing of bpbench. The class below lets bpbench's worker call it in the place of
its own backend's ``run``, so that both are timed by the same clock in the same rounds, and judged
by the same truth: ``experiments/overhead.py``. Sigmoid hidden layers and plain SGD.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from bpbench.backends.jax_backend import JaxBackend, JaxModel


def loss(weights, x, y, softmax):
    """Softmax and cross-entropy, or sigmoids and half squared error; the mean over the rows."""
    W, b = weights
    for w, c in zip(W[:-1], b[:-1], strict=True):
        x = jax.nn.sigmoid(x @ w.T + c)
    z = x @ W[-1].T + b[-1]
    if softmax:
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(z), axis=1))
    return 0.5 * jnp.mean(jnp.sum((jax.nn.sigmoid(z) - y) ** 2, axis=1))


@partial(jax.jit, static_argnames="softmax", donate_argnames="weights")
def train(weights, x, y, order, learning_rate, softmax):
    """One step for each row of ``order``: the weights then, and the losses before each."""

    def step(weights, rows):
        value, gradients = jax.value_and_grad(loss)(weights, x[rows], y[rows], softmax)
        return jax.tree.map(lambda p, g: p - learning_rate * g, weights, gradients), value

    return jax.lax.scan(step, weights, order)


class BareModel(JaxModel):
    """bpbench's model, trained by ``train``."""

    def run(self, batches, optimizer):
        self.weights, losses = train(
            self.weights, batches.data.x, batches.data.y, batches.order,
            optimizer.learning_rate, self.network.output == "softmax",
        )  # fmt: skip
        return losses


class Bare(JaxBackend):
    """The bare recipe, for bpbench: ``--backend benchmarks/bare_jax.py:Bare``."""

    name = "bare_jax"
    modes = ("scan",)

    def model(self, network, parameters):
        return BareModel(self, network, parameters)
