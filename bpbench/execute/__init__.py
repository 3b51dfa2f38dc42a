"""Which worker does what, and what becomes of it? Running experiments, one process per backend."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpbench.execute.options import RunOptions
    from bpbench.execute.supervisor import run

__all__ = ["RunOptions", "run"]

_LAZY = {"RunOptions": "bpbench.execute.options", "run": "bpbench.execute.supervisor"}
"""Imported when it is asked for: a worker has no use for the supervisor."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'bpbench.execute' has no attribute {name!r}")
