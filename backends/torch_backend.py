"""Backpropagation by PyTorch's autograd: torch.nn.functional's layers and losses, torch.optim.

Modes:
    eager: ``backward`` and ``optimizer.step`` as users write them.
    compiled: loss, gradient and update in one ``torch.compile``d function per step.
    unrolled: several such steps in one function, for small networks, where the call costs most.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bpbench.backend import Backend, Backpropagation, Gradients, Model
from bpbench.errors import Unsupported
from bpbench.network import LEAKY_RELU_SLOPE, MLP, Array, Parameters
from bpbench.optimizers import FORMULAS, Optimizer, step


def elu(z: Tensor) -> Tensor:
    """torch's own; compiled, e^z - 1 without cancelling near 0."""
    if not torch.compiler.is_compiling():
        return F.elu(z)
    # inductor computes even ``expm1`` as exp(z) - 1, "for better performance" (150 sigmas in
    # float32); with t = tanh(z/2), e^z - 1 is 2t / (1 - t)
    low = z.clamp(max=0)
    t = (low.clamp(min=-0.5) / 2).tanh()
    return torch.where(z > 0, z, torch.where(low > -0.5, 2 * t / (1 - t), low.exp() - 1))


def binary_cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """The sum over all entries; compiled, from terms that do not cancel."""
    if not torch.compiler.is_compiling():
        return F.binary_cross_entropy_with_logits(z, y, reduction="sum")
    # inductor differentiates log_sigmoid to 1 - (1 - a), which leaves nothing of a small a (7,000
    # sigmas in float32); ``maximum`` has the derivative 1/2 at 0, where that of |z| is 0
    return (torch.maximum(z, torch.zeros_like(z)) - z * y + (-z.abs()).exp().log1p()).sum()


ACTIVATIONS: dict[str, Any] = {
    "identity": lambda z: z,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": partial(F.leaky_relu, negative_slope=LEAKY_RELU_SLOPE),
    "elu": elu,
    # the default threshold, 20, takes softplus for the identity too early: 1.3e-9 at z = 20.5
    "softplus": partial(F.softplus, threshold=50),
    "gelu": F.gelu,
    "silu": F.silu,
    "softmax": partial(F.softmax, dim=1),
}


class Loss(NamedTuple):
    """The mean over the rows of the last layer's z, a and y; ``of_logits`` where a is not used."""

    mean: Callable[[Tensor, Tensor, Tensor], Tensor]
    of_logits: bool


LOSSES = {
    "half_squared_error": Loss(
        lambda z, a, y: 0.5 * F.mse_loss(a, y, reduction="sum") / len(y), of_logits=False
    ),
    "binary_cross_entropy": Loss(
        lambda z, a, y: binary_cross_entropy(z, y) / len(y), of_logits=True
    ),
    "cross_entropy": Loss(lambda z, a, y: F.cross_entropy(z, y), of_logits=True),
}

OPTIMIZERS: dict[str, Callable[[Any, list[Tensor]], torch.optim.Optimizer]] = {
    "SGD": lambda o, tensors: torch.optim.SGD(
        tensors, o.learning_rate, momentum=o.momentum, nesterov=o.nesterov
    ),
    "RMSProp": lambda o, tensors: torch.optim.RMSprop(
        tensors, o.learning_rate, alpha=o.decay, eps=o.epsilon
    ),
    "Adam": lambda o, tensors: torch.optim.Adam(
        tensors, o.learning_rate, betas=(o.beta1, o.beta2), eps=o.epsilon
    ),
}
"""torch.optim's optimizer that computes the formula of a description."""

UNROLLED_LAYERS = 16
"""Layers of all the steps in one function, 10 to 15 s to compile; each more takes half a second."""


