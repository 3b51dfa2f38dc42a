"""What does a verdict say, and on what evidence? Findings, tensors' errors, the report."""

from __future__ import annotations

import html
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

RIGHT, WRONG = "right", "wrong"
VACUOUS = "vacuous"
NOISE_LIMITED = "noise-limited"
KINK = "kink"
REDUCED_PRECISION = "right at reduced precision"

SIGMAS = 8.0
"""Standard deviations of rounding beyond which an error is none of rounding's."""
SEEN_SIGMAS = 12.0
"""An error of so many is seen for certain, whatever rounding adds to it or takes off it."""

Certainty = Literal["certain", "likely", "possible", "unexplained"]
"""Whether this is what happened, whether something speaks against it ("likely"), whether other
things would explain as much ("possible"), or whether nothing known explains it.
"""
_SURE = {
    "certain": "Certain",
    "likely": "Likely, not certain",
    "possible": "Possible",
    "unexplained": "Not explained",
}
_SHOWN = 3
"""So many alternatives are written out."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that limits what the verdict says; ``str`` is its sentence.

    Attributes:
        mistake: its name, the same for the same kind of mistake.
        layer: the index of the layer (as in W), or None where no one layer is at fault.
        tensor: "loss", "z", "a", "delta", "dW", "db", "input_gradient", "losses", "W", "b" or None.
        say: what is wrong, and what to do.
        certainty: how sure that is.
        why: what makes it so sure or unsure; empty where that goes without saying.
        alternatives: what else would explain it, the likeliest first.
        where: the special place where alone it shows; empty where it shows everywhere.
    """

    mistake: str
    layer: int | None
    tensor: str | None
    say: str
    certainty: Certainty = "certain"
    why: str = ""
    alternatives: tuple[str, ...] = ()
    where: str = ""

    def __post_init__(self) -> None:
        if self.certainty not in _SURE:
            raise ValueError(f"certainty is {self.certainty!r}; expected one of {[*_SURE]}")

    @property
    def certain(self) -> bool:
        """Whether this is what happened, and not only something that would explain it."""
        return self.certainty == "certain"

    def __str__(self) -> str:
        text = f"{self.where}: {self.say}" if self.where else self.say
        if self.why:
            text += f". {_SURE[self.certainty]}: {self.why}"
        if self.alternatives:
            more = len(self.alternatives) - _SHOWN
            text += f". {_SURE[self.certainty]}; as possible: "
            text += "; or ".join(self.alternatives[:_SHOWN])
            text += f"; or {more} more" if more > 0 else ""
        return text

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, in which "say" is the whole sentence."""
        return {**asdict(self), "say": str(self), "certain": self.certain}


@dataclass(frozen=True)
class TensorError:
    """How far one tensor is from the truth.

    Attributes:
        name: "loss", "z", "a", "delta", "dW", "db", "input_gradient", "losses", "W" or "b".
        layer: the index of the layer (as in W), or None.
        error: the largest error, as a share of the largest entry of the truth (of the way that
            training went, for W and b); nan where the tensor cannot be compared, having a wrong
            shape, say.
        sigmas: the largest error in standard deviations of rounding, above 8 is wrong; or nan.
        detection_limit: the smallest relative error of the whole tensor that would have been seen.
    """

    name: str
    layer: int | None
    error: float
    sigmas: float
    detection_limit: float

    @property
    def place(self) -> str:
        """As messages write it: dW[1], loss."""
        return self.name if self.layer is None else f"{self.name}[{self.layer}]"

    @property
    def compared(self) -> bool:
        """Whether the tensor could be compared with the truth."""
        return not math.isnan(self.error)

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The row of the table: place, error, sigmas, detection limit."""
        error, sigmas = (f"{self.error:.1e}", f"{self.sigmas:.2g}") if self.compared else ("–", "–")
        return self.place, error, sigmas, f"{self.detection_limit:.1e}"


@dataclass(frozen=True)
class Report:
    """The verdict on one set of gradients or one training run, with its evidence.

    Attributes:
        verdict: "right", "wrong", "vacuous", "noise-limited", "kink" or "right at reduced
            precision".
        subject: what was judged.
        findings: what is wrong or limits the verdict, the likeliest cause first.
        tensors: the errors, tensor by tensor.
    """

    verdict: str
    subject: str
    findings: tuple[Finding, ...] = ()
    tensors: tuple[TensorError, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong (which "vacuous" and "noise-limited" do not prove)."""
        return self.verdict != WRONG

    @property
    def worst_sigmas(self) -> float:
        """The largest error of all tensors in standard deviations of rounding."""
        return max((t.sigmas for t in self.tensors if t.compared), default=0.0)

    @property
    def max_scaled_error(self) -> float:
        """The largest error of all tensors, as a share of each one's largest entry."""
        return max((t.error for t in self.tensors if t.compared), default=0.0)

    @property
    def detection_limit(self) -> float:
        """A relative error of this size in any one tensor would have been seen."""
        return max((t.detection_limit for t in self.tensors), default=math.inf)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; numbers that are not finite become None."""
        tensors = [asdict(tensor) for tensor in self.tensors]
        return {
            "verdict": self.verdict,
            "subject": self.subject,
            "findings": [finding.as_dict() for finding in self.findings],
            "tensors": [{key: _plain(value) for key, value in t.items()} for t in tensors],
            "worst_sigmas": _plain(self.worst_sigmas),
            "max_scaled_error": _plain(self.max_scaled_error),
            "detection_limit": _plain(self.detection_limit),
        }

    def __str__(self) -> str:
        lines = [f"{self.verdict}: {self.subject}"]
        lines += [f"  - {finding}" for finding in self.findings]
        if self.verdict == RIGHT:
            seen = f"{self.detection_limit:.1e}"
            lines.append(f"  a relative error of {seen} or more in any one tensor would be seen")
        rows = [_HEAD, *(tensor.cells for tensor in self.tensors)] if self.tensors else []
        lines += ["  {:<16}{:>10}{:>10}{:>17}".format(*row) for row in rows]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        says = "".join(f"<li>{html.escape(str(finding))}</li>" for finding in self.findings)
        head = "".join(f"<th>{name}</th>" for name in _HEAD)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in tensor.cells) + "</tr>"
            for tensor in self.tensors
        )
        return (
            f"<p><b>{html.escape(self.verdict)}</b>: {html.escape(self.subject)}</p>"
            f"<ul>{says}</ul><table><tr>{head}</tr>{rows}</table>"
        )


_HEAD = ("tensor", "error", "sigmas", "detection limit")


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
