"""How is a backend asked where there are no worker processes? In this very process."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from bpbench.execute.process import AnyWorker, CellEnded, Place
from bpbench.execute.protocol import Message
from bpbench.execute.worker import Worker, answer


class LocalWorker(AnyWorker):
    """What a worker does, without one: nothing limits its time and memory, and a crash ends all."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._worker = Worker()

    def ask(self, do: str, **what: Any) -> Message:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                reply = answer(getattr(self._worker, do), what)
            except SystemExit as end:
                raise CellEnded("crashed", f"the backend called exit({end.code!r})") from end
        if not reply["ok"]:
            raise CellEnded(reply["status"], reply["say"], printed.getvalue(), lost=False)
        return reply

    def kill(self) -> None:
        """There is nothing to end."""
