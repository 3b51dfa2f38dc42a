"""Which workers live? Each is started where it is first asked for, and all are ended together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bpbench.execute.process import AnyWorker, CellEnded, Place
from bpbench.execute.protocol import Message

T = TypeVar("T")

START_TRIES = 2
"""How often a worker may fail to start before the rest of its cells are given up."""


class Workers:
    """The living workers of a run.

    Args:
        start: makes a worker for a place.

    Attributes:
        opened: what the worker of a place last said when its backend was made.
    """

    def __init__(self, start: Callable[[Place], AnyWorker]) -> None:
        self.opened: dict[Place, Message] = {}
        self._start = start
        self._living: dict[tuple[Place, str], AnyWorker] = {}
        self._failures: dict[Place, list[CellEnded]] = {}

    def at(self, place: Place, part: str = "") -> AnyWorker:
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

    def bare(self, place: Place) -> AnyWorker:
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

    def attempt(self, place: Place, work: Callable[[], T], part: str = "") -> T | CellEnded:
        """What some work with the worker of a place comes to, or how that ended."""
        try:
            return work()
        except CellEnded as end:
            if end.lost:
                self.lost(place, part)
            return end
