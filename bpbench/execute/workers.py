"""Which workers live? Each is started where it is first asked for, and all are ended together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bpbench.execute.process import CellEnded, Limits, Place, WorkerProcess
from bpbench.execute.protocol import Message

START_TRIES = 2
"""How often a worker may fail to start before the rest of its cells are given up."""


class Workers:
    """The living workers of a run.

    Args:
        scratch: a folder for their logs.
        limits: of every worker.
        interpreters: backend -> the Python that runs it.
        cores: threads -> the cores that a worker with so many may use.

    Attributes:
        opened: what the worker of a place last said when its backend was made.
    """

    def __init__(
        self,
        scratch: Path,
        limits: Limits,
        interpreters: Mapping[str, str],
        cores: Mapping[int, Sequence[int]],
    ) -> None:
        self.opened: dict[Place, Message] = {}
        self._scratch = scratch
        self._limits = limits
        self._interpreters = interpreters
        self._cores = cores
        self._living: dict[tuple[Place, str], WorkerProcess] = {}
        self._started = 0
        self._failures: dict[Place, list[CellEnded]] = {}

    def at(self, place: Place, part: str = "") -> WorkerProcess:
        """The worker of a place, started where there is none.

        Args:
            part: tells several workers of one place apart.

        Raises:
            CellEnded: it cannot be started, now or as often as was tried before.
        """
        if (place, part) in self._living:
            return self._living[place, part]
        failures = self._failures.setdefault(place, [])
        if failures and (not failures[-1].lost or len(failures) >= START_TRIES):
            raise failures[-1]
        worker = self._start(place)
        self._living[place, part] = worker
        try:
            worker.open()
        except CellEnded as end:
            self.lost(place, part)
            failures.append(end)
            raise
        self.opened[place] = worker.opened
        failures.clear()
        return worker

    def bare(self, place: Place) -> WorkerProcess:
        """A worker without a backend, in the environment of a place, started where there is none.

        Raises:
            CellEnded: it cannot be started.
        """
        if (place, "") not in self._living:
            self._living[place, ""] = self._start(place)
        return self._living[place, ""]

    def lost(self, place: Place, part: str = "") -> None:
        """Forget a worker, and end it where it has not ended by itself."""
        worker = self._living.pop((place, part), None)
        if worker:
            worker.kill()

    def end(self) -> None:
        """End all workers."""
        while self._living:
            self._living.popitem()[1].kill()

    def _start(self, place: Place) -> WorkerProcess:
        self._started += 1
        return WorkerProcess(
            place, self._interpreters[place.backend], self._cores[place.threads], self._limits,
            self._scratch / f"worker-{self._started}.log",
        )  # fmt: skip
