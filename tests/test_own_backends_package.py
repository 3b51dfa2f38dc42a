"""Somebody's own package ``backends`` stays theirs: in Python, at a shell and under pytest."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MINE = """
from backends import WHOSE
from bpbench.backend import Backend
from bpbench.backends.numpy_reference import ReferenceModel


class Mine(Backend):
    name = "mine"
    modes = ("only",)

    def model(self, network, parameters):
        return ReferenceModel(self, network, parameters)
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with such a package, and a test that imports it."""
    (tmp_path / "backends").mkdir()
    (tmp_path / "backends" / "__init__.py").write_text("WHOSE = 'theirs'\n")
    (tmp_path / "backends" / "mine.py").write_text(MINE)
    (tmp_path / "test_mine.py").write_text(
        "import backends\nimport bpbench\nfrom backends.mine import Mine\n"
        "from bpbench.testing import assert_backend_conforms\n"
        "def test_it():\n"
        "    assert backends.WHOSE == 'theirs' and bpbench.get_backend('numpy:fast')\n"
        "    assert Mine(dtype='float64')\n"
    )
    return tmp_path


def shell(folder, *arguments):
    # theirs is on the path; bpbench is what is installed
    bare = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=bare
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_python_imports_theirs_and_bpbench_its_own(folder):
    printed = shell(
        folder, "-c",
        "import bpbench; print(bpbench.get_backend('numpy'), bpbench.get_backend('numpy:fast'));"
        "import backends, backends.mine; print(backends.WHOSE, backends.mine.Mine())",
    )  # fmt: skip
    assert printed.splitlines() == [
        "<backend numpy:reference on cpu in float32> <backend numpy:fast on cpu in float32>",
        "theirs <backend mine:only on cpu in float32>",
    ]


def test_the_command_line_lists_bpbenchs_and_verifies_theirs(folder):
    assert "numpy" in shell(folder, "-m", "bpbench", "backends")
    told = shell(folder, "-m", "bpbench", "verify", "--backend", "backends/mine.py:Mine",
                 "--backend", "numpy:fast")  # fmt: skip
    assert "mine" in told.lower()
    assert "right" in told


def test_pytest_runs_their_tests(folder):
    assert "1 passed" in shell(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider")
