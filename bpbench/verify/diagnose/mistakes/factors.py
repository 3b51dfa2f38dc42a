"""What is a factor that a gradient is multiplied by? What it is in every probe."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from bpbench.network import Array
from bpbench.verify.diagnose.mistakes.row import Seen, kind

Quantities = Mapping[str, Array]
"""What a factor may be made of, with its value in each probe: m, n_L, n_out, n_in, n_1, n_above."""
WORDS = {
    "m": "the number of samples",
    "m - 1": "the number of samples less 1",
    "n_L": "the number of outputs",
    "n_1": "the number of inputs",
    "n_out": "the number of the layer's units",
    "n_in": "the number of the layer's inputs",
    "n_above": "the number of units of the layer above",
}
SIGN = kind("sign", "the error is a - y, not y - a, and the gradient is what is subtracted")
HALF = kind("half missing or extra", "loss and gradient disagree on the 1/2")
LOGARITHM = kind("logarithm of another base", "the loss has the natural logarithm")
LESS_ONE = kind("divided by m - 1", "the loss is the mean over the samples: divide by m")
WRONG_AXIS = kind(
    "divided by the wrong axis", "divide by the number of samples: check which axis holds them"
)
FIXED_BATCH = kind(
    "hard-coded batch size", "divide by the number of samples that came, not by a fixed one"
)
CONSTANT = kind("constant factor", "look for a learning rate, or another constant of this size")
STEP = kind(
    "learning rate folded in",
    "return the gradient, not the step, or look for another constant of this size",
)
POWERS = {
    ("m", 1): (kind("no 1/m", "divide by the batch size: the loss is the mean over the samples"),
               "it is m times what it should be"),
    ("m", -1): (kind("1/m twice", "average over the samples once, not twice", db="db averaged"),
                "it is 1/m of what it should be"),
    ("n_L", -1): (kind("mean over outputs too",
                       "sum the loss over the outputs; average it over the samples only"),
                  "it is 1/n_L of what it should be"),
}  # fmt: skip
"""The powers of a size that have a name of their own."""
kind("db averaged", "sum delta over the rows; the 1/m is in it already")
TIMES = kind("multiplied by a size", "look for a sum where a mean, or nothing, belongs")
OVER = kind("divided by a size", "look for a mean where a sum belongs")
CONSTANTS = {
    1.0: (), -1.0: (SIGN,), 2.0: (HALF,), 0.5: (HALF,), -2.0: (SIGN, HALF), -0.5: (SIGN, HALF),
}  # fmt: skip
"""The numbers that are a mistake by themselves."""


def read_factor(
    factors: Array, quantities: Quantities, tensor: str, tolerance: float
) -> list[tuple[Seen, ...]]:
    """The mistakes that a factor may be, the fewest and simplest first; empty where it is no rule.

    Args:
        factors: (P,), as found in each probe.
        tensor: "delta", "dW", "db" or "loss": the same factor has another name in each.
        tolerance: the relative deviation that the fit allows.
    """
    if not np.isfinite(factors).all() or not factors.all():
        return []
    if np.allclose(factors, 1, rtol=tolerance, atol=0):
        return [()]
    found: list[tuple[Seen, ...]] = []
    seen: dict[tuple[float, ...], int] = {}
    for powers in _powers(quantities):
        product = np.prod([quantities[name] ** float(p) for name, p in powers], axis=0)
        product = product * np.ones(len(factors))
        rest = factors / product
        mean = float(rest.mean())
        if not np.allclose(rest, mean, rtol=tolerance, atol=0):
            continue
        near = next((k for k in CONSTANTS if abs(mean / k - 1) < tolerance), None)
        if near is None and powers and not _of_fixed_batch(powers, product):
            continue
        key = (near or 0.0, *product)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= (2 if len(powers) == 1 else 1):  # of equal sizes, one other name will do
            mistakes = _free(powers, mean, tensor, factors) if near is None else (
                *_constant(near), *_sizes(powers, tensor, factors)
            )  # fmt: skip
            found.append(mistakes)
    found.sort(key=len)
    return [mistakes for mistakes in found if len(mistakes) == len(found[0])]


def _powers(quantities: Quantities) -> Iterator[tuple[tuple[str, int], ...]]:
    """Products of powers of the quantities, the simplest first; a quantity that is 1 is none."""
    names = [name for name, values in quantities.items() if (values != 1).any()]
    yield ()
    yield from (((name, power),) for power in (-1, 1, -2, 2) for name in names)
    for one, other in itertools.combinations(names, 2):
        yield from (((one, p), (other, q)) for p in (-1, 1) for q in (-1, 1))


def _of_fixed_batch(powers: tuple[tuple[str, int], ...], product: Array) -> bool:
    return powers in ((("m", 1),), (("m", -1),)) and (np.ptp(product) > 0 or len(product) == 1)


def _free(
    powers: tuple[tuple[str, int], ...], constant: float, tensor: str, factors: Array
) -> tuple[Seen, ...]:
    """A constant that is no mistake by itself, or one that a fixed batch size leaves."""
    if powers:
        say = f"it is {_listed(factors)} times what it should be: {constant:.4g} m"
        return (Seen(FIXED_BATCH.name, say),)
    say = f"it is {constant:.6g} times what it should be in every probe"
    for base in (2, 10):
        if abs(constant * np.log(base) - 1) < 1e-9:
            return (Seen(LOGARITHM.name, f"{say}, which is 1 / ln {base}"),)
    step = tensor == "delta" and abs(constant) < 1
    return (Seen((STEP if step else CONSTANT).name, say),)


def _constant(k: float) -> Iterator[Seen]:
    size = f"it is {'twice' if abs(k) == 2 else 'half'} what it should be"
    for mistake in CONSTANTS[k]:
        yield Seen(mistake.name, "it has the opposite sign" if mistake is SIGN else size)


def _sizes(powers: tuple[tuple[str, int], ...], tensor: str, factors: Array) -> Iterator[Seen]:
    """What a product of powers is called."""
    if len(powers) == 2 and powers[0] == ("m", 1) and powers[1][1] == -1:
        wrong = powers[1][0]
        less = Seen(LESS_ONE.name, "it is divided by m - 1, not by m")
        say = f"it is divided by {WORDS[wrong]}, not by the number of samples"
        yield less if wrong == "m - 1" else Seen(WRONG_AXIS.name, say)
        return
    times = f" ({_listed(factors)} times in the probes)" if len(powers) == 1 else ""
    for name, power in powers:
        if (name, power) in POWERS:
            mistake, say = POWERS[name, power]
            yield Seen(mistake.name, say + times).by(tensor)
            continue
        exponent = "" if abs(power) == 1 else f"^{abs(power)}"
        mistake, verb = (TIMES, "multiplied") if power > 0 else (OVER, "divided")
        yield Seen(mistake.name, f"it is {verb} by {WORDS[name]}{exponent}{times}")


def _listed(factors: Array) -> str:
    shown = [f"{f:.4g}" for f in dict.fromkeys(np.round(factors, 12).tolist())]
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "")
