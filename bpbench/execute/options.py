"""What is asked of a run, beside its experiments? One description, checked when it is made."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bpbench.cells import QUESTIONS, Cell, check_whole
from bpbench.errors import UsageError, unknown
from bpbench.experiment import Experiment
from bpbench.registry import split_mode

TIMEOUT = 300.0
ROUNDS = 30
PROCESSES = 3
REPLACING = ("backends", "devices", "dtypes", "seeds", "threads", "questions")
"""What replaces a field of the experiments."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How experiments are run; the first six replace what they say, where they are given.

    Args:
        backends: such as "torch", "jax:eager" or "my.py:Mine".
        devices, dtypes, seeds, threads, questions: as in ``Experiment``.
        out: the folder of results, made where it is not there; None to keep no results.
        retry: run those cells again, too, that crashed, timed out or ran out of memory; cells of
            missing backends are always tried again, finished ones never.
        timeout: seconds that a worker may take for one answer (a training gives about 50), before
            its cell is given up.
        memory_limit: bytes that a worker may have resident; 90 % of what is free where None.
        rounds: samples that each backend gives to a timing, over all its processes.
        processes: fresh processes that each backend is timed in.
        python: backend -> the interpreter that runs it, where it is not this one.
        blocks_like: backend -> another, such as "keras:jax", run beside it: samples of the first
            are then of as many steps as those of the other. For two recipes of the same work, so
            that what a call costs is shared out alike.
        command: what a person typed for this; rows keep it, so that reports can say it.

    Raises:
        UsageError: something that cannot be meant.
    """

    backends: Sequence[str] | None = None
    devices: Sequence[str] | None = None
    dtypes: Sequence[str] | None = None
    seeds: int | Sequence[int] | None = None
    threads: int | Sequence[int] | None = None
    questions: Sequence[str] | None = None
    out: str | Path | None = "results"
    retry: bool = False
    timeout: float = TIMEOUT
    memory_limit: int | None = None
    rounds: int = ROUNDS
    processes: int = PROCESSES
    python: Mapping[str, str] = field(default_factory=dict)
    blocks_like: Mapping[str, str] = field(default_factory=dict)
    command: str = ""

    def __post_init__(self) -> None:
        for name, value in (("timeout", self.timeout), ("memory_limit", self.memory_limit)):
            if value is not None and not value > 0:
                raise UsageError(f"{name} is {value!r}; expected a number above 0")
        check_whole("rounds", self.rounds)
        check_whole("processes", self.processes)
        for question in self.questions or ():
            if question not in QUESTIONS:
                raise unknown("question", question, QUESTIONS)
        for name, interpreter in self.python.items():
            if not Path(interpreter).is_file():
                raise UsageError(f"python: there is no interpreter {interpreter} for {name!r}")

    def cells(self, experiments: Sequence[Experiment]) -> list[Cell]:
        """The cells of all experiments, those with the same workers beside one another.

        Raises:
            UsageError: these options cannot be meant for these experiments.
        """
        names = [experiment.name for experiment in experiments]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"two experiments are called {name!r}; give each its own name")
        replacing = {name: getattr(self, name) for name in REPLACING}
        cells = [cell for experiment in experiments for cell in experiment.cells(**replacing)]
        backends = {cell.backend for cell in cells}
        for name in self.blocks_like:
            if name not in backends:
                raise unknown("blocks_like: backend", name, backends)
        for name in self.python:
            if split_mode(name)[0] not in backends:
                raise unknown("python: backend", name, backends)
        by_workers: dict[object, list[Cell]] = {}
        for cell in cells:
            by_workers.setdefault((cell.dtype, cell.device, cell.threads), []).append(cell)
        return [cell for several in by_workers.values() for cell in several]

    def interpreter(self, backend: str) -> str:
        """The Python that runs a backend."""
        return str(self.python.get(backend, sys.executable))