def forward(
    network: MLP,
    W: tuple[Tensor, ...],
    b: tuple[Tensor, ...],
    x: Tensor,
    perturbations: tuple[Tensor, ...] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """z and a of every layer, (m, n_l); ``perturbations``, which are zeros, are added to z."""
    z: list[Tensor] = []
    a: list[Tensor] = []
    below = x
    for layer, name in enumerate(network.activations):
        linear = F.linear(below, W[layer], b[layer] if b else None)
        z.append(linear if perturbations is None else linear + perturbations[layer])
        below = ACTIVATIONS[name](z[layer])
        a.append(below)
    return z, a


def batch_loss(
    network: MLP, W: tuple[Tensor, ...], b: tuple[Tensor, ...], x: Tensor, y: Tensor, l2: float
) -> Tensor:
    """The mean loss of a batch; from logits, where there are some, with no activation of them."""
    below = x
    for layer, name in enumerate(network.activations[:-1]):
        below = ACTIVATIONS[name](F.linear(below, W[layer], b[layer] if b else None))
    z = F.linear(below, W[-1], b[-1] if b else None)
    a = z if LOSSES[network.loss].of_logits else ACTIVATIONS[network.output](z)
    return mean_loss(network, W, z, a, y, l2)


def mean_loss(
    network: MLP, W: tuple[Tensor, ...], z: Tensor, a: Tensor, y: Tensor, l2: float
) -> Tensor:
    """The mean over the rows of the loss of the last layer's z and a, plus the l2 term."""
    loss = LOSSES[network.loss].mean(z, a, y)
    return loss + 0.5 * l2 * sum((w**2).sum() for w in W) if l2 else loss


class TorchModel(Model):
    """The parameters as leaf tensors, which every step changes in place."""

    backend: TorchBackend

    def __init__(self, backend: TorchBackend, network: MLP, parameters: Parameters) -> None:
        self.W: tuple[Tensor, ...] = ()
        self.b: tuple[Tensor, ...] = ()
        super().__init__(backend, network, parameters)

    @property
    def tensors(self) -> list[Tensor]:
        """All parameters, W then b."""
        return [*self.W, *self.b]

    def upload(self, array: Array) -> Tensor:
        return torch.tensor(array, device=self.backend.device)

    def download(self, array: Tensor) -> Array:
        return array.detach().cpu().numpy().copy()

    def synchronize(self) -> None:
        if self.backend.device == "cuda":
            torch.cuda.synchronize()

    def write_parameters(self, parameters: Parameters) -> None:
        self.W = tuple(self.upload(W).requires_grad_() for W in parameters.W)
        self.b = tuple(self.upload(b).requires_grad_() for b in parameters.b)

    def read_parameters(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return self.W, self.b

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return forward(self.network, self.W, self.b, x)[1][-1]

    def differentiate(
        self, x: Tensor, y: Tensor | None, cotangent: Tensor | None, l2: float
    ) -> Backpropagation[Tensor]:
        x = x.detach().requires_grad_()
        perturbations = tuple(
            torch.zeros(len(x), n, dtype=x.dtype, device=x.device, requires_grad=True)
            for n in self.network.sizes[1:]
        )
        z, a = forward(self.network, self.W, self.b, x, perturbations)
        if y is not None:
            objective = mean_loss(self.network, self.W, z[-1], a[-1], y, l2)
        else:
            objective = (cotangent * a[-1]).sum() + 0.5 * l2 * sum((w**2).sum() for w in self.W)
        found = torch.autograd.grad(objective, [*self.tensors, *perturbations, x])
        layers, weights = self.network.layers, len(self.tensors)
        return Backpropagation(
            loss=None if y is None else objective,
            z=tuple(z),
            a=tuple(a),
            delta=found[weights:-1],
            gradients=Gradients(found[:layers], found[layers:weights]),
            input_gradient=found[-1],
        )

    def start(self, optimizer: Optimizer) -> None:
        make = self.backend.formula("optimizer", optimizer.name, OPTIMIZERS)
        self.optimizer = make(optimizer, self.tensors)

    def steps(self, x: Tensor, y: Tensor, order: Tensor, optimizer: Optimizer) -> Tensor:
        losses = []
        for rows in order:
            self.optimizer.zero_grad()
            loss = batch_loss(self.network, self.W, self.b, x[rows], y[rows], optimizer.l2)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)


class CompiledTorchModel(TorchModel):
    """The whole step compiled: parameters and state go in and come out as new tensors.

    torch.optim inside a compiled function keeps Adam's step count in float32 (1.5e-7 off after 100
    float64 steps), so the formulas are those of bpbench.optimizers. New tensors, not ``add_``:
    inductor on CPU (2.13) reorders an in-place update against torch.func.grad's reads of the
    same tensor, and trains wrongly without a word.
    """

    def __init__(self, backend: TorchBackend, network: MLP, parameters: Parameters) -> None:
        options = {
            # the C++ wrapper takes 10 us off each call, and less time to compile than Python's
            "cpp_wrapper": backend.device == "cpu",
            # or each call makes sure that no function of torch's or of this file has been replaced:
            # 2 us
            "guard_filter_fn": torch.compiler.skip_guard_on_globals_unsafe,
        }
        compiled = partial(torch.compile, fullgraph=True, dynamic=False, options=options)
        self._step = compiled(partial(_step, network))
        self._several_steps = compiled(partial(_several_steps, network))
        self._differentiate = compiled(partial(_differentiate, network))
        super().__init__(backend, network, parameters)

    def write_parameters(self, parameters: Parameters) -> None:
        self.W = tuple(map(self.upload, parameters.W))
        self.b = tuple(map(self.upload, parameters.b))

    def differentiate(
        self, x: Tensor, y: Tensor | None, cotangent: Tensor | None, l2: float
    ) -> Backpropagation[Tensor]:
        target = cotangent if y is None else y
        found, loss, z, a = self._differentiate(
            self.W, self.b, x, target, y is not None, torch.tensor(l2, dtype=x.dtype)
        )
        W, b, delta, by_x = found
        return Backpropagation(
            None if y is None else loss, tuple(z), tuple(a), delta, Gradients(W, b), by_x
        )

    def start(self, optimizer: Optimizer) -> None:
        formula = self.backend.formula("optimizer", optimizer.name, FORMULAS)
        # the step count is a tensor, so that it is no constant of the compiled code; like every
        # tensor of the state it costs time in every call, so only a formula that counts has it
        t = torch.zeros((), dtype=torch.float64, device=self.backend.device)
        zeros = [
            [torch.zeros_like(p) for p in self.tensors] for _ in range(formula.moments(optimizer))
        ]
        self.state: Any = (t if formula.counts else None, zeros)

    @torch.no_grad()
    def steps(self, x: Tensor, y: Tensor, order: Tensor, optimizer: Optimizer) -> Tensor:
        W, b, state = self.W, self.b, self.state
        losses = []
        for rows in order.unbind():
            W, b, state, loss = self._step(optimizer, W, b, state, x, y, rows)
            losses.append(loss)
        self.W, self.b, self.state = W, b, state
        return torch.stack(losses)


class UnrolledTorchModel(CompiledTorchModel):
    """Several steps in one compiled function; what is left of an order goes step by step."""

    def __init__(self, backend: TorchBackend, network: MLP, parameters: Parameters) -> None:
        self._compiled_for: set[tuple[Any, ...]] = set()
        super().__init__(backend, network, parameters)

    @torch.no_grad()
    def steps(self, x: Tensor, y: Tensor, order: Tensor, optimizer: Optimizer) -> Tensor:
        together = max(2, UNROLLED_LAYERS // self.network.layers)
        whole = len(order) - len(order) % together
        W, b, state = self.W, self.b, self.state
        work = optimizer, x.shape, order.shape[1]
        if not whole and work not in self._compiled_for:
            # however short the first call is, compiling belongs to it, not to some later one
            self._several_steps(optimizer, W, b, state, x, y, order[:1].repeat(together, 1))
        self._compiled_for.add(work)
        losses = []
        for several in order[:whole].split(together) if whole else ():
            W, b, state, some = self._several_steps(optimizer, W, b, state, x, y, several)
            losses.append(some)
        self.W, self.b, self.state = W, b, state
        if whole < len(order):
            losses.append(super().steps(x, y, order[whole:], optimizer))
        return torch.cat(losses)


def _differentiate(
    network: MLP,
    W: tuple[Tensor, ...],
    b: tuple[Tensor, ...],
    x: Tensor,
    target: Tensor,
    of_loss: bool,
    l2: Tensor,
) -> tuple[Any, ...]:
    """The derivatives by W, b, perturbations and x; loss, z and a."""

    def objective(
        W: tuple[Tensor, ...], b: tuple[Tensor, ...], perturbations: tuple[Tensor, ...], x: Tensor
    ) -> tuple[Tensor, Any]:
        z, a = forward(network, W, b, x, perturbations)
        loss = mean_loss(network, W, z[-1], a[-1], target, 0) if of_loss else (target * a[-1]).sum()
        loss = loss + 0.5 * l2 * sum((w**2).sum() for w in W)
        return loss, (loss, z, a)

    perturbations = tuple(
        torch.zeros(len(x), n, dtype=x.dtype, device=x.device) for n in network.sizes[1:]
    )
    found, (loss, z, a) = torch.func.grad(objective, argnums=(0, 1, 2, 3), has_aux=True)(
        W, b, perturbations, x
    )
    return found, loss, z, a


def _step(
    network: MLP,
    optimizer: Optimizer,
    W: tuple[Tensor, ...],
    b: tuple[Tensor, ...],
    state: Any,
    x: Tensor,
    y: Tensor,
    rows: Tensor,
) -> tuple[Any, ...]:
    """One step on some rows: new W, b and state, and the loss before it."""

    def objective(W: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
        return batch_loss(network, W, b, x[rows], y[rows], optimizer.l2)

    (dW, db), loss = torch.func.grad_and_value(objective, argnums=(0, 1))(W, b)
    before, moments = state
    t: Any = None if before is None else before + 1

    def correction(beta: float) -> Tensor:
        return (1 - beta**t).to(x.dtype)

    moved: list[Tensor] = []
    new: list[list[Tensor]] = [[] for _ in moments]
    for index, (p, g) in enumerate(zip((*W, *b), (*dW, *db), strict=True)):
        kept = tuple(moment[index] for moment in moments)
        update, kept = step(optimizer, g, kept, torch.sqrt, correction)
        moved.append(p - update)
        for moment, tensor in zip(new, kept, strict=True):
            moment.append(tensor)
    return tuple(moved[: len(W)]), tuple(moved[len(W) :]), (t, new), loss


def _several_steps(
    network: MLP, optimizer: Optimizer, W: Any, b: Any, state: Any, x: Any, y: Any, order: Tensor
) -> tuple[Any, ...]:
    """One step for each row of ``order``: new W, b and state, and the losses before each."""
    losses = []
    for k in range(len(order)):
        W, b, state, loss = _step(network, optimizer, W, b, state, x, y, order[k])
        losses.append(loss)
    return W, b, state, torch.stack(losses)


class TorchBackend(Backend):
    """PyTorch."""

    name = "torch"
    modes = ("eager", "compiled", "unrolled")
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
        if self.mode != "eager":
            # all models of a process share one code object, each of its shapes is a new version
            torch._dynamo.config.recompile_limit = 10_000
            torch._dynamo.config.accumulated_recompile_limit = 10_000

    def model(self, network: MLP, parameters: Parameters) -> TorchModel:
        self.require(network, ACTIVATIONS, LOSSES)
        return MODELS[self.mode](self, network, parameters)


MODELS = {"eager": TorchModel, "compiled": CompiledTorchModel, "unrolled": UnrolledTorchModel}
