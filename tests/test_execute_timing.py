"""What does a timing say of its samples? From samples made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bpbench.cli import commands
from bpbench.execute.timing import Beside, Series, Timing, mark_disturbed
from bpbench.measure.statistics import Ratio
from tests.small_experiments import xor_experiment

pytestmark = pytest.mark.xdist_group("timed")  # one after the other: they share the cores

NOTHING_BESIDE = Beside("aa55", None, "", None, "")


def series(
    seconds: Sequence[float], canaries: Sequence[float] | None = None, cores: float = 1.0
) -> Series:
    """Samples of two processes, one after the other."""
    found = Series()
    half = -(-len(seconds) // 2)
    for index, wall in enumerate(seconds):
        reply = {
            "wall": wall,
            "cpu": cores * wall,
            "canary": canaries[index] if canaries else 1e-3,
        }
        found.add(divmod(index, half), reply, steps=1)
    return found


def measured(own: Series, beside: Beside = NOTHING_BESIDE) -> tuple[str, dict[str, Any]]:
    """What a timing with these samples says, and what it measured."""
    cell = next(c for c in xor_experiment().cells() if c.question == "speed")
    timing = Timing(cell, verified=True)
    timing.series = own
    costs = {"import_s": 1.0, "upload_s": 0.1, "first_call_s": 0.5, "second_call_s": 0.2}
    timing.processes = [
        {**costs, "peak_memory_bytes": 100},
        {**costs, "import_s": 3.0, "peak_memory_bytes": 300},
    ]
    answer = timing.answer(beside)
    assert answer.status == "ok"
    return answer.say, answer.measured


def test_a_backend_that_takes_more_cores_than_it_was_given_says_so() -> None:
    assert measured(series([1.0, 1.1, 1.2, 1.3], cores=1.9))[0] == (
        "kept 1.9 cores busy, but was given 1"
    )
    assert measured(series([1.0, 1.1, 1.2, 1.3]))[0] == ""


def test_a_disturbed_sample_is_kept_and_left_out_of_the_estimate() -> None:
    own = series([1.0, 1.1, 9.0, 1.2], [1e-3, 1e-3, 2e-3, 1e-3])
    mark_disturbed([own])
    _, found = measured(own)
    assert found["samples"] == [1.0, 1.1, 9.0, 1.2]
    assert found["disturbed"] == [False, False, True, False]
    assert (found["median_s"], found["min_s"]) == (1.1, 1.0)
    assert found["interval"][1] <= 1.2


def test_all_samples_count_where_most_of_them_are_disturbed() -> None:
    own, quiet = series([1.0, 2.0, 3.0], [2e-3] * 3), series([1.0] * 5)
    mark_disturbed([own, quiet])
    _, found = measured(own)
    assert found["disturbed"] == [True] * 3
    assert found["median_s"] == 2.0
    assert found["noisy"] == "100% of the samples were disturbed by something else"


def test_a_canary_is_held_against_those_of_everyone_in_the_run() -> None:
    own, other = series([1.0, 1.0], [2e-3, 2e-3]), series([1.0] * 4, [1e-3] * 4)
    mark_disturbed([own, other])
    assert (own.disturbed, other.disturbed) == ([True] * 2, [False] * 4)


def test_the_share_of_the_limit_is_that_of_the_same_rounds() -> None:
    slow = [1.0, 5.0, 1.0, 3.0]
    bare = series([0.5 * seconds for seconds in slow])
    _, found = measured(series(slow), Beside("aa55", None, "", bare, "rows"))
    assert found["share_of_limit"] == pytest.approx(0.5)
    assert (found["limit_median_s"], found["limit_min_s"]) == (1.0, 0.5)
    assert found["limit_layout"] == "rows"
    assert found["gflops"] == pytest.approx(found["flops"] / 2.0 / 1e9)


def test_where_nothing_limits_nothing_is_said_of_it() -> None:
    _, found = measured(series([1.0, 1.0]))
    assert "share_of_limit" not in found
    assert found["aa_ratio"] is None


def test_the_same_code_that_differs_makes_a_run_noisy() -> None:
    same = Ratio(1.05, 0.9, 1.2)
    _, found = measured(series([1.0, 1.1]), Beside("aa55", same, "numpy:fast", None, ""))
    assert found["aa_ratio"] == [0.9, 1.2]
    assert found["noisy"] == "the same code timed twice may differ by 20%"


def test_a_start_costs_what_it_costs_in_the_middle_process_and_memory_the_most() -> None:
    _, found = measured(series([1.0, 1.1]))
    assert (found["import_s"], found["peak_memory_bytes"]) == (2.0, 300)
    assert len(found["processes"]) == 2


def test_rounds_and_processes_are_options_of_the_command(tmp_path: Path) -> None:
    script = tmp_path / "experiment.py"
    script.write_text(
        "from tests.small_experiments import xor_experiment\nexperiment = xor_experiment()\n"
    )
    asked = ["run", str(script), "--question", "speed", "--rounds", "3", "--processes", "2"]
    done = CliRunner().invoke(commands, [*asked, "--out", str(tmp_path / "out"), "--json", "-q"])
    assert done.exit_code == 0, done.output
    (row,) = [r for r in json.loads(done.stdout)["cells"] if r["cell"]["question"] == "speed"]
    assert row["measured"]["sample_process"] == [0, 0, 1]
    assert row["measured"]["sample_round"] == [0, 1, 0]
