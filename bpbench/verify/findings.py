"""What does a verdict say, and on what evidence? Findings, tensors' errors, the report."""

from __future__ import annotations

import html
import math
from dataclasses import asdict, dataclass
from typing import Any

RIGHT, WRONG = "right", "wrong"
VACUOUS = "vacuous"
NOISE_LIMITED = "noise-limited"
KINK = "kink"
REDUCED_PRECISION = "right at reduced precision"

SIGMAS = 8.0
"""Standard deviations of rounding beyond which an error is none of rounding's."""
SEEN_SIGMAS = 12.0
"""An error of so many is seen for certain, whatever rounding adds to it or takes off it."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that limits what the verdict says.

    Attributes:
        mistake: its name, the same for the same kind of mistake.
        layer: the index of the layer (as in W), or None where no one layer is at fault.
        tensor: "loss", "z", "a", "delta", "dW", "db", "input_gradient", "losses", "W", "b" or None.
        say: the sentence for people.
        certain: whether this is what happened, or only would explain it.
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
        error: the largest error, as a share of the largest entry of the truth (of the way that
            training went, for W and b).
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
        return max((t.sigmas for t in self.tensors), default=0.0)

    @property
    def max_scaled_error(self) -> float:
        """The largest error of all tensors, as a share of each one's largest entry."""
        return max((t.error for t in self.tensors), default=0.0)

    @property
    def detectable(self) -> float:
        """A relative error of this size in any one tensor would have been seen."""
        return max((t.detectable for t in self.tensors), default=math.inf)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; numbers that are not finite become None."""
        tensors = [asdict(tensor) for tensor in self.tensors]
        return {
            "verdict": self.verdict,
            "subject": self.subject,
            "findings": [asdict(finding) for finding in self.findings],
            "tensors": [{key: _plain(value) for key, value in t.items()} for t in tensors],
            "worst_sigmas": _plain(self.worst_sigmas),
            "max_scaled_error": _plain(self.max_scaled_error),
            "detectable": _plain(self.detectable),
        }

    def __str__(self) -> str:
        lines = [f"{self.verdict}: {self.subject}"]
        lines += [f"  - {finding.say}" for finding in self.findings]
        if self.verdict == RIGHT:
            seen = f"{self.detectable:.1e}"
            lines.append(f"  a relative error of {seen} or more in any one tensor would be seen")
        if self.tensors:
            lines.append(f"  {'tensor':<16}{'error':>10}{'sigmas':>10}{'seen from':>12}")
        for t in self.tensors:
            lines.append(f"  {t.place:<16}{t.error:>10.1e}{t.sigmas:>10.2g}{t.detectable:>12.1e}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        says = "".join(f"<li>{html.escape(finding.say)}</li>" for finding in self.findings)
        rows = "".join(
            f"<tr><td>{html.escape(t.place)}</td><td>{t.error:.1e}</td>"
            f"<td>{t.sigmas:.2g}</td><td>{t.detectable:.1e}</td></tr>"
            for t in self.tensors
        )
        return (
            f"<p><b>{html.escape(self.verdict)}</b>: {html.escape(self.subject)}</p>"
            f"<ul>{says}</ul><table><tr><th>tensor</th><th>error</th><th>sigmas</th>"
            f"<th>seen from</th></tr>{rows}</table>"
        )


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
