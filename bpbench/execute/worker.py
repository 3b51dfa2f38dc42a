"""What does the child do? It runs one backend, and computes what the supervisor asks for.

It never judges what it computed. It lives no longer than its parent: a thread of it waits on the
pipe of requests, and ends the process when that is closed; on Linux the kernel ends it as well.
"""

from __future__ import annotations

import ctypes
import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bpbench.backend import Backend, Batches, Data, DeviceArray, Model
from bpbench.errors import MissingBackend, Unsupported, UsageError
from bpbench.execute import protocol
from bpbench.execute.protocol import Message
from bpbench.measure import memory
from bpbench.measure.clock import Sample, block_length, canary, timed
from bpbench.measure.limits import BareProducts
from bpbench.network import MLP, Array, digest
from bpbench.optimizers import Optimizer, from_description

PR_SET_PDEATHSIG = 1
MOST_STEPS = 1 << 20
"""Of a sample: half a second of the fastest step there is."""
MOST_ROWS = 1 << 25
"""Row numbers in a sample's order: 256 MiB."""
ROWS_AT_ONCE = 10_000
"""Rows that are predicted in one call."""
FRAMEWORKS = ("numpy", "scipy", "numba", "torch", "jax", "jaxlib", "optax", "tensorflow", "keras")


class Worker:
    """One backend, and the point that it is busy with; each request is a method.

    Attributes:
        calls: seconds of the first two calls of ``run`` for the point: the first compiles.
    """

    backend: Backend
    model: Model
    data: Data
    optimizer: Optimizer
    bare: BareProducts
    bare_steps: int

    def __init__(self) -> None:
        self.given: dict[str, Array] = {}
        self.losses: list[Array] = []
        self.last: DeviceArray = None
        self.block: Batches | None = None
        self.calls: list[float] = []
        self.upload_s = 0.0

    def open(self, request: Message) -> Message:
        """Import the backend and make it."""
        from bpbench.registry import backend_class

        start = time.perf_counter()
        kind = backend_class(request["backend"], request["mode"])
        try:
            self.backend = kind(
                mode=request["mode"], device=request["device"], dtype=request["dtype"]
            )
        except UsageError as error:  # a mode, device or dtype that it does not have
            raise Unsupported(str(error)) from error
        return {
            "import_s": time.perf_counter() - start,
            "mode": str(self.backend.mode),
            "versions": _versions(),
        }

    def load(self, request: Message) -> Message:
        """Take a network, its data and its optimizer, and put them on the device."""
        self.given = protocol.load(request["data"])
        parameters = protocol.load(request["parameters"])
        self.optimizer = from_description(request["optimizer"])
        self.calls, self.losses = [], []
        # what the network before took is no part of what this one takes
        self.last = self.block = None
        for name in ("model", "data"):
            vars(self).pop(name, None)
        gc.collect()
        memory.forget_peak()
        self.model = self.backend.model(
            MLP(**request["network"]), protocol.parameters_of(parameters)
        )
        self.upload_s = timed(self._upload).wall
        return {"data_digest": digest(self.given), "parameters_digest": digest(parameters)}

    def _upload(self) -> None:
        self.data = self.model.load(self.given["train_x"], self.given["train_y"])
        self.model.synchronize()

    def start(self, request: Message) -> Message:
        """Start again from other parameters."""
        parameters = protocol.load(request["parameters"])
        self.model.set_parameters(protocol.parameters_of(parameters))
        self.losses = []
        return {"parameters_digest": digest(parameters)}

    def backpropagate(self, request: Message) -> Message:
        """Loss, z, a, delta and gradients on some rows, to a file."""
        order = protocol.load(request["order"])
        rows = protocol.in_order(order)[0].ravel()
        found = self.model.backpropagate(
            self.given["train_x"][rows], self.given["train_y"][rows], l2=self.optimizer.l2
        )
        protocol.save(Path(request["out"]), protocol.pack(found))
        return {"order_digest": digest(order)}

    def steps(self, request: Message) -> Message:
        """Train the orders of a file, each by one call of ``run``; the losses are kept here."""
        orders = protocol.load(request["order"])
        seconds = 0.0
        for order in protocol.in_order(orders):
            batches = self.model.batches(self.data, order)
            seconds += self._run(batches).wall
            self.losses.append(np.atleast_1d(self.model.download(self.last)))
        return {
            "order_digest": digest(orders),
            "seconds": seconds,
            "steps": sum(len(order) for order in orders.values()),
            "finite": all(np.isfinite(losses).all() for losses in self.losses[-len(orders) :]),
        }

    def finish(self, request: Message) -> Message:
        """The losses since ``start`` and the parameters as they are now, to a file."""
        parameters = self.model.parameters()
        arrays = dict(parameters.arrays)
        if self.losses:
            arrays["losses"] = np.concatenate(self.losses)
        protocol.save(Path(request["out"]), arrays)
        on_device = None if self.backend.device == "cpu" else memory.peak_device_bytes()
        return {
            "parameters_digest": parameters.digest(),
            "peak_bytes": memory.peak_bytes(),
            "peak_device_bytes": on_device,
        }

    def predict(self, request: Message) -> Message:
        """The network's outputs on every part of the data, to a file."""
        outputs = {}
        for name, x in self.given.items():
            if name.endswith("_x"):
                slices = range(0, len(x), ROWS_AT_ONCE)
                each = [self.model.predict(x[i : i + ROWS_AT_ONCE]) for i in slices]
                outputs[name.removesuffix("_x")] = np.concatenate(each)
        protocol.save(Path(request["out"]), outputs)
        return {}

    def size(self, request: Message) -> Message:
        """Find how many steps make a sample, unless the request says so; the order of the file is
        repeated as need be."""
        orders = protocol.load(request["order"])
        (order,) = protocol.in_order(orders)
        given = self.model.parameters()

        def seconds(steps: int) -> float:
            self.block = self.model.batches(self.data, np.resize(order, (steps, order.shape[1])))
            tries = []
            for _ in range(3):
                self.model.set_parameters(given)
                assert self.block is not None
                tries.append(self._run(self.block).wall)
            return min(tries[1:])  # the first compiles

        most = max(1, min(MOST_STEPS, MOST_ROWS // order.shape[1]))
        steps = request["steps"]
        if steps:
            seconds(1)
        else:
            steps = block_length(seconds, most)
        self.model.set_parameters(given)
        if self.block is None or self.block.shape[0] != steps:
            self.block = self.model.batches(self.data, np.resize(order, (steps, order.shape[1])))
        first, second = self.calls
        return {
            "order_digest": digest(orders),
            "steps": steps,
            "upload_s": self.upload_s,
            "first_call_s": first,
            "second_call_s": second,
        }

    def sample(self, request: Message) -> Message:
        """Time one block of steps from the given parameters; the same work every time."""
        assert self.block is not None, "size comes before sample"
        self.model.set_parameters(protocol.parameters_of(protocol.load(request["parameters"])))
        self.model.synchronize()
        block = self.block
        reply = _beside_canaries(lambda: self._run(block))
        if request["keep"]:
            self.losses = [np.atleast_1d(self.model.download(self.last))]
        return reply

    def size_products(self, request: Message) -> Message:
        """Make the bare matrix products of a step, and find how many steps make a sample."""
        self.bare = BareProducts(request["sizes"], request["batch"], request["dtype"])

        def seconds(steps: int) -> float:
            return min(timed(lambda: self.bare.run(steps)).wall for _ in range(2))

        self.bare_steps = request["steps"] or block_length(seconds, MOST_STEPS)
        return {"steps": self.bare_steps, "layout": self.bare.layout}

    def sample_products(self, request: Message) -> Message:
        """Time one block of bare products."""
        return _beside_canaries(lambda: timed(lambda: self.bare.run(self.bare_steps)))

    def _run(self, batches: Batches) -> Sample:
        def work() -> None:
            self.last = self.model.run(batches, self.optimizer)
            self.model.synchronize()

        sample = timed(work)
        if len(self.calls) < 2:
            self.calls.append(sample.wall)
        return sample


def _beside_canaries(sample: Callable[[], Sample]) -> Message:
    """A sample, and the longer of the canaries before and after it."""
    before = canary()
    found = sample()
    return {"wall": found.wall, "cpu": found.cpu, "canary": max(before, canary())}


def main() -> None:
    """Answer the requests of the pipe REQUESTS on the pipe REPLIES, as the parent PARENT asks."""
    requests, replies, parent = map(int, sys.argv[1:4])
    cores = [int(core) for core in sys.argv[4].split(",") if core]
    _die_with(parent)
    for descriptor in (requests, replies):
        os.set_inheritable(descriptor, False)
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, inbox), daemon=True).start()
    worker = Worker()
    while True:
        request = protocol.decode(inbox.get())
        assert request is not None, "the supervisor writes nothing but messages"
        reply = {"id": request["id"], **answer(getattr(worker, request["do"]), request)}
        sys.stdout.flush()
        _write(replies, protocol.encode(reply))


