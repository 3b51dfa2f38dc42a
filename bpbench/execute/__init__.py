"""Which worker does what, and what becomes of it? Running experiments, one process per backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpbench.execute.supervisor import run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    if name == "run":  # when it is asked for: a worker has no use for the supervisor
        from bpbench.execute.supervisor import run

        return run
    raise AttributeError(f"module 'bpbench.execute' has no attribute {name!r}")
