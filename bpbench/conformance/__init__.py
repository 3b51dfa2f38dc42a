"""Does a backend keep the contracts of the interface? They are tried one by one.

A contract is a sentence about what a backend does; keeping it is tried on small networks, against
the truth where there is one, and what breaks it is named: not only that training is wrong, but that
the losses are those after the step, or that the order of the rows is ignored.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bpbench.conformance.contract import Contract, Subject, lacking
from bpbench.conformance.results import CONTRACTS as OF_RESULTS
from bpbench.conformance.training import CONTRACTS as OF_TRAINING
from bpbench.errors import Unsupported, UsageError, unknown
from bpbench.registry import BUILT_IN, backend_class, modes_of, split_mode

if TYPE_CHECKING:
    from bpbench.backend import Backend

__all__ = ["ConformanceReport", "Contract", "Tried", "conform", "contracts"]


@dataclass(frozen=True)
class Tried:
    """One contract, in one way of running the backend.

    Attributes:
        contract: the sentence.
        way: mode, device and dtype.
        faults: what breaks it; empty where it is kept.
    """

    contract: str
    way: str
    faults: tuple[str, ...]


@dataclass(frozen=True)
class ConformanceReport:
    """What became of every contract of one backend.

    Attributes:
        left_out: each mode, device and dtype, or contract, that the backend says it cannot do, and
            why.
    """

    backend: str
    tried: tuple[Tried, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every contract was kept."""
        return not any(one.faults for one in self.tried)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "backend": self.backend,
            "passed": self.passed,
            "tried": [asdict(one) for one in self.tried],
            "left_out": dict(self.left_out),
        }

    @classmethod
    def of(cls, backend: str, documents: Sequence[dict[str, Any]]) -> ConformanceReport:
        """One report from those of several modes, each as ``as_dict`` gives it."""
        tried = tuple(
            Tried(one["contract"], one["way"], tuple(one["faults"]))
            for document in documents
            for one in document["tried"]
        )
        left_out = [pair for document in documents for pair in document["left_out"].items()]
        return cls(backend, tried, tuple(left_out))

    def __str__(self) -> str:
        broken = [one for one in self.tried if one.faults]
        kept = len(self.tried) - len(broken)
        lines = [f"{self.backend}: {kept} of {len(self.tried)} contracts kept"]
        for one in broken:
            lines.append(f"  broken ({one.way}): {one.contract}")
            lines += [f"    - {fault}" for fault in one.faults]
        lines += [f"  not tried ({way}): {why}" for way, why in self.left_out]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from tabulate import tabulate

        rows = [(one.contract, one.way, "; ".join(one.faults) or "kept") for one in self.tried]
        table = tabulate(rows, ("contract", "way", "found"), tablefmt="html", disable_numparse=True)
        return f"<p><b>{html.escape(self.backend)}</b></p>{table}"


def contracts(
    backend: str | type[Backend],
    modes: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
) -> list[Contract]:
    """Every contract of a backend, in each of its modes, devices and dtypes.

    Args:
        backend: a class, a name, "name:mode" or "path.py:Class".
        modes, dtypes: those to try; all that it claims where None.
        devices: likewise; "cpu", or its first, where None.

    Raises:
        UsageError: no such backend, mode, device or dtype.
        MissingBackend: its package is not installed.
    """
    kind, wanted = _class_of(backend, modes)
    ways = [
        Subject(
            kind if not isinstance(backend, str) else backend_class(split_mode(backend)[0], mode),
            mode, device, dtype,
        )
        for mode in wanted
        for device in devices or (("cpu",) if "cpu" in kind.devices else kind.devices[:1])
        for dtype in dtypes or kind.dtypes
    ]  # fmt: skip
    if not ways:
        raise UsageError(f"backend {kind.__name__} claims no mode, device or dtype to try")
    return [
        Contract(sentence, subject, test)
        for subject in ways
        for sentence, test in (*OF_RESULTS, *OF_TRAINING)
    ]


def _class_of(
    backend: str | type[Backend], modes: Sequence[str] | None
) -> tuple[type[Backend], Sequence[str]]:
    if not isinstance(backend, str):
        from bpbench.backend import Backend

        if not (isinstance(backend, type) and issubclass(backend, Backend)):
            raise UsageError(f"{backend!r} is no subclass of bpbench.Backend")
        kind, named = backend, None
    else:
        name, named = split_mode(backend)
        kind = backend_class(name, named)
    known = getattr(kind, "modes", ())
    every = modes_of(backend) if isinstance(backend, str) and backend in BUILT_IN else known
    wanted = modes or ((named,) if named else every)
    for mode in wanted:
        if mode not in known and not isinstance(backend, str):
            raise unknown(f"backend {kind.__name__}: mode", mode, known)
    return kind, wanted


def conform(
    backend: str | type[Backend],
    *,
    modes: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    progress: Callable[[int, int, Tried], None] = lambda done, total, tried: None,
) -> ConformanceReport:
    """Try every contract of a backend; see ``contracts`` for the arguments.

    A combination of mode, device and dtype that the backend says it cannot do (``Unsupported``) is
    left out, and so is one contract for which it lacks a formula; the report names both. Nothing
    else that it raises ends the suite.

    Args:
        progress: told, after each contract, how many of how many are done and what became of it.
    """
    asked = contracts(backend, modes, devices, dtypes)
    tried = []
    unsupported: dict[str, str] = {}
    for done, contract in enumerate(asked, 1):
        if contract.way in unsupported:
            continue
        try:
            tried.append(Tried(contract.sentence, contract.way, tuple(contract.keep())))
        except Unsupported as error:
            whole = not contract.subject.exists()
            unsupported[contract.way if whole else str(contract)] = str(error)
        else:
            progress(done, len(asked), tried[-1])
    if not tried:
        reasons = "; ".join(dict.fromkeys(unsupported.values()))
        raise UsageError(f"no combination of mode, device and dtype could be tried: {reasons}")
    for way, subject in {contract.way: contract.subject for contract in asked}.items():
        if way not in unsupported and not any(one.faults for one in tried if one.way == way):
            missing = lacking(subject)
            if missing:
                unsupported[way] = f"there is no formula for {', '.join(missing)}"
    name = backend if isinstance(backend, str) else backend.__name__
    return ConformanceReport(name, tuple(tried), tuple(unsupported.items()))
