"""Is a backpropagation right? What was found, compared with the truth within the tolerance.

"right": every entry is within 8 standard deviations of rounding of the truth. "wrong": one is not,
or nan, another shape, dtype or count came back. "vacuous": a tensor is zero, so nothing was tested
there. "noise-limited": rounding hides errors that should be seen, as no tensor shows one smaller
than the limit that the report prints. "kink": all fits only if units on the very corner of a relu
are taken on either side. "right at reduced precision": the errors are those of TF32, float16 or
bfloat16, and they are everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bpbench.arithmetic.rounding import REDUCED, precision
from bpbench.backend import Backpropagation
from bpbench.errors import unknown
from bpbench.network import MLP, Array, Parameters
from bpbench.verify.comparison import (
    REQUIRED_SENSITIVITY,
    errors,
    limits,
    name_of,
    unfit,
    within,
)
from bpbench.verify.findings import (
    KINK,
    REDUCED_PRECISION,
    RIGHT,
    SIGMAS,
    WRONG,
    Finding,
    Report,
    TensorError,
)
from bpbench.verify.runs import few_threads
from bpbench.verify.tolerance import Place, Tolerance, parts, tolerance
from bpbench.verify.training import judge_training

__all__ = ["Finding", "Report", "TensorError", "judge", "judge_training"]


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
    reduced: bool = True,
) -> Report:
    """Judge one backpropagation.

    Args:
        network, parameters, x, y, cotangent, l2: what was asked of ``Model.backpropagate``.
        found: what it gave; a field that is None was not offered and is not judged.
        dtype: what was claimed, "float32" or "float64"; arrays of another dtype are wrong.
        reduced: whether to look for a reduced precision, which is right where "float32" was
            claimed.

    Returns:
        The report; nan, wrong shapes, dtypes and counts are findings, not exceptions.

    Raises:
        UsageError: another dtype.
    """
    if dtype not in REQUIRED_SENSITIVITY:
        raise unknown("judge: dtype", dtype, REQUIRED_SENSITIVITY)
    subject = f"{network}; {len(np.asarray(x))} rows in {dtype}"
    inputs, target, seed = (None if v is None else np.asarray(v, dtype) for v in (x, y, cotangent))
    assert inputs is not None
    given = (network, parameters.astype(dtype), inputs, target, seed, l2, dtype)
    quiet = np.errstate(over="ignore", invalid="ignore")
    with quiet, few_threads(network, len(inputs)):
        allowed = tolerance(*given)
        comparable, misfits = _comparable(found, allowed, dtype)
        if misfits:
            tensors = errors(comparable, allowed.exact, allowed.sigma, dtype)
            return Report(WRONG, subject, tuple(misfits), tuple(tensors))

        def on_its_own_side(near: Sequence[Array]) -> Tolerance:
            """The tolerance with each unit near its corner on the side that z puts it."""
            sides = list(allowed.problem.positive)
            for layer, close in enumerate(near):
                z = np.asarray(comparable.get(("z", layer), allowed.rounded["z", layer]))
                sides[layer] = np.where(close, z > 0, sides[layer])
            same = map(np.array_equal, sides, allowed.problem.positive)
            return allowed if all(same) else tolerance(*given, positive=sides)

        return _judged(comparable, allowed, on_its_own_side, subject, reduced)


def _comparable(
    found: Backpropagation[Any], allowed: Tolerance, dtype: str
) -> tuple[dict[Place, Any], list[Finding]]:
    """The tensors that can be compared, by place, and what is wrong with the others."""
    network = allowed.problem.network
    problems = []
    for name, given in (
        ("z", found.z), ("a", found.a), ("delta", found.delta),
        ("dW", found.gradients.W), ("db", found.gradients.b),
    ):  # fmt: skip
        expected = network.layers if name != "db" or network.bias else 0
        if given is not None and len(given) != expected:
            say = f"{name} has {len(given)} arrays; expected {expected}, one per layer with weights"
            problems.append(Finding("wrong count", None, name, say))
    comparable = {}
    for place, value in parts(found):
        if place not in allowed.exact:  # a loss beside a cotangent, or an array too many
            continue
        finding = unfit(place, value, allowed.exact[place], allowed.sigma[place], dtype)
        if finding is None:
            comparable[place] = value
        else:
            problems.append(finding)
    return comparable, problems


def _judged(
    found: dict[Place, Any],
    allowed: Tolerance,
    on_its_own_side: Callable[[Sequence[Array]], Tolerance],
    subject: str,
    reduced: bool,
) -> Report:
    """The report on tensors that can all be compared."""
    dtype = allowed.dtype
    near = allowed.near_corners(allowed.sigma)
    mine = on_its_own_side(near)
    tensors = errors(found, mine.exact, mine.sigma, dtype, factor=mine.factor)
    bounds = limits(tensors, _zero(mine), dtype, REQUIRED_SENSITIVITY[dtype])
    if within(tensors):
        verdict = bounds[0].mistake if bounds else RIGHT
        return Report(verdict, subject, tuple(bounds), tuple(tensors))
    if any(close.any() for close in near):
        wide = errors(found, mine.exact, mine.sigmas(corners=near), dtype)
        if within(wide):
            return Report(KINK, subject, (_kink(near), *bounds), tuple(wide))
    lower = REDUCED if dtype == "float32" else (precision("float32"), *REDUCED)
    like_rounding = reduced and _everywhere(tensors) and not _proportional(found, mine)
    for rounding in lower if like_rounding else ():
        coarse = on_its_own_side(allowed.near_corners(allowed.sigmas(rounding)))
        rough = errors(found, coarse.exact, coarse.sigmas(rounding), dtype)
        if not within(rough):
            continue
        say = f"the errors are not those of {dtype} but of {rounding.name}"
        if dtype == "float32":
            finding = Finding(REDUCED_PRECISION, None, None, say)
            return Report(REDUCED_PRECISION, subject, (finding,), tuple(rough))
        finding = Finding(f"computed in {rounding.name}", None, None, f"{say}: it was cast to that")
        return Report(WRONG, subject, (finding,), tuple(tensors))
    return Report(WRONG, subject, tuple(_explained(found, mine, tensors)), tuple(tensors))


def _zero(allowed: Tolerance) -> set[Place]:
    """The tensors that are zero in the dtype: no relative error of theirs could be seen."""
    tiny = precision(allowed.dtype).tiny
    rounded = allowed.rounded.items()
    return {place for place, value in rounded if np.abs(value).max(initial=0) < 2 * tiny}


def _kink(near: Sequence[Array]) -> Finding:
    layer = next(i for i, close in enumerate(near) if close.any())
    row, unit = np.argwhere(near[layer])[0]
    count = sum(int(close.sum()) for close in near)
    say = (
        f"z[{layer}][{row}, {unit}] lies on the corner at 0 within rounding"
        + (f" (and {count - 1} more)" if count > 1 else "")
        + "; either derivative may be taken there: resample the inputs and judge again"
    )
    return Finding(KINK, layer, "z", say)


# ── What is wrong, and where ───────────────────────────────────────────────────────────────────


def _everywhere(tensors: Sequence[TensorError]) -> bool:
    """Whether every product of matrices is off, as it would be at a reduced precision."""
    products = [t for t in tensors if t.name in ("z", "dW")]
    return bool(products) and all(t.sigmas > SIGMAS for t in products)


def _proportional(found: dict[Place, Any], allowed: Tolerance) -> bool:
    """Whether the first product's errors go with its values: a factor, not rounding."""
    place = ("z", 0) if ("z", 0) in found else ("dW", allowed.problem.network.layers - 1)
    true = allowed.rounded[place]
    error = np.asarray(found[place], np.float64) - true
    along = abs((error * true).sum())
    return bool(true.size >= 16 and along > 0.7 * np.linalg.norm(error) * np.linalg.norm(true))


