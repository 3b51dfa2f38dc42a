"""The training step as an expert writes it in PyTorch: eager, by hand, compiled, and unrolled.

``train``, ``Trainer``, ``whole_step`` and ``several_steps`` know nothing of bpbench. The classes
below let bpbench's worker call them in the place of its own backend's ``run``:
``experiments/overhead.py``. Sigmoid hidden layers and plain SGD.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bpbench.backends.torch_backend import TorchBackend, TorchModel

TOGETHER = 16
"""Layers of all the steps of ``several_steps``, which take 10 to 15 s to compile."""
compiled = torch.compile(
    fullgraph=True,
    dynamic=False,
    options={
        "cpp_wrapper": True,
        "guard_filter_fn": torch.compiler.skip_guard_on_globals_unsafe,
    },
)


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


class Trainer:
    """The equations by hand, without autograd: buffers for batches of m rows, ``out=`` everywhere.

    W, b: the parameters, which the steps change in place.
    """

    def __init__(self, W, b, m, softmax):
        def rows(n):
            return torch.empty(m, n, dtype=W[0].dtype)

        self.W, self.b, self.softmax = W, b, softmax
        self.W_T = [w.T for w in W]
        self.x, self.y, self.spare = rows(W[0].shape[1]), rows(len(b[-1])), rows(len(b[-1]))
        self.a, self.delta = [rows(len(c)) for c in b], [rows(len(c)) for c in b]
        self.transposed = [delta.T for delta in self.delta]
        self.flat_y, self.flat_spare = self.y.view(-1), self.spare.view(-1)
        self.m = torch.tensor(m, dtype=W[0].dtype)  # faster to divide by than a number
        self.ones = torch.ones(m, dtype=W[0].dtype)
        self.derivative = torch.ops.aten.sigmoid_backward.grad_input

    @torch.inference_mode()
    def train(self, x, y, order, learning_rate):
        """One step for each row of ``order``; the losses before each."""
        losses = torch.empty(len(order), dtype=x.dtype)
        for rows, loss in zip(order.unbind(), losses.unbind(), strict=True):
            torch.index_select(x, 0, rows, out=self.x)
            torch.index_select(y, 0, rows, out=self.y)
            self.step(-learning_rate, loss)
        return losses

    def step(self, minus_rate, loss):
        below, last = self.x, len(self.W) - 1
        for layer, a in enumerate(self.a):
            torch.addmm(self.b[layer], below, self.W_T[layer], out=a)
            if layer < last or not self.softmax:
                a.sigmoid_()
            below = a
        self.output_error(self.a[last], self.delta[last], loss)
        for layer in range(last, -1, -1):
            delta, transposed = self.delta[layer], self.transposed[layer]
            if layer:
                below = self.a[layer - 1]
                error = torch.mm(delta, self.W[layer], out=self.delta[layer - 1])
                self.derivative(error, below, grad_input=error)
            else:
                below = self.x
            self.W[layer].addmm_(transposed, below, alpha=minus_rate)
            self.b[layer].addmv_(transposed, self.ones, alpha=minus_rate)

    def output_error(self, a, delta, loss):
        """delta of the last layer, from z where it is softmax and else from a; and the loss."""
        if self.softmax:
            torch.log_softmax(a, 1, out=self.spare)
            torch.dot(self.flat_spare, self.flat_y, out=loss).neg_().div_(self.m)
            torch.exp(self.spare, out=delta).sub_(self.y).div_(self.m)
        else:
            torch.sub(a, self.y, out=self.spare)
            torch.dot(self.flat_spare, self.flat_spare, out=loss).mul_(0.5).div_(self.m)
            torch.div(self.spare, self.m, out=delta)
            self.derivative(delta, a, grad_input=delta)


@compiled
def whole_step(W, b, x, y, rows, learning_rate, softmax):
    """Loss, gradient and update in one compiled function; new tensors come out."""
    (dW, db), value = torch.func.grad_and_value(loss, argnums=(0, 1))(
        W, b, x[rows], y[rows], softmax
    )
    new_W = tuple(p - learning_rate * g for p, g in zip(W, dW, strict=True))
    new_b = tuple(p - learning_rate * g for p, g in zip(b, db, strict=True))
    return new_W, new_b, value


@compiled
def several_steps(W, b, x, y, order, learning_rate, softmax):
    """The same for each row of ``order``, unrolled into one compiled function."""
    losses = []
    for k in range(len(order)):
        (dW, db), value = torch.func.grad_and_value(loss, argnums=(0, 1))(
            W, b, x[order[k]], y[order[k]], softmax
        )
        W = tuple(p - learning_rate * g for p, g in zip(W, dW, strict=True))
        b = tuple(p - learning_rate * g for p, g in zip(b, db, strict=True))
        losses.append(value)
    return W, b, torch.stack(losses)


class EagerModel(TorchModel):
    """bpbench's model, trained by ``train``."""

    def run(self, batches, optimizer):
        return train(
            self.W, self.b, batches.data.x, batches.data.y, batches.order,
            optimizer.learning_rate, self.network.output == "softmax",
        )  # fmt: skip


