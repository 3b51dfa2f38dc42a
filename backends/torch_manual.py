"""The equations in PyTorch's tensors, without autograd: what autograd costs is the
difference to the other modes.

Every buffer is made once for a batch size; products, activations and their derivatives write into
them (``out=``), and plain gradient descent never forms dW: ``addmm_`` adds the product to W.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bpbench.backend import Backend, Backpropagation, Gradients, Model
from bpbench.errors import Unsupported
from bpbench.network import LEAKY_RELU_SLOPE, MLP, Array, Parameters
from bpbench.optimizers import SGD, Adam, Optimizer, RMSProp

aten = torch.ops.aten


# What is to be written where is bound to it once: the call is then all that a step pays for.

Call = Callable[[], Any]

Write = Callable[[Tensor, Tensor], Any]
Turn = Callable[[Tensor, Tensor, Tensor], Any]


class Activation(NamedTuple):
    """One activation, of tensors (m, n_l).

    Attributes:
        activate: (z, a): what writes f(z) into a.
        times_derivative: (e, z, a): what turns the error e, dL/da, into dL/dz in place.
        in_place: whether a may be z itself, which then no derivative needs.
    """

    activate: Write
    times_derivative: Turn
    in_place: bool = False


ACTIVATIONS = {
    "identity": Activation(
        lambda z, a: partial(a.copy_, z),
        lambda e, z, a: lambda: e,
    ),
    "sigmoid": Activation(
        lambda z, a: z.sigmoid_ if a is z else partial(torch.sigmoid, z, out=a),
        lambda e, z, a: partial(aten.sigmoid_backward.grad_input, e, a, grad_input=e),
        in_place=True,
    ),
    "tanh": Activation(
        lambda z, a: z.tanh_ if a is z else partial(torch.tanh, z, out=a),
        lambda e, z, a: partial(aten.tanh_backward.grad_input, e, a, grad_input=e),
        in_place=True,
    ),
    "relu": Activation(
        lambda z, a: partial(torch.clamp_min, z, 0, out=a),
        lambda e, z, a: partial(aten.threshold_backward.grad_input, e, z, 0, grad_input=e),
    ),
    "leaky_relu": Activation(
        lambda z, a: partial(aten.leaky_relu.out, z, LEAKY_RELU_SLOPE, out=a),
        lambda e, z, a: partial(
            aten.leaky_relu_backward.grad_input, e, z, LEAKY_RELU_SLOPE, False, grad_input=e
        ),
    ),
    "elu": Activation(
        lambda z, a: partial(aten.elu.out, z, out=a),
        lambda e, z, a: partial(aten.elu_backward.grad_input, e, 1, 1, 1, False, z, grad_input=e),
    ),
    "softplus": Activation(
        # a threshold of 50: the default takes it for z from 20 on
        lambda z, a: partial(aten.softplus.out, z, 1, 50, out=a),
        lambda e, z, a: partial(aten.softplus_backward.grad_input, e, z, 1, 50, grad_input=e),
    ),
    "gelu": Activation(
        lambda z, a: partial(aten.gelu.out, z, out=a),
        lambda e, z, a: partial(aten.gelu_backward.grad_input, e, z, grad_input=e),
    ),
    "silu": Activation(
        lambda z, a: partial(aten.silu.out, z, out=a),
        lambda e, z, a: partial(aten.silu_backward.grad_input, e, z, grad_input=e),
    ),
    "softmax": Activation(
        lambda z, a: partial(torch.softmax, z, 1, out=a),
        lambda e, z, a: lambda: e.sub_((e * a).sum(dim=1, keepdim=True)).mul_(a),
    ),
}


@dataclass
class Layer:
    """What a pass over m rows writes into: z, a and delta, (m, n_l) each; ``transposed`` is
    delta^T, and ``below`` the a of the layer below, or the batch."""

    below: Tensor
    z: Tensor
    a: Tensor
    delta: Tensor
    transposed: Tensor
    activate: Call
    times_derivative: Call


@dataclass
class Buffers:
    """The batch, its layers from the first to the last, and ``spare``, which is like the last z.

    m is a tensor (to divide by a number takes three times as long); m ones sum over the rows.
    """

    x: Tensor
    y: Tensor
    layers: list[Layer]
    spare: Tensor
    m: Tensor
    ones: Tensor

    def __post_init__(self) -> None:
        self.top = self.layers[-1]
        self.flat_y, self.flat_spare = self.y.view(-1), self.spare.view(-1)


class Loss(NamedTuple):
    """One loss.

    Attributes:
        total: (buffers, loss): writes the sum over the rows into ``loss``, ().
        output_error: (buffers, one): writes delta^(L), after ``total``; ``one`` says whether each
            row of y is known to sum to 1.
        of_logits: whether it needs the last z, whose place a must not take.
        activate: (z, a, spare): what writes the last a in the place of the activation's own way,
            where the loss needs more than a.
    """

    total: Callable[[Buffers, Tensor], Any]
    output_error: Callable[[Buffers, bool], Any]
    of_logits: bool
    activate: Turn | None = None


def squared_total(made: Buffers, loss: Tensor) -> None:
    """sum (a - y)^2 / 2; a - y stays in ``spare``."""
    torch.sub(made.top.a, made.y, out=made.spare)
    torch.dot(made.flat_spare, made.flat_spare, out=loss).mul_(0.5)


def squared_error(made: Buffers, one: bool) -> None:
    torch.div(made.spare, made.m, out=made.top.delta)
    made.top.times_derivative()


def binary_total(made: Buffers, loss: Tensor) -> None:
    # reduction 2: the sum
    loss.copy_(torch.binary_cross_entropy_with_logits(made.top.z, made.y, reduction=2))


def binary_error(made: Buffers, one: bool) -> None:
    torch.sub(made.top.a, made.y, out=made.top.delta).div_(made.m)


def cross_entropy_total(made: Buffers, loss: Tensor) -> None:
    """-sum y log a, with log a in ``spare``."""
    torch.dot(made.flat_spare, made.flat_y, out=loss).neg_()


def cross_entropy_error(made: Buffers, one: bool) -> None:
    top, y, a = made.top, made.y, made.top.a
    if not one:
        a = torch.mul(a, y.sum(dim=1, keepdim=True), out=top.delta)
    torch.sub(a, y, out=top.delta).div_(made.m)


LOSSES = {
    "half_squared_error": Loss(squared_total, squared_error, of_logits=False),
    "binary_cross_entropy": Loss(binary_total, binary_error, of_logits=True),
    "cross_entropy": Loss(
        cross_entropy_total,
        cross_entropy_error,
        of_logits=True,
        activate=lambda z, a, spare: lambda: torch.exp(torch.log_softmax(z, 1, out=spare), out=a),
    ),
}


def sgd(o: SGD, p: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int) -> None:
    v.mul_(o.momentum).add_(g)
    p.sub_(g.add_(v, alpha=o.momentum) if o.nesterov else v, alpha=o.learning_rate)


def rmsprop(o: RMSProp, p: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int) -> None:
    v.mul_(o.decay).addcmul_(g, g, value=1 - o.decay)
    p.addcdiv_(g, v.sqrt().add_(o.epsilon), value=-o.learning_rate)


def adam(o: Adam, p: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int) -> None:
    m.mul_(o.beta1).add_(g, alpha=1 - o.beta1)
    v.mul_(o.beta2).addcmul_(g, g, value=1 - o.beta2)
    root = (v / (1 - o.beta2**t)).sqrt_().add_(o.epsilon)
    p.addcdiv_(m, root, value=-o.learning_rate / (1 - o.beta1**t))


OPTIMIZERS: dict[str, Callable[..., None]] = {"SGD": sgd, "RMSProp": rmsprop, "Adam": adam}
"""(optimizer, p, g, m, v, t): moves p, m and v in place; g is used up."""


class ManualTorchModel(Model):
    """The parameters, which every step changes in place, and buffers for each batch size."""

    backend: TorchManualBackend

    def __init__(self, backend: TorchManualBackend, network: MLP, parameters: Parameters) -> None:
        self._buffers: dict[tuple[int, bool], Buffers] = {}
        self.dtype = getattr(torch, backend.dtype)
        self._threads = torch.get_num_threads()
        self.loss = LOSSES[network.loss]
        super().__init__(backend, network, parameters)

    def upload(self, array: Array) -> Tensor:
        return torch.tensor(array, device=self.backend.device)

    def download(self, array: Tensor) -> Array:
        return array.cpu().numpy().copy()

    def synchronize(self) -> None:
        if self.backend.device == "cuda":
            torch.cuda.synchronize()

    def write_parameters(self, parameters: Parameters) -> None:
        self.W = tuple(map(self.upload, parameters.W))
        self.b = tuple(map(self.upload, parameters.b))

    def read_parameters(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return self.W, self.b

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        made = self._made(len(x))
        made.x.copy_(x)
        for call in self._forward(made):
            call()
        return made.top.a

    @torch.inference_mode()
    def differentiate(
        self, x: Tensor, y: Tensor | None, cotangent: Tensor | None, l2: float
    ) -> Backpropagation[Tensor]:
        made, loss = self._made(len(x)), None
        layers, top = made.layers, made.top
        made.x.copy_(x)
        for call in self._forward(made):
            call()
        if y is not None:
            made.y.copy_(y)
            loss = self._loss(made, l2, torch.empty((), dtype=x.dtype, device=x.device))
            self.loss.output_error(made, False)  # equation (6)
        else:
            top.delta.copy_(cotangent)
            top.times_derivative()
        for index in range(self.network.layers - 1, 0, -1):
            for call in self._hidden_error(made, index):
                call()
        dW = [each.transposed @ each.below for each in layers]
        dW = [g.add_(W, alpha=l2) for g, W in zip(dW, self.W, strict=True)]
        db = [each.delta.sum(0) for each in layers] if self.b else []
        return Backpropagation(
            loss=loss,
            z=tuple(each.z for each in layers),
            a=tuple(each.a for each in layers),
            delta=tuple(each.delta for each in layers),
            gradients=Gradients(tuple(dW), tuple(db)),
            input_gradient=layers[0].delta @ self.W[0],
        )

    def start(self, optimizer: Optimizer) -> None:
        self.move = self.backend.formula("optimizer", optimizer.name, OPTIMIZERS)
        tensors = (*self.W, *self.b)
        self.m = [torch.zeros_like(p) for p in tensors]
        self.v = [torch.zeros_like(p) for p in tensors]
        self.t = 0

    @torch.inference_mode()
    def steps(self, x: Tensor, y: Tensor, order: Tensor, optimizer: Optimizer) -> Tensor:
        made = self._made(order.shape[1], in_place=True)
        losses = torch.empty(len(order), dtype=x.dtype, device=x.device)
        one = bool((y.sum(dim=1) == 1).all())
        forward, backward = self._forward(made), self._backward(made, optimizer)
        for rows, loss in zip(order.unbind(), losses.unbind(), strict=True):
            torch.index_select(x, 0, rows, out=made.x)
            torch.index_select(y, 0, rows, out=made.y)
            for call in forward:
                call()
            self._loss(made, optimizer.l2, loss)
            self.loss.output_error(made, one)
            self.t += 1
            for call in backward:
                call()
        return losses

    # ── Equations (1) to (9) ───────────────────────────────────────────────────────────────────

    def _made(self, m: int, in_place: bool = False) -> Buffers:
        """The buffers for m rows.

        Args:
            in_place: whether a may take the place of a z that no step needs.
        """
        if (m, in_place) in self._buffers:
            return self._buffers[m, in_place]
        kind: dict[str, Any] = {"dtype": self.dtype, "device": self.backend.device}
        x, *z = (torch.empty(m, n, **kind) for n in self.network.sizes)
        y, spare = torch.empty_like(z[-1]), torch.empty_like(z[-1])
        layers: list[Layer] = []
        for each, name in zip(z, self.network.activations, strict=True):
            f = ACTIVATIONS[name]
            needed = each is z[-1] and self.loss.of_logits
            a = each if in_place and f.in_place and not needed else torch.empty_like(each)
            delta = torch.empty_like(each)
            functions = f.activate(each, a), f.times_derivative(delta, each, a)
            below = layers[-1].a if layers else x
            layers.append(Layer(below, each, a, delta, delta.T, *functions))
        if self.loss.activate is not None:
            layers[-1].activate = self.loss.activate(layers[-1].z, layers[-1].a, spare)
        ones = torch.ones(m, **kind)
        made = Buffers(x, y, layers, spare, ones.sum(), ones)
        self._buffers[m, in_place] = made
        return made

    def _forward(self, made: Buffers) -> list[Call]:
        """z^(l) = W^(l) a^(l-1) + b^(l); a^(l) = f(z^(l)). Source: equations (2) and (3)."""
        calls: list[Call] = []
        for index, (layer, W) in enumerate(zip(made.layers, self.W, strict=True)):
            linear = partial(torch.addmm, self.b[index]) if self.b else torch.mm
            calls += [partial(linear, layer.below, W.T, out=layer.z), layer.activate]
        return calls

    def _backward(self, made: Buffers, optimizer: Optimizer) -> list[Call]:
        """A step, from the output's delta on: what is below a layer comes before its W moves."""
        calls: list[Call] = []
        for index in range(self.network.layers - 1, -1, -1):
            calls += [*self._hidden_error(made, index), *self._moves(made, index, optimizer)]
        return calls

    def _loss(self, made: Buffers, l2: float, loss: Tensor) -> Tensor:
        """Write the mean over the rows, with the l2 term, into ``loss``."""
        self.loss.total(made, loss)
        loss.div_(made.m)
        return loss.add_(0.5 * l2 * sum(W.square().sum() for W in self.W)) if l2 else loss

    def _hidden_error(self, made: Buffers, index: int) -> list[Call]:
        """delta^(l-1) into its buffer, from layer l. Source: equation (7)."""
        if not index:
            return []
        layer, lower = made.layers[index], made.layers[index - 1]
        product = partial(torch.mm, layer.delta, self.W[index], out=lower.delta)
        return [product, lower.times_derivative]

    def _moves(self, made: Buffers, index: int, o: Optimizer) -> list[Call]:
        """What moves one layer's W and b; by plain gradient descent, W <- W - eta grad_W is one
        product, and b alike. Source: equations (8) to (11)."""
        layer = made.layers[index]
        if not isinstance(o, SGD) or o.momentum:
            return [partial(self._update, index, layer, o, made.ones)]
        W, keep, below = self.W[index], 1 - o.learning_rate * o.l2, layer.below

        def in_two() -> None:
            W.mul_(keep).sub_(torch.mm(layer.transposed, below), alpha=o.learning_rate)

        down: Call = partial(W.addmm_, layer.transposed, below, beta=keep, alpha=-o.learning_rate)
        if self._threads > 1 and len(made.ones) > min(W.shape):
            # MKL has its threads share the sum over such a batch, and adds every part of it to W by
            # itself: ten times the rounding of adding the whole
            down = in_two
        if not self.b:
            return [down]
        b = self.b[index]
        return [down, partial(b.addmv_, layer.transposed, made.ones, alpha=-o.learning_rate)]

    def _update(self, index: int, layer: Layer, o: Optimizer, ones: Tensor) -> None:
        """One layer's step by the optimizer's formula."""
        dW = torch.mm(layer.transposed, layer.below)
        moves = [(self.W[index], dW.add_(self.W[index], alpha=o.l2) if o.l2 else dW, index)]
        if self.b:
            db = torch.mv(layer.transposed, ones)
            moves.append((self.b[index], db, len(self.W) + index))
        for p, g, at in moves:
            self.move(o, p, g, self.m[at], self.v[at], self.t)


class TorchManualBackend(Backend):
    """PyTorch's tensors without its autograd."""

    name = "torch"
    modes = ("manual",)
    devices = ("cpu", "cuda")

    def __init__(
        self, mode: str | None = None, device: str = "cpu", dtype: str = "float32"
    ) -> None:
        super().__init__(mode, device, dtype)
        if device == "cuda" and not torch.cuda.is_available():
            raise Unsupported(
                "torch sees no cuda device; expected a GPU and a CUDA build of torch, "
                f"this is torch {torch.__version__}"
            )

    def model(self, network: MLP, parameters: Parameters) -> ManualTorchModel:
        self.require(network, ACTIVATIONS, LOSSES)
        return ManualTorchModel(self, network, parameters)
