"""Does the command line do, say and return what it should, at a shell?"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bpbench.cli import commands
from bpbench.cli.exits import exit_code
from tests.result_rows import row

pytestmark = pytest.mark.xdist_group("timed")  # one after the other: they share the cores

ROOT = Path(__file__).resolve().parent.parent
NUMPY_ONLY = ("torch", "jax", "tensorflow", "keras")
BRIEF = ("--rounds", "2", "--processes", "1")
RUN = ("run", "small.py", "--backend", "numpy", "--out", "out", *BRIEF)
Ended = subprocess.CompletedProcess[str]

SCRIPT = """
from bpbench import MLP, SGD, Experiment, datasets

experiment = Experiment(
    name="small",
    network=MLP(sizes=(2, 3, 1)),
    data=datasets.xor(),
    optimizer=SGD(learning_rate=0.1),
    epochs=20,
    batch_size=4,
    dtype="float64",
    notes="Twenty epochs are too few.",
)

if __name__ == "__main__":
    experiment.main()
"""

BACKENDS = """
import os, threading
from bpbench.backends.numpy_reference import NumPyBackend, ReferenceModel

class Wrong(NumPyBackend):
    name = "wrong"
    def model(self, network, parameters):
        return WrongModel(self, network, parameters)

class WrongModel(ReferenceModel):
    def differentiate(self, x, y, cotangent, l2):
        found = super().differentiate(x, y, cotangent, l2)
        found.gradients.W[1][...] *= 2
        return found

class Dying(NumPyBackend):
    name = "dying"
    def model(self, network, parameters):
        os.abort()

class Hanging(NumPyBackend):
    name = "hanging"
    def model(self, network, parameters):
        threading.Event().wait()
"""

HIDE = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {hidden!r}
        return None if hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
"""


def filled(folder: Path) -> Path:
    """A folder with a small experiment and some backends of one's own."""
    (folder / "small.py").write_text(SCRIPT)
    (folder / "mine.py").write_text(BACKENDS)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """Such a folder in which the experiment has been run, with what that wrote."""
    folder = filled(tmp_path_factory.mktemp("finished"))
    return folder, shell(folder, *RUN)


