"""How is a fixed sequence of NumPy calls run again and again at the least cost?

It is recorded once, with the very arrays that it works on, and written out as one function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bpbench.network import Array

BLOCK_BYTES = 128 * 1024
"""Long chains of elementwise calls run block by block, so that the second call of a chain finds
in the cache what the first has written there."""

SPREAD = 4096
"""Up to this many entries a vector is copied across an array before it meets another."""


class Plan:
    """Calls on fixed arrays, in order, that become one function without a loop or a look-up.

    Args:
        slots: names of the arguments of that function: arrays that differ from run to run. Call
            arguments that are one of these strings stand for what is passed under that name.
    """

    def __init__(self, dtype: str, *slots: str) -> None:
        self.dtype = np.dtype(dtype)
        self.slots = slots
        self._names: dict[str, Any] = {}
        self._known: dict[int, str] = {}
        self._lines: list[str] = []
        self._scratch: dict[np.dtype[Any], Array] = {}

    def call(self, function: Callable[..., Any] | str, *arguments: Any, out: Any = None) -> None:
        """Have ``function(*arguments)`` called next, with ``out=`` where that is given.

        Most functions take their output as the last positional argument, which saves 0.02 us.
        """
        given = [self._name(argument) for argument in arguments]
        if out is not None:
            given.append(f"out={self._name(out)}")
        self._lines.append(f"{self._name(function)}({', '.join(given)})")

    def constant(self, value: float) -> Array:
        """A number as a 0-d array, which a ufunc takes in 0.23 us where a float takes 0.40."""
        return np.array(value, self.dtype)

    def empty(self, *shape: int) -> Array:
        """A buffer."""
        return np.empty(shape, self.dtype)

    def scratch(self, like: Array, dtype: str | None = None) -> Array:
        """A buffer shaped like an array, which the next user of that dtype overwrites."""
        kind = np.dtype(dtype or self.dtype)
        have = self._scratch.get(kind)
        if have is None or have.size < like.size:
            have = self._scratch[kind] = np.empty(like.size, kind)
        return have[: like.size].reshape(like.shape)

    def spread(self, ufunc: np.ufunc, array: Any, vector: Array, out: Any, like: Array) -> None:
        """Have ``ufunc(array, vector, out)`` called next, where ``vector`` is broadcast.

        A ufunc takes 0.5 us longer to set out on arrays of different shapes; to copy a vector
        across a small array first takes only 0.2 us more than what a ufunc takes anyway.

        Args:
            array, out: of the shape of ``like``; they may be slots.
        """
        if like.size <= SPREAD:
            across = np.empty_like(like)
            self.call(np.copyto, across, vector)
            vector = across
        self.call(ufunc, array, vector, out)

    def written_out(self) -> Callable[..., None]:
        """The calls as the body of one function of the slots."""
        source = "\n    ".join([f"def run({', '.join(self.slots)}):", "pass", *self._lines])
        exec(compile(source, "<plan>", "exec"), self._names)
        return self._names.pop("run")  # type: ignore[no-any-return]

    def _name(self, argument: Any) -> str:
        if isinstance(argument, str) and argument in self.slots:
            return argument
        if id(argument) not in self._known:
            name = f"_{len(self._known)}"
            self._known[id(argument)] = name
            self._names[name] = argument  # also keeps it alive, and so its id its own
        return self._known[id(argument)]


def blocks(array: Array) -> Iterator[slice]:
    """Slices of the first axis, each of about ``BLOCK_BYTES`` of ``array``."""
    rows = max(1, BLOCK_BYTES // max(1, array.nbytes // len(array)))
    count = -(-len(array) // rows)
    rows = -(-len(array) // count)  # all alike, rather than a small last one
    return (slice(start, start + rows) for start in range(0, len(array), rows))
