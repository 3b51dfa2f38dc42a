"""Result files become tables for people and programs; no framework is needed, nothing rerun."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bpbench.errors import unknown

if TYPE_CHECKING:
    from bpbench.results.rows import Row

FORMATS = {"markdown": ".md", "csv": ".csv", "json": ".json"}
"""What a report can be, with the ending of its file's name."""


def render(rows: Sequence[Row], format: str = "markdown") -> str:
    """The report of result rows as text.

    Args:
        rows: as ``bpbench.results.store.read`` gives them.
        format: "markdown" (a page for people), "csv" (every cell a line, raw numbers) or "json"
            (the tables and every cell, with all that was measured).

    Raises:
        UsageError: another format.
    """
    if format not in FORMATS:
        raise unknown("report: format", format, FORMATS)
    if format == "json":
        return as_json(document(rows)) + "\n"
    if format == "csv":
        from bpbench.report.cells import flat

        return flat(rows).to_csv(index=False)
    from bpbench.report.markdown import markdown

    return markdown(rows)


def as_json(value: Any) -> str:
    """Strict JSON, indented; a number that is not finite becomes null."""
    from bpbench.results.store import plain

    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def document(rows: Sequence[Row]) -> dict[str, Any]:
    """The report as plain data: the tables' raw numbers, and the rows themselves."""
    from bpbench.report.tables import findings, problems, tables

    return {
        "schema": 1,
        "tables": {table.name: table.lines() for table in tables(rows)},
        "findings": findings(rows),
        "problems": problems(rows),
        "cells": list(rows),
    }
