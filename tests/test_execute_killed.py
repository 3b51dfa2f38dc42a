"""Is nothing lost when a run is killed, and does the same command go on where it stopped?"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from bpbench.execute import RunOptions, run
from bpbench.experiment import Experiment
from bpbench.results import store
from tests.small_experiments import planted, xor_experiment

pytestmark = pytest.mark.xdist_group("timed")  # one after the other: they share the cores

SUPERVISOR = """
import sys
from bpbench.execute import RunOptions, run
from bpbench.execute.progress import Progress
from tests.test_execute_killed import experiments

class Told(Progress):
    def say(self, *what):
        print(*what, flush=True)
    def started(self, cell):
        self.say("started", cell.question, cell.seed)
    def advanced(self, cell, done, total):
        self.say("advanced", cell.question, done, total)
    def finished(self, row):
        self.say("finished", row["cell"]["question"], row["cell"]["id"])

run(experiments()[sys.argv[1]], RunOptions(out=sys.argv[2], rounds=4, processes=2), Told())
"""


def experiments() -> dict[str, Experiment]:
    """What the killed runs run."""
    return {
        "long": xor_experiment(backends=["numpy", planted("Prints")], seeds=2, epochs=8_000),
        "brief": xor_experiment(backends=["numpy", planted("Prints")]),
        "stuck": xor_experiment(backends=[planted("AlwaysHangsInC")]),
    }


@contextmanager
def supervisor(name: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, killed with all it started where a test fails."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, name, str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    family = [psutil.Process(process.pid)]
    try:
        yield process
    finally:
        family += workers_of(process.pid)
        for member in family:
            if member.is_running():
                member.kill()
        process.communicate()


def workers_of(supervisor: int) -> list[psutil.Process]:
    """The workers of a supervisor, living or dead: its process id is among their arguments."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "bpbench.execute.worker" in command and str(supervisor) in command:
            found.append(process)
    return found


def wait_for(process: subprocess.Popen[str], moment: Callable[[str], bool]) -> list[str]:
    """The lines that a run prints up to a moment."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if moment(lines[-1]):
            return lines
    raise AssertionError(f"the run ended before: {lines}")


def rows_and_times(folder: Path) -> dict[Path, int]:
    """When each finished row was written; every file is whole."""
    rows = {path: path.stat().st_mtime_ns for path in folder.glob("xor/[!.]*.json")}
    for path in rows:
        assert json.loads(path.read_text())["status"] == "ok"
    return rows


MOMENTS = {
    "when it begins to verify": lambda line: line == "started verify 0",
    "when it has verified": lambda line: line.startswith("finished verify"),
    "at the beginning of training": lambda line: line == "started train 0",
    "in the midst of training": lambda line: line == "advanced train 3200 8000",
    "when it has trained once": lambda line: line == "started train 1",
    "in the midst of timing": lambda line: line.startswith("advanced speed 2"),
    "when it has timed": lambda line: line.startswith("finished speed"),
}


def test_a_killed_run_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    finished: dict[Path, int] = {}
    for moment in MOMENTS.values():
        with supervisor("long", tmp_path) as process:
            wait_for(process, moment)
            process.kill()
            process.wait()
            _, alive = psutil.wait_procs(workers_of(process.pid), timeout=20)
            assert not alive
        now = rows_and_times(tmp_path)
        assert {path: now[path] for path in finished} == finished
        finished = now
    rows = run(experiments()["long"], RunOptions(out=tmp_path, rounds=4, processes=2))
    assert [row["status"] for row in rows] == ["ok"] * 8
    now = rows_and_times(tmp_path)
    assert {path: now[path] for path in finished} == finished
    assert {path.name for path in tmp_path.iterdir()} == {"xor", store.LOCK}
    assert not list((tmp_path / "xor").glob(".*"))


def test_a_worker_stuck_in_c_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    with supervisor("stuck", tmp_path) as process:
        wait_for(process, lambda line: line == "started verify 0")
        while not (workers := workers_of(process.pid)):
            assert process.poll() is None
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive


@pytest.mark.parametrize(
    ("name", "moment"),
    [("long", "in the midst of training"), ("brief", "in the midst of timing")],
)
def test_an_interrupted_run_ends_its_workers_and_keeps_its_rows(
    name: str, moment: str, tmp_path: Path
) -> None:
    with supervisor(name, tmp_path) as process:
        lines = wait_for(process, MOMENTS[moment])
        workers = workers_of(process.pid)
        assert workers
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGINT
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert not [worker for worker in workers if worker.is_running()]
    said = {line.split()[2] for line in lines if line.startswith("finished")}
    assert {path.stem for path in rows_and_times(tmp_path)} >= said
    assert {path.name for path in tmp_path.iterdir()} == {"xor", store.LOCK}
