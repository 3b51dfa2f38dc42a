"""What works where Python has no POSIX modules, as on Windows? Tried at a shell, with them hidden.

That nothing else is missing there, only such a system can tell.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = """
import os, signal, sys

class Hiding:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("fcntl", "resource"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hiding)
for name in ("fcntl", "resource"):
    sys.modules.pop(name, None)
for name in ("sched_getaffinity", "sched_setaffinity", "killpg", "fork", "setsid", "getloadavg"):
    delattr(os, name)
del signal.SIGKILL
"""
SCRIPT = """
from bpbench import MLP, SGD, Experiment, datasets

experiment = Experiment(
    "small", MLP((2, 3, 1)), datasets.xor(), SGD(0.1), epochs=2, batch_size=4, backends=["numpy"]
)
"""
BACKENDS = """
import sys
from bpbench.backends.numpy_reference import NumPyBackend, ReferenceModel

class Wrong(NumPyBackend):
    def model(self, network, parameters):
        return WrongModel(self, network, parameters)

class WrongModel(ReferenceModel):
    def differentiate(self, x, y, cotangent, l2):
        found = super().differentiate(x, y, cotangent, l2)
        found.gradients.W[1][...] *= 2
        return found

class Prints(NumPyBackend):
    def model(self, network, parameters):
        print("I am here")
        return super().model(network, parameters)

class Raises(NumPyBackend):
    def model(self, network, parameters):
        raise ArithmeticError("the planted error")

class Exits(NumPyBackend):
    def model(self, network, parameters):
        sys.exit(0)
"""
GRADIENTS = """
import numpy as np

def my_gradients(W, b, x, y):
    a = 1 / (1 + np.exp(-(x @ W[0].T + b[0])))
    delta = (a - y) * a * (1 - a) / len(x)
    return [delta.T @ x], [delta.sum(axis=0)]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (
        ("hidden/sitecustomize.py", HIDDEN),
        ("small.py", SCRIPT),
        ("mine.py", BACKENDS),
        ("gradients.py", GRADIENTS),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def shell(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``bpbench ...`` where the modules are hidden."""
    path = os.pathsep.join([str(folder / "hidden"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bpbench", *arguments], cwd=folder,
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


OLD = str(ROOT / "tests" / "old_results")


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("check gradients.py --sizes 3,2", "right: my_gradients"),
        (f"report {OLD}", "## Speed"),
        (f"report {OLD} --output page.md", ""),
        (f"compare {OLD} {OLD}", "numpy"),
        ("backends", "numpy"),
        ("verify --sizes 3,4,2 --backend numpy --backend numpy:fast", "numpy      fast"),
        ("verify small.py", "numpy      reference"),
    ],
)
def test_what_needs_no_worker_works(command: str, shown: str, folder: Path) -> None:
    done = shell(folder, *command.split())
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_run_says_in_one_sentence_what_it_needs(folder: Path) -> None:
    done = shell(folder, "run", "small.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "Error: run needs worker processes, which need Linux or macOS; bpbench check, verify, "
        "report, compare and backends work here\n"
    )
    assert not (folder / "results").exists()


def test_in_one_process_each_backend_is_a_row_whatever_it_does(folder: Path) -> None:
    names = ("Prints", "Raises", "Exits", "Wrong")
    options = [f"--backend=mine.py:{name}" for name in names] + ["--backend=numpy"]
    done = shell(folder, "verify", "small.py", "--json", *options)
    rows = json.loads(done.stdout)["cells"]
    says = {row["cell"]["backend"].rpartition(":")[2]: row["say"] for row in rows}
    assert "dW[1]" in says.pop("Wrong")
    assert says == {
        "Prints": "",
        "Raises": "ArithmeticError: the planted error",
        "Exits": "the backend called exit(0)",
        "numpy": "",
    }
    assert done.returncode == 1
    assert done.stderr.startswith("no worker processes here: all runs in this one, whatever")
