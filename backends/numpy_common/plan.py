"""How is a fixed sequence of NumPy calls run again and again at the least cost?

It is recorded once, with the very arrays that it works on, and written out as one function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from bpbench.network import Array

BLOCK_BYTES = 256 * 1024
"""Long chains of elementwise calls run block by block, so that the second call of a chain finds
in the cache what the first has written there."""

CACHE_LINE = 64

Key = TypeVar("Key")
Made = TypeVar("Made")

BATCH_SIZES = 2
"""For so many batch sizes the buffers are kept: the usual one and that of a last, short batch."""

Written = Callable[[Iterable[tuple[Any, ...]]], None]
"""What a plan becomes: makes all its calls once for each tuple of what its slots stand for."""


def empty(shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
    """An array to be filled, which starts where a cache line does.

    np.empty promises 16 bytes, and a vector register that straddles two lines is filled in two
    goes: 1.8 us instead of 1.3 for the update of 24,000 parameters.
    """
    kind = np.dtype(dtype)
    size = int(np.prod(shape))
    room = np.empty(size * kind.itemsize + CACHE_LINE, np.uint8)
    start = -room.ctypes.data % CACHE_LINE
    return room[start : start + size * kind.itemsize].view(kind).reshape(shape)


def latest(kept: dict[Key, Made], key: Key, make: Callable[[], Made]) -> Made:
    """What is kept under a key, or is made now; only the latest used ``BATCH_SIZES`` stay."""
    found = kept.pop(key, None)
    while len(kept) >= BATCH_SIZES:
        kept.pop(next(iter(kept)))  # a dict's first is the one not used for longest
    kept[key] = make() if found is None else found
    return kept[key]


class Plan:
    """Calls on fixed arrays, in order, that become one function without a loop or a look-up.

    Args:
        dtype: of the arrays that it makes.
        slots: names of what differs from run to run. Wherever a call has one of these strings,
            it gets what the name stands for in that run.
    """

    def __init__(self, dtype: str, *slots: str) -> None:
        self.dtype = np.dtype(dtype)
        self.slots = slots
        self.calls: list[tuple[Any, tuple[Any, ...], Any]] = []
        self._scratch: dict[np.dtype[Any], Array] = {}

    def call(self, function: Callable[..., Any] | str, *arguments: Any, out: Any = None) -> None:
        """Have ``function(*arguments)`` called next, with ``out=`` where that is given.

        Most functions take their output as the last positional argument, which saves 0.02 us.
        """
        self.calls.append((function, arguments, out))

    def constant(self, value: float) -> Array:
        """A number as a 0-d array, which a ufunc takes in 0.23 us where a float takes 0.40."""
        return np.array(value, self.dtype)

    def empty(self, *shape: int) -> Array:
        """An array that some call fills."""
        return empty(shape, self.dtype)

    def scratch(self, like: Array, dtype: str | None = None) -> Array:
        """An array shaped like another, which the next user of that dtype overwrites."""
        kind = np.dtype(dtype or self.dtype)
        have = self._scratch.get(kind)
        if have is None or have.size < like.size:
            have = self._scratch[kind] = empty(like.size, kind)
        return have[: like.size].reshape(like.shape)

    def written_out(self) -> Written:
        """The plan as a function.

        Without a loop over layers or calls, and with the loop over runs inside, there is nothing
        left between one NumPy call and the next.
        """
        names: dict[int, str] = {}
        objects: dict[str, Any] = {}

        def name(thing: Any) -> str:
            if isinstance(thing, str) and thing in self.slots:
                return thing
            known = names.setdefault(id(thing), f"_{len(names)}")
            objects[known] = thing
            return known

        lines = []
        for function, arguments, out in self.calls:
            given = [*map(name, arguments), *([] if out is None else [f"out={name(out)}"])]
            lines.append(f"        {name(function)}({', '.join(given)})")
        source = "\n".join(
            ["def run(runs):", f"    for {', '.join(self.slots)} in runs:", *lines, ""]
        )
        exec(compile(source, "<plan>", "exec"), objects)
        return objects.pop("run")  # type: ignore[no-any-return]


def blocks(array: Array) -> Iterator[slice]:
    """Slices of the first axis, each of about ``BLOCK_BYTES`` of ``array``."""
    rows = max(1, BLOCK_BYTES // max(1, array.nbytes // len(array)))
    count = -(-len(array) // rows)
    rows = -(-len(array) // count)  # all alike, rather than a small last one
    return (slice(start, start + rows) for start in range(0, len(array), rows))