def answer(method: Callable[[Message], Message], request: Message) -> Message:
    """What a method answers to a request, whatever becomes of it."""
    try:
        return {"ok": True, **method(request)}
    except MissingBackend as error:
        return {"ok": False, "status": "missing", "say": str(error)}
    except Unsupported as error:
        return {"ok": False, "status": "unsupported", "say": str(error)}
    except Exception as error:  # noqa: BLE001  whatever a framework raises is this cell's end
        traceback.print_exc()  # on stderr, which the supervisor reads
        status = "out of memory" if ran_out_of_memory(error) else "crashed"
        text = str(error).strip().partition("\n")[0][:500]
        return {"ok": False, "status": status, "say": f"{type(error).__name__}: {text}"}


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an exception, of whichever framework, says that memory was not to be had."""
    if isinstance(error, MemoryError):
        return True
    if type(error).__name__ in ("OutOfMemoryError", "ResourceExhaustedError"):
        return True
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "can't allocate memory" in text


def _versions() -> dict[str, str]:
    from bpbench import __version__

    found = {"python": sys.version.split()[0], "bpbench": __version__}
    for name in FRAMEWORKS:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)
    return found


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process when its parent ends, and to end it before its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        Path("/proc/self/oom_score_adj").write_text("1000")
    if os.getppid() != parent:  # it ended before we asked
        os._exit(0)


def _read(descriptor: int, inbox: queue.SimpleQueue[bytes]) -> None:
    with os.fdopen(descriptor, "rb") as pipe:
        for line in pipe:
            inbox.put(line)
    os._exit(0)  # the supervisor has closed the pipe, or is no more; no framework may delay this


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    main()
