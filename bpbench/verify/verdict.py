"""Is what was found right? What was found, held against the truth within the tolerance.

A verdict is one of: "right", "wrong", "vacuous" (nothing was tested: a gradient is zero),
"noise-limited" (rounding hides errors that should be seen), "kink" (a sample lies on the corner of
a relu) and "right at reduced precision" (the errors are those of TF32, float16 or bfloat16).
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bpbench.backend import Backpropagation
from bpbench.network import MLP, Array, Parameters
from bpbench.optimizers import Optimizer
from bpbench.verify import truth


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or that a person should know.

    Attributes:
        mistake: its name, the same for the same kind of mistake.
        layer: the index of the layer (as in W), or None where no one layer is at fault.
        tensor: "loss", "z", "a", "delta", "dW", "db", "input_gradient", "W", "b" or None.
        say: the sentence for people.
        certain: whether this explains what was found, or only might.
    """

    mistake: str
    layer: int | None
    tensor: str | None
    say: str
    certain: bool = True


@dataclass(frozen=True)
class TensorError:
    """How far one tensor is from the truth.

    Attributes:
        name: "loss", "z", "a", "delta", "dW", "db", "input_gradient", "losses", "W" or "b".
        layer: the index of the layer (as in W), or None.
        error: the largest error, as a share of the largest entry of the truth.
        sigmas: the largest error in standard deviations of rounding; above 8 is wrong.
        detectable: the smallest relative error of the whole tensor that would have been seen.
    """

    name: str
    layer: int | None
    error: float
    sigmas: float
    detectable: float

    @property
    def place(self) -> str:
        """As messages write it: dW[1], loss."""
        return self.name if self.layer is None else f"{self.name}[{self.layer}]"