class ManualModel(TorchModel):
    """bpbench's model, trained by ``Trainer``."""

    trainer = None

    def write_parameters(self, parameters):
        super().write_parameters(parameters)
        self.trainer = None

    def run(self, batches, optimizer):
        x, y, order = batches.data.x, batches.data.y, batches.order
        if self.trainer is None or len(self.trainer.x) != order.shape[1]:
            W, b = (tuple(p.detach() for p in each) for each in (self.W, self.b))
            self.trainer = Trainer(W, b, order.shape[1], self.network.output == "softmax")
        return self.trainer.train(x, y, order, optimizer.learning_rate)


class CompiledModel(TorchModel):
    """bpbench's model, trained by ``whole_step``, or by ``several_steps`` and the rest by that."""

    together = 1

    @torch.no_grad()
    def run(self, batches, optimizer):
        W, b, order = self.W, self.b, batches.order
        x, y, rate = batches.data.x, batches.data.y, optimizer.learning_rate
        softmax = self.network.output == "softmax"
        losses, whole = [], len(order) // self.together * self.together
        if self.together > 1:
            for rows in order[:whole].split(self.together) if whole else ():
                W, b, values = several_steps(W, b, x, y, rows, rate, softmax)
                losses.append(values)
            order = order[whole:]
        one_by_one = []
        for rows in order.unbind():
            W, b, value = whole_step(W, b, x, y, rows, rate, softmax)
            one_by_one.append(value)
        if one_by_one:
            losses.append(torch.stack(one_by_one))
        self.W, self.b = W, b
        return losses[0] if len(losses) == 1 else torch.cat(losses)


class UnrolledModel(CompiledModel):
    """bpbench's model, trained by ``several_steps``."""

    @property
    def together(self):
        return max(2, TOGETHER // len(self.W))


class Eager(TorchBackend):
    """The bare eager recipe: ``--backend benchmarks/bare_torch.py:Eager``."""

    name = "bare_torch"
    modes = ("eager",)

    def model(self, network, parameters):
        return EagerModel(self, network, parameters)


class Manual(TorchBackend):
    """The equations by hand: ``--backend benchmarks/bare_torch.py:Manual``."""

    name = "bare_torch"
    modes = ("manual",)

    def model(self, network, parameters):
        return ManualModel(self, network, parameters)


class Compiled(TorchBackend):
    """The bare compiled recipe: ``--backend benchmarks/bare_torch.py:Compiled``."""

    name = "bare_torch"
    modes = ("compiled",)

    def model(self, network, parameters):
        return CompiledModel(self, network, parameters)


class Unrolled(TorchBackend):
    """Several steps compiled together: ``--backend benchmarks/bare_torch.py:Unrolled``."""

    name = "bare_torch"
    modes = ("unrolled",)

    def model(self, network, parameters):
        return UnrolledModel(self, network, parameters)
