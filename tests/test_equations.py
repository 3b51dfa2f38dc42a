"""Does every cited equation exist?"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "equations.md"
CITED = re.compile(r"[Ee]quations?\s+((?:\(\d+\)(?:,\s+|\s+and\s+|\s+to\s+|,\s+and\s+)?)+)")


def stated() -> list[int]:
    return [int(n) for n in re.findall(r"^\| \((\d+)\) \|", PAGE.read_text(), re.M)]


def test_the_equations_are_numbered_from_1_without_a_gap():
    assert stated() == list(range(1, 20))


def test_every_equation_that_is_cited_exists():
    files = [
        path
        for folder in ("bpbench", "backends", "docs", "experiments")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".md") and path != PAGE
    ]
    cited = {
        (path.name, int(n))
        for path in files
        for ones in CITED.findall(path.read_text())
        for n in re.findall(r"\d+", ones)
    }
    assert cited
    assert {n for _, n in cited} <= set(stated()), cited
