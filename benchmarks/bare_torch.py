"""The training step as an expert writes it in PyTorch: eager, and compiled as a whole.

``train`` and ``Compiled`` know nothing of bpbench. The classes below let bpbench's worker call
them in the place of its own backend's ``run``: ``experiments/overhead.py``. Sigmoid hidden layers
and plain SGD.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from backends.torch_backend import TorchBackend, TorchModel


def loss(W, b, x, y, softmax):
    """Softmax and cross-entropy, or sigmoids and half squared error; the mean over the rows."""
    for w, c in zip(W[:-1], b[:-1], strict=True):
        x = torch.sigmoid(F.linear(x, w, c))
    z = F.linear(x, W[-1], b[-1])
    if softmax:
        return F.cross_entropy(z, y)
    return 0.5 * F.mse_loss(torch.sigmoid(z), y, reduction="sum") / len(y)


def train(W, b, x, y, order, learning_rate, softmax):
    """``backward`` and ``optimizer.step``, one step for each row of ``order``."""
    optimizer = torch.optim.SGD([*W, *b], learning_rate)
    losses = []
    for rows in order:
        optimizer.zero_grad()
        value = loss(W, b, x[rows], y[rows], softmax)
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    return torch.stack(losses)


@torch.compile(fullgraph=True, dynamic=False)
def whole_step(W, b, x, y, rows, learning_rate, softmax):
    """Loss, gradient and update in one compiled function; new tensors come out."""
    (dW, db), value = torch.func.grad_and_value(loss, argnums=(0, 1))(
        W, b, x[rows], y[rows], softmax
    )
    new_W = tuple(p - learning_rate * g for p, g in zip(W, dW, strict=True))
    new_b = tuple(p - learning_rate * g for p, g in zip(b, db, strict=True))
    return new_W, new_b, value


class EagerModel(TorchModel):
    """bpbench's model, trained by ``train``."""

    def run(self, batches, optimizer):
        return train(
            self.W, self.b, batches.data.x, batches.data.y, batches.order,
            optimizer.learning_rate, self.network.output == "softmax",
        )  # fmt: skip


class CompiledModel(TorchModel):
    """bpbench's model, trained by ``whole_step``."""

    @torch.no_grad()
    def run(self, batches, optimizer):
        W, b = self.W, self.b
        x, y, rate = batches.data.x, batches.data.y, optimizer.learning_rate
        softmax = self.network.output == "softmax"
        losses = []
        for rows in batches.order:
            W, b, value = whole_step(W, b, x, y, rows, rate, softmax)
            losses.append(value)
        self.W, self.b = W, b
        return torch.stack(losses)


class Eager(TorchBackend):
    """The bare eager recipe: ``--backend benchmarks/bare_torch.py:Eager``."""

    name = "bare_torch"
    modes = ("eager",)

    def model(self, network, parameters):
        return EagerModel(self, network, parameters)


class Compiled(TorchBackend):
    """The bare compiled recipe: ``--backend benchmarks/bare_torch.py:Compiled``."""

    name = "bare_torch"
    modes = ("compiled",)

    def model(self, network, parameters):
        return CompiledModel(self, network, parameters)
