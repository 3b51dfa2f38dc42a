"""Are result files read as they were written, old ones too, and damaged ones refused?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpbench.errors import BpbenchError
from bpbench.execute import RunOptions, run
from bpbench.report import render
from bpbench.report.agreement import with_agreement
from bpbench.results import store
from bpbench.results.rows import times, trained, validated, verified
from tests.result_rows import Row, row
from tests.small_experiments import xor_experiment

OLD = Path(__file__).parent / "old_results"
"""Written before rows had a schema in code: right, wrong, missing and diverged."""


def test_old_results_still_read() -> None:
    rows = store.read(OLD)
    assert Counter(row["status"] for row in rows) == {
        "ok": 3, "wrong": 2, "missing": 1, "diverged": 1,
    }  # fmt: skip
    (speed,) = (row for row in rows if times(row))
    assert sorted(times(speed)) == [(0, 0), (0, 1), (1, 0)]
    judged = [found["report"] for row in rows if (found := verified(row))]
    assert {report["verdict"] for report in judged} == {"right", "wrong"}
    # was called "detectable"
    assert all(report["detection_limit"] for report in judged)
    assert all("detection_limit" in tensor for report in judged for tensor in report["tensors"])
    (ended,) = (row for row in rows if row["status"] == "ok" and trained(row))
    assert store.read_arrays(OLD, ended)["losses"].shape == (12,)
    page = render(with_agreement(rows, OLD))
    for part in ("## Speed", "numpy's own", "wrong: dW[0]", "pip install plants", "Twelve epochs."):
        assert part in page


def test_a_row_keeps_what_its_schema_does_not_name() -> None:
    given = row("speed", later=[1, 2])
    assert validated(given) is given


def spoiled(question: str, change: Callable[[Row], Any]) -> Row:
    given: Row = json.loads(json.dumps(row(question)))
    change(given)
    return given


DAMAGES: dict[str, tuple[str, Callable[[Row], Any]]] = {
    "Expected `int`, got `str` - at `$.cell.threads`": (
        "verify", lambda row: row["cell"].update(threads="two"),
    ),
    "Object missing required field `backend` - at `$.cell`": (
        "verify", lambda row: row["cell"].pop("backend"),
    ),
    "Invalid enum value 'fine' - at `$.status`": (
        "train", lambda row: row.update(status="fine"),
    ),
    "Expected `object`, got `array` - at `$.measured`": (
        "train", lambda row: row.update(measured=[]),
    ),
    "Object missing required field `verdict` - at `$.measured.report`": (
        "verify", lambda row: row["measured"]["report"].pop("verdict"),
    ),
    "Expected `float` > 0.0 - at `$.measured.samples[1]`": (
        "speed", lambda row: row["measured"].update(samples=[1.0, 0.0, 1.0]),
    ),
    "Expected `array` of length >= 2 - at `$.measured.interval`": (
        "speed", lambda row: row["measured"].update(interval=[1.0]),
    ),
    "samples, sample_process, sample_round, disturbed are of different lengths": (
        "speed", lambda row: row["measured"].update(sample_round=[0, 1]),
    ),
    "its schema is 99, expected 1": ("train", lambda row: row.update(schema=99)),
}  # fmt: skip


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_row_is_refused_with_where(message: str, tmp_path: Path) -> None:
    path = tmp_path / "xor" / "a.json"
    path.parent.mkdir()
    path.write_text(json.dumps(spoiled(*DAMAGES[message])))
    with pytest.raises(BpbenchError) as refused:
        store.read(tmp_path)
    assert str(refused.value) == (
        f"{path} is no result file of this bpbench ({message}); remove it, or read it with the "
        "bpbench that wrote it"
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"NaN"])
def test_what_is_no_row_at_all_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "xor").mkdir()
    (tmp_path / "xor" / "a.json").write_bytes(content)
    with pytest.raises(BpbenchError, match=r"a\.json is no result file of this bpbench \("):
        store.read(tmp_path)


def test_a_damaged_row_is_measured_again(tmp_path: Path) -> None:
    options = RunOptions(out=tmp_path, questions=["verify"])
    run(xor_experiment(), options)
    (path,) = tmp_path.glob("xor/*.json")
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "status": 3}))
    (again,) = run(xor_experiment(), options)
    assert again["status"] == json.loads(path.read_text())["status"] == "ok"


def test_a_run_that_keeps_no_results_writes_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (found,) = run(xor_experiment(), RunOptions(out=None, questions=["verify"]))
    assert found["status"] == "ok"
    assert list(tmp_path.iterdir()) == []
