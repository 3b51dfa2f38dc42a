"""A backend whose compiler trains wrongly without a word: right gradients, wrong steps.

In torch 2.13 on the CPU, inductor reorders an update in place against what ``torch.func.grad``
still reads, where both are in one compiled function. Plain SGD without l2.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from bpbench.backends.torch_backend import TorchBackend, TorchModel, forward, mean_loss


def objective(network: Any, W: Any, b: Any, x: Any, y: Any) -> Any:
    z, a = forward(network, W, b, x)
    return mean_loss(network, W, z[-1], a[-1], y, 0)


@torch.compile(fullgraph=True, dynamic=False)
def step(network: Any, W: Any, b: Any, x: Any, y: Any, learning_rate: float) -> Any:
    found = torch.func.grad_and_value(partial(objective, network), argnums=(0, 1))
    (dW, db), loss = found(W, b, x, y)
    for parameter, gradient in zip((*W, *b), (*dW, *db), strict=True):
        parameter.add_(gradient, alpha=-learning_rate)
    return loss


class InPlaceModel(TorchModel):
    @torch.no_grad()
    def steps(self, x: Any, y: Any, order: Any, optimizer: Any) -> Any:
        W = tuple(w.detach() for w in self.W)
        b = tuple(c.detach() for c in self.b)
        rate = optimizer.learning_rate
        losses = [step(self.network, W, b, x[rows], y[rows], rate).clone() for rows in order]
        return torch.stack(losses)


class InPlace(TorchBackend):
    name = "planted"
    modes = ("compiled",)

    def model(self, network: Any, parameters: Any) -> InPlaceModel:
        return InPlaceModel(self, network, parameters)