@dataclass(frozen=True)
class Report:
    """The verdict on one set of gradients or one training run, with its evidence.

    Attributes:
        verdict: one of the six.
        subject: what was judged.
        findings: what is wrong, the most likely cause first; empty where all is right.
        tensors: the errors, tensor by tensor.
    """

    verdict: str
    subject: str
    findings: tuple[Finding, ...] = ()
    tensors: tuple[TensorError, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong (which "vacuous" and "noise-limited" do not prove)."""
        return self.verdict != "wrong"

    @property
    def worst_sigmas(self) -> float:
        """The largest error of all tensors in standard deviations of rounding."""
        return max((t.sigmas for t in self.tensors), default=0.0)

    @property
    def detectable(self) -> float:
        """The largest of the tensors' detection limits."""
        return max((t.detectable for t in self.tensors), default=math.inf)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; numbers that are not finite become None."""
        return {
            "verdict": self.verdict,
            "subject": self.subject,
            "findings": [asdict(finding) for finding in self.findings],
            "tensors": [
                {k: _plain(v) for k, v in asdict(tensor).items()} for tensor in self.tensors
            ],
        }

    def __str__(self) -> str:
        lines = [f"{self.verdict}: {self.subject}"]
        lines += [f"  {finding.say}" for finding in self.findings]
        if self.tensors:
            lines.append(f"  {'tensor':<16}{'error':>10}{'sigmas':>10}{'detectable':>12}")
        for t in self.tensors:
            lines.append(f"  {t.place:<16}{t.error:>10.1e}{t.sigmas:>10.2g}{t.detectable:>12.1e}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        says = "".join(f"<li>{html.escape(f.say)}</li>" for f in self.findings)
        rows = "".join(
            f"<tr><td>{html.escape(t.place)}</td><td>{t.error:.1e}</td>"
            f"<td>{t.sigmas:.2g}</td><td>{t.detectable:.1e}</td></tr>"
            for t in self.tensors
        )
        return (
            f"<p><b>{html.escape(self.verdict)}</b>: {html.escape(self.subject)}</p><ul>{says}</ul>"
            "<table><tr><th>tensor</th><th>error</th><th>sigmas</th><th>detectable</th></tr>"
            f"{rows}</table>"
        )


def judge(
    network: MLP,
    parameters: Parameters,
    x: ArrayLike,
    y: ArrayLike | None,
    found: Backpropagation[Any],
    dtype: str,
    *,
    cotangent: ArrayLike | None = None,
    l2: float = 0.0,
) -> Report:
    """Judge one backpropagation.

    Args:
        network, parameters, x, y, cotangent, l2: what was asked of ``Model.backpropagate``.
        found: what it gave; a field that is None was not offered and is not judged.
        dtype: what was claimed: arrays of another dtype are wrong.

    Returns:
        The report; nan, wrong shapes and wrong counts are findings, not exceptions.
    """
    x, y, cotangent = (None if v is None else np.asarray(v, dtype) for v in (x, y, cotangent))
    right = truth.backpropagate(
        network, parameters.astype(dtype), x, y, cotangent=cotangent, l2=l2,
        dtype=truth.precision_above(dtype),
    )  # fmt: skip
    unit = float(np.finfo(dtype).eps) / 2
    depth = 64 * unit * network.layers
    findings, tensors = [], []
    for (name, layer, true), (_, _, got) in zip(_parts(right), _parts(found), strict=False):
        if got is None:
            continue
        finding, error = _compare(name, layer, got, true, depth, dtype)
        findings += [finding] if finding else []
        tensors += [error] if error else []
    subject = f"{network}, {dtype}"
    return Report("wrong" if findings else "right", subject, tuple(findings), tuple(tensors))


def judge_training(
    network: MLP,
    parameters: Parameters,
    x: ArrayLike,
    y: ArrayLike,
    order: ArrayLike,
    optimizer: Optimizer,
    losses: ArrayLike,
    final: Parameters,
    dtype: str,
) -> Report:
    """Judge a few steps of training: their losses and the parameters after the last.

    Args:
        network, parameters, x, y, order, optimizer: what was asked of ``Model.train``, from the
            optimizer's initial state.
        losses: (steps,), what it gave.
        final: the parameters afterwards.
        dtype: what was claimed.
    """
    x, y = np.asarray(x, dtype), np.asarray(y, dtype)
    true_losses, true_final = truth.train(
        network, parameters.astype(dtype), x, y, order, optimizer,
        dtype=truth.precision_above(dtype),
    )  # fmt: skip
    unit = float(np.finfo(dtype).eps) / 2
    depth = 512 * unit * network.layers
    pairs = [("losses", None, true_losses, np.asarray(losses))]
    pairs += [("W", i, t, f) for i, (t, f) in enumerate(zip(true_final.W, final.W, strict=False))]
    pairs += [("b", i, t, f) for i, (t, f) in enumerate(zip(true_final.b, final.b, strict=False))]
    findings, tensors = [], []
    for name, layer, true, got in pairs:
        finding, error = _compare(name, layer, got, true, depth, dtype)
        findings += [finding] if finding else []
        tensors += [error] if error else []
    subject = f"{len(np.asarray(order))} steps by {optimizer} of {network}, {dtype}"
    return Report("wrong" if findings else "right", subject, tuple(findings), tuple(tensors))


def _parts(found: Backpropagation[Any]) -> Iterator[tuple[str, int | None, Any]]:
    yield "loss", None, found.loss
    for name in ("z", "a", "delta"):
        for layer, value in enumerate(getattr(found, name)):
            yield name, layer, value
    for layer, value in enumerate(found.gradients.W):
        yield "dW", layer, value
    for layer, value in enumerate(found.gradients.b):
        yield "db", layer, value
    yield "input_gradient", None, found.input_gradient


def _compare(
    name: str, layer: int | None, found: Any, true: Array, relative: float, dtype: str
) -> tuple[Finding | None, TensorError | None]:
    place = name if layer is None else f"{name}[{layer}]"
    got = np.asarray(found)
    if got.shape != np.shape(true):
        say = f"{place} has shape {got.shape}; expected {np.shape(true)}"
        return Finding("wrong shape", layer, name, say), None
    if name != "loss" and got.dtype != np.dtype(dtype):
        say = f"{place} is {got.dtype} in a {dtype} claim"
        return Finding("wrong dtype", layer, name, say), None
    if not np.isfinite(got).all():
        return Finding("not finite", layer, name, f"{place} holds nan or infinity"), None
    size = float(np.abs(true).max(initial=0))
    error = float(np.abs(got - true).max(initial=0))
    sigma = relative * size / 8
    share = error / size if size else math.inf if error else 0.0
    measured = TensorError(
        name, layer, share, error / sigma if sigma else math.inf if error else 0.0, relative
    )
    if error <= 8 * sigma:
        return None, measured
    say = f"{place} is off by {share:.1e} of its largest entry"
    return Finding("wrong value", layer, name, say), measured


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
