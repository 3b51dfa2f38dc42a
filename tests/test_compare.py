"""Does a comparison of timings tell what changed from what is noise, in one run and between two?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bpbench.cli import commands
from bpbench.errors import UsageError
from bpbench.report import speed
from bpbench.report.cells import flat
from bpbench.report.changes import changes
from bpbench.results.rows import times
from tests.result_rows import row

Row = dict[str, Any]
SPREAD = np.random.default_rng(0).lognormal(0, 0.02, 30)


def timed(
    backend: str = "numpy",
    seconds: float = 1e-3,
    spread: Sequence[float] = SPREAD.tolist(),
    mode: str = "reference",
    **measured: Any,
) -> Row:
    """A row with thirty samples of three processes."""
    samples = [seconds * each for each in spread]
    found = {
        "samples": samples,
        "median_s": float(np.median(samples)),
        "sample_process": [number // 10 for number in range(30)],
        "sample_round": [number % 10 for number in range(30)],
        "disturbed": [False] * 30,
        "canary_s": [1e-3] * 30,
        "aa_ratio": [0.98, 1.03],
        "timing": "one",
    }
    return row("speed", backend, mode, **(found | measured))


def written(folder: Path, rows: Sequence[Row]) -> Path:
    """Rows as result files."""
    for number, each in enumerate(rows):
        path = folder / each["cell"]["experiment"] / f"speed-{number}-0123abcd.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(each))
    return folder


# ── Within one run ─────────────────────────────────────────────────────────────────────────────


def test_rows_of_the_same_rounds_are_compared_sample_by_sample() -> None:
    noise = np.random.default_rng(1).lognormal(0, 0.5, 30)
    one, other = timed(spread=noise.tolist()), timed("jax", 1.1e-3, noise.tolist())
    decision = speed.compare(other, one)
    assert decision is not None
    assert decision.verdict == "slower"
    assert decision.ratio.middle == pytest.approx(1.1)
    elsewhere = timed("jax", 1.1e-3, noise.tolist(), timing="another")
    decision = speed.compare(elsewhere, one)
    assert decision is not None
    assert decision.verdict == "no difference seen"


def test_a_difference_within_that_of_the_same_code_is_not_seen() -> None:
    decision = speed.compare(timed(seconds=1.1e-3, aa_ratio=[0.8, 1.0]), timed())
    assert decision is not None
    assert decision.verdict == "no difference seen"
    assert decision.minimum_detectable_difference == pytest.approx(0.25)


def test_disturbed_samples_are_not_compared() -> None:
    marks = [True] * 10 + [False] * 20
    spread = [9.0] * 10 + [1.0] * 20
    assert times(timed(spread=spread, disturbed=marks)).keys() == {
        (process, number) for process in (1, 2) for number in range(10)
    }
    assert len(times(timed(disturbed=[True] * 16 + [False] * 14))) == 30


def test_a_mode_has_repaid_its_compilation_when_its_faster_steps_have_saved_as_much() -> None:
    eager = timed("torch", 1e-3, [1.0] * 30, "eager", first_call_s=0.1)
    compiled = timed("torch", 4e-4, [1.0] * 30, "compiled", first_call_s=6.1)
    assert speed.break_even(compiled["measured"], eager["measured"]) == pytest.approx(10_000)
    assert speed.break_even(eager["measured"], compiled["measured"]) is None
    cheap = timed("torch", 5e-4, [1.0] * 30, "manual", first_call_s=0.05)
    assert speed.break_even(cheap["measured"], eager["measured"]) == 0


def test_every_row_says_how_it_stands_to_the_fastest_of_the_same_work() -> None:
    rows = [
        timed("numpy", 2e-3, [1.0] * 30, first_call_s=0.0),
        timed("torch", 1e-3, [1.0] * 30, mode="eager", first_call_s=1.0),
        timed("torch", 1e-3, [1.0] * 30, mode="compiled", first_call_s=1.0),
    ]
    frame = flat(rows).set_index("mode")
    assert frame.loc["reference", "difference"] == "slower"
    assert frame.loc["reference", "factor"] == pytest.approx(2)
    assert set(frame.loc[["eager", "compiled"], "difference"]) == {"fastest", "no difference seen"}
    assert frame.loc["eager", "break_even"] == "numpy:reference 1000"


# ── Between two runs ───────────────────────────────────────────────────────────────────────────


def verdict(old: Row, new: Row) -> str:
    (change,) = changes([old], [new])
    return change.verdict


def test_a_timing_is_faster_slower_the_same_or_noise() -> None:
    assert verdict(timed(), timed(seconds=1.3e-3)) == "slower"
    assert verdict(timed(), timed(seconds=0.7e-3)) == "faster"
    assert verdict(timed(), timed(seconds=1.001e-3)) == "same"
    wild = np.random.default_rng(2).lognormal(0, 0.6, 30).tolist()
    assert verdict(timed(spread=wild), timed(spread=wild[::-1])) == "noise"


def test_a_machine_that_was_slower_by_as_much_explains_a_slower_timing() -> None:
    busy = timed(seconds=1.3e-3, canary_s=[1.4e-3] * 30)
    assert verdict(timed(), busy) == "noise"


def test_a_timing_that_is_gone_or_new_is_told_with_why() -> None:
    wrong = row("speed", "jax", "scan", status="wrong", say="not timed: wrong gradients")
    wrong["measured"] = {}
    old = [timed(), timed("jax", mode="scan"), timed("torch", mode="eager")]
    new = [timed(), wrong, timed("keras", mode="jax")]
    found = {change.backend: change for change in changes(old, new)}
    assert {name: change.verdict for name, change in found.items()} == {
        "numpy": "same", "jax": "gone", "torch": "gone", "keras": "new",
    }  # fmt: skip
    assert found["jax"].say == "wrong: not timed: wrong gradients"
    assert found["torch"].say == "not in the second run"


def test_other_work_is_not_compared() -> None:
    other = timed()
    other["cell"]["batch_size"] = 8
    with pytest.raises(UsageError, match="nothing was timed in both: 1 timings in the first"):
        changes([timed()], [other])


def test_other_machines_are_not_ranked_unless_asked_for() -> None:
    elsewhere = timed(seconds=2e-3)
    elsewhere["machine"] = {**elsewhere["machine"], "id": "99", "cpu": "Other CPU"}
    with pytest.raises(UsageError, match=r"on Some CPU \(77\), the second on Other CPU \(99\)"):
        changes([timed()], [elsewhere])
    (change,) = changes([timed()], [elsewhere], across_machines=True)
    assert change.verdict == "slower"


def test_the_command_shows_old_new_ratio_and_verdict(tmp_path: Path) -> None:
    old = written(tmp_path / "old", [timed(), timed("jax", mode="scan")])
    new = written(tmp_path / "new", [timed(seconds=2e-3), timed("jax", mode="scan")])
    done = CliRunner().invoke(commands, ["compare", str(old), str(new)])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["backend", "mode", "old", "new", "new", "/", "old", "verdict"]
    assert lines[2].split()[-1] == "slower"
    assert "2 [1.9" in lines[2]
    assert lines[3].split()[-1] == "same"
    assert lines[-1] == "1 slower, 1 same"


def test_the_command_fails_on_what_it_is_told_to(tmp_path: Path) -> None:
    old = written(tmp_path / "old", [timed()])
    slower = written(tmp_path / "new", [timed(seconds=2e-3)])
    for folder, what, code in ((slower, "slower", 1), (slower, "gone", 0), (old, "slower", 0)):
        asked = ["compare", str(old), str(folder), "--fail-on", what, "--json"]
        done = CliRunner().invoke(commands, asked)
        assert done.exit_code == code
        document = json.loads(done.stdout)
        assert len(document["changes"]) == sum(document["counts"].values()) == 1
    assert document["changes"][0]["ratio"] == pytest.approx(1)


def test_the_command_refuses_what_cannot_be_compared(tmp_path: Path) -> None:
    old = written(tmp_path / "old", [timed()])
    done = CliRunner().invoke(commands, ["compare", str(old), str(tmp_path / "none")])
    assert done.exit_code == 2
    assert "there is no folder of results" in done.stderr
    done = CliRunner().invoke(commands, ["compare", str(old), str(old), "--fail-on", "slow"])
    assert done.exit_code == 2
    assert "did you mean 'slower'" in done.stderr
