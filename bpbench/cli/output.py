"""Where does a command write? Results to stdout, all else to stderr; a closed pipe ends neither."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from bpbench import report

if TYPE_CHECKING:
    from bpbench.results.rows import Row

NOTE_WIDTH = 80


def show(text: str) -> None:
    """Write a result to stdout."""
    _write(sys.stdout, text)


def note(text: str) -> None:
    """Write a log line to stderr."""
    _write(sys.stderr, text)


def document(value: Any) -> None:
    """Write one JSON document to stdout."""
    show(report.as_json(value))


def results(rows: Sequence[Row], json_: bool) -> None:
    """Write the tables of result rows and, below them, a sentence for all that is not right."""
    if json_:
        document(report.document(rows))
        return
    from bpbench.report.tables import findings, problems, tables

    for table in tables(rows):
        notes = (textwrap.fill(text, NOTE_WIDTH) for text in table.notes)
        show("\n\n".join((table.title, table.text(), *notes)) + "\n")
    for sentence in (*findings(rows), *problems(rows)):
        show(sentence)


def _write(stream: TextIO, text: str) -> None:
    """Write lines. Whoever read the pipe may have gone (``| head``): that is no error of ours."""
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
