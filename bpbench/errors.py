"""How does bpbench tell a person what is wrong, and what to do about it?

Every message names the subject, what was received, what is allowed and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BpbenchError(Exception):
    """A mistake that a person can mend: shown as one message, never as a traceback."""


class UsageError(BpbenchError, ValueError):
    """A description, an argument or a configuration that cannot be meant."""


class MissingBackend(BpbenchError, ImportError):
    """A backend whose package is not installed; the message says how to get it."""


class Unsupported(BpbenchError):
    """A combination of backend, mode, device and dtype that cannot be had; the message says why."""


def unknown(subject: str, received: object, allowed: Iterable[str]) -> UsageError:
    """The error for a name that is not among those allowed, with the nearest one suggested."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(received), names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UsageError(
        f"{subject} {received!r} is unknown; expected one of: {', '.join(names)}{hint}"
    )
