"""The document's equations in PyTorch's tensors, without autograd: what autograd costs is the
difference to the other modes.

Every buffer is made once for a batch size; products, activations and their derivatives write into
them (``out=``), and plain gradient descent never forms dW: ``addmm_`` adds the product to W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bpbench.backend import Backend, Backpropagation, Gradients, Model
from bpbench.errors import Unsupported
from bpbench.network import LEAKY_RELU_SLOPE, MLP, Array, Parameters
from bpbench.optimizers import SGD, Adam, Optimizer, RMSProp

aten = torch.ops.aten


def _activate(name: str, z: Tensor, a: Tensor) -> None:
    """Write f(z), (m, n_l), into ``a``."""
    match name:
        case "identity":
            a.copy_(z)
        case "sigmoid":
            torch.sigmoid(z, out=a)
        case "tanh":
            torch.tanh(z, out=a)
        case "relu":
            torch.clamp_min(z, 0, out=a)
        case "leaky_relu":
            aten.leaky_relu.out(z, LEAKY_RELU_SLOPE, out=a)
        case "elu":
            aten.elu.out(z, out=a)
        case "softplus":  # a threshold of 50: the default takes it for z from 20 on
            aten.softplus.out(z, 1, 50, out=a)
        case "gelu":
            aten.gelu.out(z, out=a)
        case "silu":
            aten.silu.out(z, out=a)
        case "softmax":
            torch.softmax(z, 1, out=a)


def _times_derivative(name: str, error: Tensor, z: Tensor, a: Tensor) -> None:
    """Turn dL/da into dL/dz in place, (m, n_l): error * f'(z), or the Jacobian's product."""
    match name:
        case "sigmoid":
            aten.sigmoid_backward.grad_input(error, a, grad_input=error)
        case "tanh":
            aten.tanh_backward.grad_input(error, a, grad_input=error)
        case "relu":
            aten.threshold_backward.grad_input(error, z, 0, grad_input=error)
        case "leaky_relu":
            aten.leaky_relu_backward.grad_input(error, z, LEAKY_RELU_SLOPE, False, grad_input=error)
        case "elu":
            aten.elu_backward.grad_input(error, 1, 1, 1, False, z, grad_input=error)
        case "softplus":
            aten.softplus_backward.grad_input(error, z, 1, 50, grad_input=error)
        case "gelu":
            aten.gelu_backward.grad_input(error, z, grad_input=error)
        case "silu":
            aten.silu_backward.grad_input(error, z, grad_input=error)
        case "softmax":
            error.sub_((error * a).sum(dim=1, keepdim=True)).mul_(a)


@dataclass
class Buffers:
    """What a pass over m rows writes into: z, a and delta, (m, n_l) each, and the batch."""

    x: Tensor
    y: Tensor
    z: list[Tensor]
    a: list[Tensor]
    delta: list[Tensor]


class ManualTorchModel(Model):
    """The parameters, which every step changes in place, and buffers for each batch size."""

    backend: TorchManualBackend

    def __init__(self, backend: TorchManualBackend, network: MLP, parameters: Parameters) -> None:
        self._buffers: dict[int, Buffers] = {}
        self.dtype = getattr(torch, backend.dtype)
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
        buffers = self._made(len(x))
        self._forward(x, buffers)
        return buffers.a[-1]

    @torch.inference_mode()
    def differentiate(
        self, x: Tensor, y: Tensor | None, cotangent: Tensor | None, l2: float
    ) -> Backpropagation[Tensor]:
        made = self._made(len(x))
        self._forward(x, made)
        if y is not None:
            loss = self._loss(made.z[-1], made.a[-1], y, l2)
            self._output_error(y, made)
        else:
            loss = None
            made.delta[-1].copy_(cotangent)
            _times_derivative(self.network.output, made.delta[-1], made.z[-1], made.a[-1])
        for layer in range(self.network.layers - 1, 0, -1):
            self._hidden_error(layer - 1, made)
        below = [x, *made.a]
        dW = [d.T @ a + l2 * w for d, a, w in zip(made.delta, below, self.W, strict=False)]
        db = [d.sum(0) for d in made.delta] if self.b else []
        return Backpropagation(
            loss=loss,
            z=tuple(made.z),
            a=tuple(made.a),
            delta=tuple(made.delta),
            gradients=Gradients(tuple(dW), tuple(db)),
            input_gradient=made.delta[0] @ self.W[0],
        )

    def start(self, optimizer: Optimizer) -> None:
        tensors = (*self.W, *self.b)
        self.m = [torch.zeros_like(p) for p in tensors]
        self.v = [torch.zeros_like(p) for p in tensors]
        self.t = 0

    @torch.inference_mode()
    def steps(self, x: Tensor, y: Tensor, order: Tensor, optimizer: Optimizer) -> Tensor:
        made = self._made(order.shape[1])
        losses = torch.empty(len(order), dtype=x.dtype, device=x.device)
        plain = isinstance(optimizer, SGD) and not optimizer.momentum
        for k, rows in enumerate(order):
            torch.index_select(x, 0, rows, out=made.x)
            torch.index_select(y, 0, rows, out=made.y)
            self._forward(made.x, made)
            losses[k] = self._loss(made.z[-1], made.a[-1], made.y, optimizer.l2)
            self._output_error(made.y, made)
            self.t += 1
            for layer in range(self.network.layers - 1, -1, -1):
                if layer:  # before W[layer] moves
                    self._hidden_error(layer - 1, made)
                below = made.a[layer - 1] if layer else made.x
                if plain:
                    self._descend(layer, made.delta[layer], below, optimizer)
                else:
                    self._update(layer, made.delta[layer], below, optimizer)
        return losses

    # ── Sections 3.1 and 3.2 ───────────────────────────────────────────────────────────────────

    def _made(self, m: int) -> Buffers:
        """The buffers for m rows."""
        if m not in self._buffers:

            def each(sizes: tuple[int, ...]) -> list[Tensor]:
                kind: dict[str, Any] = {"dtype": self.dtype, "device": self.backend.device}
                return [torch.empty(m, n, **kind) for n in sizes]

            (x,), (y,) = each(self.network.sizes[:1]), each(self.network.sizes[-1:])
            layers = self.network.sizes[1:]
            self._buffers[m] = Buffers(x, y, each(layers), each(layers), each(layers))
        return self._buffers[m]

    def _forward(self, x: Tensor, made: Buffers) -> None:
        """z^(l) = W^(l) a^(l-1) + b^(l); a^(l) = f(z^(l)). Source: section 3.1."""
        below = x
        for layer, name in enumerate(self.network.activations):
            z, a = made.z[layer], made.a[layer]
            if self.b:
                torch.addmm(self.b[layer], below, self.W[layer].T, out=z)
            else:
                torch.mm(below, self.W[layer].T, out=z)
            _activate(name, z, a)
            below = a

    def _loss(self, z: Tensor, a: Tensor, y: Tensor, l2: float) -> Tensor:
        """The mean over the rows, with the l2 term."""
        if self.network.loss == "half_squared_error":
            loss = 0.5 * (a - y).square_().sum()
        elif self.network.loss == "binary_cross_entropy":
            loss = torch.binary_cross_entropy_with_logits(z, y, reduction=2)  # 2: the sum
        else:
            loss = -(torch.log_softmax(z, 1) * y).sum()
        loss = loss / len(y)
        return loss + 0.5 * l2 * sum(W.square().sum() for W in self.W) if l2 else loss

    def _output_error(self, y: Tensor, made: Buffers) -> None:
        """delta^(L) into its buffer. Source: section 3.2, step 1."""
        delta, a = made.delta[-1], made.a[-1]
        if self.network.loss == "cross_entropy":
            torch.mul(a, y.sum(dim=1, keepdim=True), out=delta).sub_(y).div_(len(y))
            return
        torch.sub(a, y, out=delta).div_(len(y))
        if self.network.loss == "half_squared_error":
            _times_derivative(self.network.output, delta, made.z[-1], a)

    def _hidden_error(self, layer: int, made: Buffers) -> None:
        """delta^(l) into its buffer, from the layer above. Source: section 3.2, step 2."""
        torch.mm(made.delta[layer + 1], self.W[layer + 1], out=made.delta[layer])
        name = self.network.activations[layer]
        _times_derivative(name, made.delta[layer], made.z[layer], made.a[layer])

    def _descend(self, layer: int, delta: Tensor, below: Tensor, o: Optimizer) -> None:
        """W <- W - eta grad_W in one product. Source: section 3.2, steps 3 and 4."""
        keep = 1 - o.learning_rate * o.l2
        self.W[layer].addmm_(delta.T, below, beta=keep, alpha=-o.learning_rate)
        if self.b:
            self.b[layer].sub_(delta.sum(0), alpha=o.learning_rate)

    def _update(self, layer: int, delta: Tensor, below: Tensor, o: Optimizer) -> None:
        """One layer's step by the optimizer's formula."""
        dW = torch.mm(delta.T, below)
        moves = [(self.W[layer], dW.add_(self.W[layer], alpha=o.l2) if o.l2 else dW, layer)]
        if self.b:
            moves.append((self.b[layer], delta.sum(0), len(self.W) + layer))
        for p, g, index in moves:
            m, v = self.m[index], self.v[index]
            match o:
                case SGD():
                    v.mul_(o.momentum).add_(g)
                    step = g.add_(v, alpha=o.momentum) if o.nesterov else v
                    p.sub_(step, alpha=o.learning_rate)
                case RMSProp():
                    v.mul_(o.decay).addcmul_(g, g, value=1 - o.decay)
                    p.addcdiv_(g, v.sqrt().add_(o.epsilon), value=-o.learning_rate)
                case Adam():
                    m.mul_(o.beta1).add_(g, alpha=1 - o.beta1)
                    v.mul_(o.beta2).addcmul_(g, g, value=1 - o.beta2)
                    root = (v / (1 - o.beta2**self.t)).sqrt_().add_(o.epsilon)
                    p.addcdiv_(m, root, value=-o.learning_rate / (1 - o.beta1**self.t))
                case _:
                    raise Unsupported(f"torch has no formula for {o}")


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
        return ManualTorchModel(self, network, parameters)