def _explained(
    found: dict[Place, Any], allowed: Tolerance, tensors: Sequence[TensorError]
) -> list[Finding]:
    """The first wrong tensor of each chain of consequences: forward, then from the output back."""
    wrong = {(t.name, t.layer): t for t in tensors if t.sigmas > SIGMAS}
    places = _origins(allowed.problem.network.layers, set(wrong))
    findings = [_wrong_value(place, found, allowed, wrong[place]) for place in places]
    rest = len(wrong) - len(places)
    if rest:
        say = f"{rest} more tensors are wrong, as consequences of the above or by themselves"
        findings.append(Finding("consequences", None, None, say, "unexplained"))
    return findings


def _origins(layers: int, wrong: set[Place]) -> list[Place]:
    """Which wrong tensors are not explained by another one that they are computed from."""
    for layer in range(layers):
        for name in ("z", "a"):
            if (name, layer) in wrong:
                return [(name, layer)]
    origins: list[Place] = [("loss", None)] if ("loss", None) in wrong else []
    for layer in range(layers - 1, -1, -1):
        if ("delta", layer) in wrong:
            return [*origins, ("delta", layer)]
        origins += [(name, layer) for name in ("dW", "db") if (name, layer) in wrong]
    return origins + ([("input_gradient", None)] if ("input_gradient", None) in wrong else [])


def _wrong_value(
    place: Place, found: dict[Place, Any], allowed: Tolerance, error: TensorError
) -> Finding:
    """Where one tensor is off and by how much; by one factor throughout, where that is so."""
    name = name_of(place)
    true = allowed.rounded[place]
    got = np.asarray(found[place], np.float64)
    sigma = allowed.sigma[place]
    say = (
        f"{name} is wrong: off by {error.error:.1e} of its largest entry, "
        f"{error.sigmas:.2g} standard deviations of rounding"
    )
    clear = (np.abs(true) > 1e3 * sigma) & np.isfinite(got)
    if clear.any():
        ratio = got[clear] / true[clear]
        middle = float(np.median(ratio))
        spread = float(np.abs(ratio - middle).max())
        if spread <= 1e-3 * abs(middle - 1) + 0.02 * abs(middle) * (middle == 0):
            return Finding("factor", place[1], place[0], f"{name} is {middle:.6g} times the truth")
    worst = np.unravel_index(np.argmax(np.abs(got - true) / sigma), true.shape)
    index = f"{name}{[int(i) for i in worst]}" if true.ndim else name
    say += f"; {index} is {got[worst]:.9g}, not {true[worst]:.9g}"
    return Finding("wrong value", place[1], place[0], say)
