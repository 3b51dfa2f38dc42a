"""How is a worker started, asked and ended, and how does one see that it is lost?"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bpbench.cells import DEFAULT_MODE, Cell, Point
from bpbench.execute import environment, protocol
from bpbench.execute.protocol import Message
from bpbench.measure import memory
from bpbench.results.rows import Status

TAIL_LINES, TAIL_BYTES = 30, 8_000
"""Of a lost worker's stderr."""
LOOK = 0.25
"""Seconds between two looks at a busy worker's memory and life."""


class Place(NamedTuple):
    """What a worker process is for; all of it is fixed before the framework is imported."""

    backend: str
    mode: str
    device: str
    dtype: str
    threads: int

    @classmethod
    def of(cls, cell: Cell) -> Place:
        """Where a cell's worker is."""
        return cls(cell.backend, cell.mode, cell.device, cell.dtype, cell.threads)


class CellEnded(Exception):
    """A worker did not do what it was asked to.

    Attributes:
        status: the cell's, such as "crashed".
        say: what happened, for people.
        stderr: the last lines that the worker wrote, where it is lost.
        lost: whether the worker is no more.
    """

    def __init__(self, status: Status, say: str, stderr: str = "", lost: bool = True) -> None:
        super().__init__(say)
        self.status = status
        self.say = say
        self.stderr = stderr
        self.lost = lost


@dataclass(frozen=True)
class Limits:
    """What a worker may take: seconds without an answer, and bytes of resident memory."""

    seconds: float
    memory: int


def workers_can_be_had() -> bool:
    """Whether this system has what worker processes need: pipes to hand down, process groups."""
    try:
        import fcntl  # noqa: F401  # POSIX has it
    except ImportError:
        return False
    return True


class AnyWorker(ABC):
    """Whoever computes what is asked for.

    Args:
        place: what it is for.

    Attributes:
        opened: what it said when its backend was made.
        loaded: the point that it has on its device.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.loaded: Point | None = None
        self.opened: Message = {}

    @abstractmethod
    def ask(self, do: str, **what: Any) -> Message:
        """One request and its answer.

        Raises:
            CellEnded: the worker could not do it, or is lost; if lost, it has been ended.
        """

    @abstractmethod
    def kill(self) -> None:
        """End the worker and what it has started, at once; it holds nothing that wants saving."""

    def open(self) -> None:
        """Have it import its backend.

        Raises:
            CellEnded: as ``ask``; "missing" and "unsupported" are said here.
        """
        backend, mode, device, dtype, _ = self.place
        named = None if mode == DEFAULT_MODE else mode
        self.opened = self.ask("open", backend=backend, mode=named, device=device, dtype=dtype)


class WorkerProcess(AnyWorker):
    """One worker, from its start until it is ended or lost.

    Args:
        place: what it is for.
        python: the interpreter; bpbench must be installed there.
        cores: the cores that it may run on.
        limits: the answer to a request is waited for no longer than this.
        log: where its stdout and stderr go.
    """

    def __init__(
        self, place: Place, python: str, cores: Sequence[int], limits: Limits, log: Path
    ) -> None:
        super().__init__(place)
        self.limits = limits
        self.log = log
        self._ended = False
        self._asked = 0
        self._received = b""
        self._kills = memory.system_kills()
        variables = environment.worker_environment(*place)
        if python == sys.executable:
            variables = environment.with_own_package(variables)
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        command = [python, "-P", "-m", "bpbench.execute.worker", str(requests), str(replies)]
        command += [str(os.getpid()), ",".join(map(str, cores))]
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    env=variables, pass_fds=(requests, replies), start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            os.close(self._requests)
            os.close(self._replies)
            raise CellEnded(
                "crashed", f"the interpreter {python} cannot be run: {error}"
            ) from error
        finally:
            os.close(requests)
            os.close(replies)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(self, do: str, **what: Any) -> Message:
        self._asked += 1
        try:
            os.write(self._requests, protocol.encode({"id": self._asked, "do": do, **what}))
        except BrokenPipeError:
            raise self._lost() from None
        reply = protocol.decode(self._line())
        if reply is None or reply.get("id") != self._asked or "ok" not in reply:
            raise self._given_up(
                "crashed",
                "something other than an answer came from the worker; its backend must not write "
                "to file descriptors that are not its own",
            )
        if reply["ok"]:
            return reply
        if reply["status"] in ("crashed", "out of memory"):
            raise self._given_up(reply["status"], reply["say"])
        raise CellEnded(reply["status"], reply["say"], lost=False)

    def kill(self) -> None:
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._requests)
        os.close(self._replies)

    def _line(self) -> bytes:
        """The next line of the worker, without its end."""
        deadline = time.monotonic() + self.limits.seconds
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0:
                say = f"no answer within {self.limits.seconds:g} s; a longer --timeout may help"
                raise self._given_up("timeout", say)
            ready, _, _ = select.select([self._replies], [], [], min(left, LOOK))
            if ready:
                got = os.read(self._replies, 1 << 16)
                self._received += got
                if not got:
                    raise self._lost()
                if len(self._received) > protocol.LONGEST_LINE:
                    break
            elif self._process.poll() is not None:
                raise self._lost()
            else:
                self._check_memory()
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _check_memory(self) -> None:
        used = memory.resident_bytes(self.pid)
        if used > self.limits.memory:
            raise self._given_up(
                "out of memory",
                f"the worker took {used / 2**30:.2g} GiB, more than the "
                f"{self.limits.memory / 2**30:.2g} GiB that it may have",
            )

    def _lost(self) -> CellEnded:
        """What to say of a worker that is no more, or has closed its pipe."""
        try:
            code = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            code = None
        if code is None:
            return self._given_up("crashed", "the worker closed its pipe to the supervisor")
        if code >= 0:
            return self._given_up("crashed", f"the worker ended early, with exit code {code}")
        name = signal.Signals(-code).name
        if name == "SIGKILL" and memory.system_kills() > self._kills:
            return self._given_up("out of memory", "the system ended the worker: no memory left")
        if "bad_alloc" in self._tail():
            return self._given_up("out of memory", f"no memory left: std::bad_alloc, {name}")
        return self._given_up("crashed", f"the worker was ended by {name}")

    def _given_up(self, status: Status, say: str) -> CellEnded:
        """End the worker, and what to raise of it."""
        self.kill()
        return CellEnded(status, say, self._tail())

    def _tail(self) -> str:
        """The last lines of what the worker has written."""
        with self.log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-TAIL_LINES:])
