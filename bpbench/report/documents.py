"""How does a result reach a file or another program? Strict JSON, and files written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bpbench.errors import UsageError
from bpbench.execute import store


def as_json(value: Any) -> str:
    """Strict JSON, indented; a number that is not finite becomes null."""
    return json.dumps(store.plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is never seen half-written; its folder is made where need be.

    Raises:
        UsageError: a place that cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_whole(path, text.encode())
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
