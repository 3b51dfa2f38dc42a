"""How is a run told in a page? What ran, its tables, what is not right, where, how to rerun it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bpbench.report import numbers
from bpbench.report.tables import findings, problems, tables
from bpbench.results.rows import CellData, MachineData, Row, whose


def markdown(rows: Sequence[Row]) -> str:
    """The report of ``rows`` as one Markdown page."""
    names = list(dict.fromkeys(row["cell"]["experiment"] for row in rows))
    parts = [f"# bpbench: {', '.join(names)}", *_what_ran(rows)]
    for table in tables(rows):
        parts += [f"## {table.title}", table.text("github"), *table.notes]
    for title, sentences in (
        ("Not right", findings(rows)),
        ("Cells that did not end well", problems(rows)),
    ):
        if sentences:
            parts += [f"## {title}", _bullets(sentences)]
    parts += ["## Machine and versions", *_where_it_ran(rows)]
    commands = list(dict.fromkeys(typed for row in rows if (typed := row.get("command"))))
    if commands:
        parts += ["## To run it again", "```\n" + "\n".join(commands) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _what_ran(rows: Sequence[Row]) -> list[str]:
    """One paragraph for each network, data set and training that ran."""
    said: dict[str, dict[str, None]] = {}
    for row in rows:
        cell = row["cell"]
        said.setdefault(_training(cell), {})[str(cell["seed"])] = None
    notes = dict.fromkeys(row["notes"] for row in rows if row.get("notes"))
    ended = sum(row["status"] == "ok" for row in rows)
    times = sorted(row["started"] for row in rows)
    when = f", {times[0]} to {times[-1]}" if times else ""
    return [
        _bullets(f"{text}; seeds {', '.join(seeds)}" for text, seeds in said.items()),
        *notes,
        f"{ended} of {len(rows)} cells are ok{when}.",
    ]


def _training(cell: CellData) -> str:
    point = whose(cell).removeprefix(cell["experiment"])
    optimizer = dict(cell["optimizer"])
    name = optimizer.pop("name")
    fields = ", ".join(f"{key}={value}" for key, value in optimizer.items() if value)
    return (
        f"**{cell['experiment']}**{point}: {cell['network_text']}; data {cell['data']} "
        f"(digest {cell['data_digest']}); {name}({fields}); {cell['epochs']} epochs in batches of "
        f"{cell['batch_size']}; initial parameters: {cell['initial']}"
    )


def _where_it_ran(rows: Sequence[Row]) -> list[str]:
    """Every machine that the rows name, once, and every version of every package."""
    machines = dict.fromkeys(_machine(row["machine"]) for row in rows)
    versions: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, version in row["versions"].items():
            versions.setdefault(name, {})[str(version)] = None
    together = ", ".join(f"{name} {' and '.join(found)}" for name, found in versions.items())
    return [_bullets([*machines, *([together] if together else [])])]


def _machine(facts: MachineData) -> str:
    """What of a machine does not change from cell to cell."""
    memory = numbers.memory(facts.get("memory_bytes"))
    return (
        f"{facts.get('cpu')}, {facts.get('usable_cpus')} of {facts.get('cpus')} processors usable, "
        f"{memory} memory, {facts.get('system')}, NumPy's products by "
        f"{facts.get('blas', 'an unknown library')}"
    )


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