def environment(folder: Path, hidden: Sequence[str] = ()) -> dict[str, str]:
    """An environment in which some frameworks are as if they were not installed."""
    if hidden:
        (folder / "hide").mkdir(exist_ok=True)
        (folder / "hide" / "sitecustomize.py").write_text(HIDE.format(hidden=set(hidden)))
    path = os.pathsep.join([str(folder / "hide"), str(ROOT)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def shell(folder: Path, *arguments: str, hidden: Sequence[str] = ()) -> Ended:
    """``bpbench ...`` in a folder, with all that it wrote."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "bpbench", *arguments],
        cwd=folder, env=environment(folder, hidden), capture_output=True, text=True,
    )  # fmt: skip


def invoke(*arguments: str) -> Result:
    """The same in this process, for what ends before anything runs."""
    return CliRunner().invoke(commands, arguments)


# ── Help, and mistakes of the user ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [None, "backends", "verify", "run", "report"])
def test_help_has_examples(name):
    result = invoke(*filter(None, (name, "--help")))
    assert result.exit_code == 0
    assert "Examples:\n    bpbench" in result.output


@pytest.mark.parametrize("name", ["backends", "verify", "run", "report"])
def test_every_command_takes_json_quiet_and_verbose(name):
    help_ = invoke(name, "--help").output
    for option in ("--json", "-q, --quiet", "-v, --verbose"):
        assert option in help_


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verfy"], "command 'verfy' is unknown; expected one of: backends, "),
        (["verfy"], "did you mean 'verify'?"),
        (["run", "x.py", "--sedes", "3"], "No such option '--sedes'"),
        (["run"], "Missing argument 'EXPERIMENT.py...'"),
        (["run", "nowhere.py"], "there is no experiment script nowhere.py"),
        (["run", "x.py", "--seeds", "0"], "--seeds"),
        (["run", "x.py", "--question", "sped"], "did you mean 'speed'?"),
        (["verify", "--dtype", "flaot32"], "expected one of: float32, float64"),
        (["verify", "--dtype", "flaot32"], "did you mean 'float32'?"),
        (["verify", "--device", "cdua"], "expected one of: cpu, cuda (did you mean 'cuda'?)"),
        (["verify", "--backend", "numpy", "--device", "cuda"], "expected one of: cpu"),
        (["verify", "--backend", "torhc"], "did you mean 'torch'?"),
        (["verify", "--backend", "jax:egaer"], "did you mean 'eager'?"),
        (["verify", "--backend", "none.py:Mine"], "there is no file none.py"),
        (["verify", "--backend", "mine.py"], "expected mine.py:YourBackend"),
        (["verify", "--sizes", "784-10"], "expected whole numbers between commas"),
        (["verify", "--sizes", "784"], "two or more whole numbers"),
        (["verify", "--hidden", "sigmod"], "did you mean 'sigmoid'?"),
        (["verify", "--hidden", "tanh,relu"], "one per hidden layer"),
        (["verify", "--output", "sofmax"], "did you mean 'softmax'?"),
        (["verify", "--output", "sigmoid", "--loss", "cross_entropy"], "goes with output"),
        (["verify", "--init", "normall"], "did you mean 'normal'?"),
        (["verify", "x.py", "--sizes", "2,3"], "x.py has its own network; leave out --sizes"),
        (["verify", "--threads", "0"], "--threads"),
        (["verify", "--timeout", "-1"], "--timeout"),
        (["report", "nowhere"], "there is no folder of results nowhere"),
        (["report", ".", "--format", "markdwon"], "did you mean 'markdown'?"),
    ],
)
def test_a_mistake_is_one_message_that_says_what_is_allowed(
    arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert "Traceback" not in result.output


def test_an_experiment_that_cannot_be_meant_is_one_message_with_the_line(folder):
    (folder / "bad.py").write_text("import bpbench\n\nbpbench.MLP(sizes=(3,))\n")
    (folder / "broken.py").write_text("import bpbench\n\n1 / 0\n")
    bad, broken = (shell(folder, "run", name) for name in ("bad.py", "broken.py"))
    assert (bad.returncode, broken.returncode) == (2, 2)
    assert bad.stderr.startswith("Error: MLP: sizes is (3,); expected two or more whole numbers")
    assert "ZeroDivisionError: division by zero (line 3)" in broken.stderr
    assert "Traceback" not in bad.stderr + broken.stderr


# ── Exit codes ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("statuses", "required", "code"),
    [
        (["ok", "ok"], [], 0),
        (["ok", "wrong"], [], 1),
        (["ok", "diverged"], [], 0),
        (["ok", "crashed"], [], 3),
        (["ok", "timeout"], [], 3),
        (["ok", "out of memory"], [], 3),
        (["ok", "missing"], [], 0),
        (["ok", "missing"], ["numpy"], 4),
        (["ok", "unsupported"], ["numpy"], 0),
        (["missing", "unsupported"], [], 4),
        (["crashed", "wrong", "missing"], ["numpy"], 1),
        (["crashed", "missing"], ["numpy"], 3),
    ],
)
def test_the_exit_code_tells_the_worst_that_happened(statuses, required, code):
    assert exit_code([row("verify", status=status) for status in statuses], required) == code


# ── bpbench backends ───────────────────────────────────────────────────────────────────────────


def test_backends_says_how_to_get_what_is_missing(tmp_path):
    done = shell(tmp_path, "backends", hidden=["torch"])
    assert done.returncode == 0
    assert re.search(r"^torch +missing", done.stdout, re.MULTILINE)
    assert "torch needs the package 'torch'; install it with: pip install 'bpbench[torch]'" in (
        done.stdout
    )


def test_backends_as_json_is_one_document(tmp_path):
    done = shell(tmp_path, "backends", "--json", hidden=["torch"])
    listed = {backend["name"]: backend for backend in json.loads(done.stdout)["backends"]}
    assert listed["numpy"]["available"]
    assert listed["torch"]["available"] is False
    assert "pip install" in listed["torch"]["reason"]


# ── bpbench verify ─────────────────────────────────────────────────────────────────────────────


def test_verify_shows_a_table_on_stdout_and_a_line_per_cell_on_stderr(folder):
    done = shell(folder, "verify", "--sizes", "4,5,3", "--batch", "8", "--backend", "numpy")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^numpy +reference +float32 +right", done.stdout, re.MULTILINE)
    assert "[1/1]" in done.stderr
    assert "[1/1]" not in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert not (folder / "results").exists()


def test_verify_as_json_is_one_document_and_quiet_is_quiet(folder):
    done = shell(folder, "verify", "small.py", "--backend", "numpy", "--json", "-q")
    document = json.loads(done.stdout)
    assert document["tables"]["gradient_agreement"][0]["verdict"] == "right"
    assert document["cells"][0]["cell"]["network"]["sizes"] == [2, 3, 1]
    assert done.stderr == ""


def test_verify_finds_the_wrong_backend_and_says_where(folder):
    done = shell(
        folder, "verify", "--sizes", "4,5,3", "--backend", "numpy", "--backend", "mine.py:Wrong"
    )
    assert done.returncode == 1
    assert re.search(r"^numpy .* right", done.stdout, re.MULTILINE)
    assert re.search(r"^mine.py:Wrong .* wrong", done.stdout, re.MULTILINE)
    assert "dW[1]" in done.stdout


@pytest.mark.parametrize(
    ("loss", "output"),
    [
        ("half_squared_error", "sigmoid"),
        ("binary_cross_entropy", "sigmoid"),
        ("cross_entropy", "softmax"),
    ],
)
def test_a_network_without_an_experiment_gets_data_that_its_loss_can_take(loss, output):
    from bpbench.cli.verify import random_experiment

    experiment = random_experiment(sizes=(3, 4, 2), loss=loss, batch=5)
    assert experiment.network.output == output
    assert experiment.data.train.y.shape == (20, 2)


# ── bpbench run and report ─────────────────────────────────────────────────────────────────────


def test_run_prints_three_tables_and_the_same_again_runs_nothing(finished):
    folder, first = finished
    assert first.returncode == 0, first.stderr
    for title in ("Gradient agreement", "Speed", "Convergence"):
        assert title in first.stdout
    second = shell(folder, *RUN)
    assert second.stdout == first.stdout
    assert "3 cells were finished before and are kept" in second.stderr
    assert "[1/" not in second.stderr


def test_an_experiment_script_runs_by_itself(folder):
    done = subprocess.run(
        [sys.executable, "small.py", "--backend", "numpy", "--question", "verify", "--json"],
        cwd=folder, env=environment(folder), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["cell"]["experiment"] == "small"


@pytest.mark.parametrize("name", ["xor", "digits"])
def test_the_experiments_of_the_project_run_by_themselves(name):
    done = subprocess.run(
        [sys.executable, ROOT / "experiments" / f"{name}.py", "--help"],
        capture_output=True, text=True, env=environment(ROOT),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Usage: bpbench run" in done.stdout


def test_what_is_not_installed_costs_nothing_but_its_rows(folder):
    done = shell(folder, "run", "small.py", *BRIEF, hidden=NUMPY_ONLY)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^torch .* missing", done.stdout, re.MULTILINE)
    assert "install it with: pip install 'bpbench[torch]'" in done.stdout
    assert re.search(r"^numpy .* 1×$", done.stdout, re.MULTILINE)


def test_a_backend_asked_for_by_name_must_be_there(folder):
    arguments = ["verify", "small.py", "--backend", "torch", "--backend", "numpy"]
    done = shell(folder, *arguments, hidden=["torch"])
    assert done.returncode == 4
    assert re.search(r"^numpy .* right", done.stdout, re.MULTILINE)
    assert "pip install 'bpbench[torch]'" in done.stdout


def test_a_backend_that_dies_is_a_row_and_exit_code_three(folder):
    done = shell(
        folder, "run", "small.py", "--backend", "mine.py:Dying", "--backend", "numpy",
        "--question", "train",
    )  # fmt: skip
    assert done.returncode == 3
    assert re.search(r"^numpy .* ok", done.stdout, re.MULTILINE)
    assert "SIGABRT" in done.stdout
    assert "Traceback" not in done.stderr


def test_report_needs_only_the_result_files(finished, monkeypatch):
    folder, _ = finished
    hidden = ("numpy_reference", *NUMPY_ONLY)
    page = shell(folder, "report", "out", hidden=hidden)
    assert page.returncode == 0, page.stderr
    assert "## Convergence" in page.stdout
    assert f"bpbench {' '.join(RUN)}\n" in page.stdout
    assert "Twenty epochs are too few." in page.stdout

    written = shell(folder, "report", "out", "--output", "deep/page.md", hidden=hidden)
    assert written.stdout == ""
    assert (folder / "deep" / "page.md").read_text() == page.stdout
    assert [path.name for path in (folder / "deep").iterdir()] == ["page.md"]

    monkeypatch.chdir(folder)
    table = invoke("report", "out", "--format", "csv")
    assert len(table.stdout.splitlines()) == 4
    assert len(json.loads(invoke("report", "out", "--json").stdout)["cells"]) == 3
    both = invoke("report", "out", "--json", "--output", "page.csv")
    assert json.loads(both.stdout) == {"written": "page.csv", "format": "csv", "cells": 3}


def test_json_and_another_format_contradict_each_other(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "out" / "small").mkdir(parents=True)
    (folder / "out" / "small" / "a.json").write_text(json.dumps(row("verify")))
    done = invoke("report", "out", "--json", "--format", "csv")
    assert done.exit_code == 2
    assert "contradict" in done.stderr


def test_a_folder_without_results_and_a_file_that_is_none_are_one_message(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    empty = invoke("report", "empty")
    (folder / "out" / "small").mkdir(parents=True)
    (folder / "out" / "small" / "a.json").write_text("{")
    broken = invoke("report", "out")
    assert (empty.exit_code, broken.exit_code) == (2, 2)
    assert "empty holds no result files" in empty.stderr
    assert "a.json is no result file" in broken.stderr


# ── Pipes, terminals and interruption ──────────────────────────────────────────────────────────


def test_a_closed_pipe_is_no_traceback_and_no_failure(folder):
    (folder / "out" / "small").mkdir(parents=True)
    for i in range(500):
        path = folder / "out" / "small" / f"{i}.json"
        path.write_text(json.dumps(row("train", seed=i)))
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "bpbench", "report", "out", "--json"],
        cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"{\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_live_table_is_shown_on_a_terminal_only(folder):
    terminal, end = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "bpbench", "verify", "small.py", "--backend", "numpy"],
        cwd=folder, env=environment(folder) | {"TERM": "xterm"}, stdout=subprocess.PIPE, stderr=end,
    ) as process:  # fmt: skip
        os.close(end)
        shown = read_all(terminal)
        assert process.stdout is not None
        results = process.stdout.read().decode()
    assert process.returncode == 0
    assert "0 of 1 cells" in shown
    assert "small, numpy:reference float64" in shown
    assert "\x1b[" in shown
    assert "\x1b" not in results


def read_all(terminal: int) -> str:
    """All that is written to a terminal until its other end is closed."""
    found = b""
    while True:
        try:
            found += (got := os.read(terminal, 1 << 16))
        except OSError:  # Linux says so when nobody writes to it any more
            got = b""
        if not got:
            os.close(terminal)
            return found.decode()


def test_interruption_is_one_line_and_leaves_no_worker(folder):
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "bpbench", "run", "small.py", "-v",
         "--backend", "mine.py:Hanging"],
        cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert process.stdout is not None
        assert b"started" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read().decode()
        assert process.stdout.read() == b""
    assert process.returncode == 130
    assert rest == "Error: interrupted; the same command goes on where it stopped\n"
    assert not list((folder / "results").glob(".scratch-*"))


# ── The README ─────────────────────────────────────────────────────────────────────────────────


def test_the_python_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    y = np.eye(10)
    names = {"__name__": "readme", "x": y @ np.ones((10, 784)), "y": y, "order": [[0, 1], [2, 3]]}
    for block in blocks:
        exec(block.replace('"torch", mode="eager"', '"numpy"'), names)
    assert names["experiment"].points[1].optimizer.learning_rate == 1.0
    assert names["found"].gradients.W[0].shape == (30, 784)
    assert names["losses"].shape == (2,)


def test_every_command_of_the_readme_exists_with_its_options():
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"^bpbench (\w+)(.*)$", text, re.MULTILINE)
    assert {name for name, _ in lines} >= {"verify", "run", "report"}
    for name, rest in lines:
        known = invoke(name, "--help").output
        assert set(re.findall(r"--\w+", rest)) <= set(re.findall(r"--\w+", known))
