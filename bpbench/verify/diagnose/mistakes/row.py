"""How is a mistake written down? A name with its remedy, and rows that say what it gives.

A row is one wrong way of one step: what stands in the place of the right array. Factors (1/m, a
sign, a 2) are in no row: what a row gives is fitted with a factor, which is named by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bpbench.network import Array


@dataclass(frozen=True)
class Kind:
    """A mistake by its name.

    Attributes:
        name: as ``Finding.mistake`` has it.
        remedy: what should be done about it.
        alone: by tensor (dW, db), the name that it has where only that array shows it.
    """

    name: str
    remedy: str
    alone: Mapping[str, str] = field(default_factory=dict)


KINDS: dict[str, Kind] = {}
"""Every mistake that the diagnosis can name."""


def kind(name: str, remedy: str, **alone: str) -> Kind:
    """A new kind of mistake.

    Raises:
        ValueError: if there is one of this name already, or no remedy.
    """
    if name in KINDS or not remedy:
        raise ValueError(f"{name!r} needs a name of its own, and a remedy")
    KINDS[name] = Kind(name, remedy, alone)
    return KINDS[name]


def remedy(name: str) -> str:
    """What to do about a mistake, as a sentence begins."""
    advice = KINDS[name].remedy
    return advice if advice.partition(" ")[0] in _SYMBOLS else advice[:1].upper() + advice[1:]


_SYMBOLS = ("f'", "f'(z)", "z", "b", "db", "dW", "dz_i")
"""What keeps its case where a sentence begins."""


class Seen(NamedTuple):
    """A mistake's name, and what was seen."""

    name: str
    say: str

    def by(self, tensor: str) -> Seen:
        """The same by the name that it has in a tensor."""
        return Seen(KINDS[self.name].alone.get(tensor, self.name), self.say)


class Guess(NamedTuple):
    """An array that mistakes would have given; no mistakes for the right one."""

    mistakes: tuple[Seen, ...]
    value: Array


@dataclass(frozen=True)
class Row:
    """One wrong way of one step. Its table says of which step, and so in which tensor.

    Attributes:
        say: what is seen; it may use the context ``c`` and the variant ``v``.
        formula: context (and variant) -> what stands in the place of the right array.
        when: context -> whether it makes sense there.
        each: context -> the variants, where there are several.
    """

    kind: Kind
    say: str
    formula: Callable[..., Any]
    when: Callable[[Any], bool] = lambda _: True
    each: Callable[[Any], Iterable[Any]] | None = None

    def values(self, c: Any, **words: object) -> Iterator[tuple[Seen, Any]]:
        """What is seen and what the formula gives, for each variant that makes sense."""
        if not self.when(c):
            return
        if self.each is None:
            yield Seen(self.kind.name, self.say.format(c=c, **words)), self.formula(c)
            return
        for v in self.each(c):
            yield Seen(self.kind.name, self.say.format(c=c, v=v, **words)), self.formula(c, v)


def guesses(rows: Iterable[Row], c: Any, **words: object) -> Iterator[Guess]:
    """What a table's rows give in a context; ``words`` are for what they say."""
    for row in rows:
        for seen, value in row.values(c, **words):
            yield Guess((seen,), value)
