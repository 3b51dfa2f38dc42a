"""How does a result reach another program? As strict JSON."""

from __future__ import annotations

import json
from typing import Any

from bpbench.results.store import plain


def as_json(value: Any) -> str:
    """Strict JSON, indented; a number that is not finite becomes null."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
