"""Does the backend of docs/adding_a_backend.md do all that the page says?"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bpbench.conformance import contracts

ROOT = Path(__file__).resolve().parent.parent
SPEC = "autograd_backend.py:AutogradBackend"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the page, in a folder of their own."""
    path = tmp_path_factory.mktemp("mine")
    text = (ROOT / "docs" / "adding_a_backend.md").read_text()
    files = dict(re.findall(r"`(\w+\.py)`\n```python\n(.*?)```", text, re.S))
    assert set(files) == {"autograd_backend.py", "test_autograd_backend.py"}
    for name, code in files.items():
        (path / name).write_text(code)
    return path


def shell(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True, text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
    )  # fmt: skip


def test_it_keeps_every_contract_at_a_shell(folder):
    ended = shell(folder, "bpbench", "conform", SPEC)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    count = len(contracts("numpy:reference"))
    assert f"{SPEC}: {count} of {count} contracts kept" in ended.stdout
    page = (ROOT / "docs" / "adding_a_backend.md").read_text()
    assert f"{SPEC}: {count} of {count} contracts kept" in page


def test_its_test_file_passes_under_pytest(folder):
    ended = shell(folder, "pytest", "-q", "-p", "no:cacheprovider", "test_autograd_backend.py")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(contracts('numpy:reference'))} passed" in ended.stdout


def test_an_entry_point_gives_it_a_name(folder, tmp_path):
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "autograd_backend.py").write_text((folder / "autograd_backend.py").read_text())
    about = tmp_path / "my_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[bpbench.backends]\nautograd = my_package.autograd_backend:AutogradBackend\n"
    )
    listed = json.loads(shell(tmp_path, "bpbench", "backends", "--json").stdout)["backends"]
    (own,) = [backend for backend in listed if backend["name"] == "autograd"]
    assert (own["version"], own["available"], own["modes"]) == ("1.0", True, ["eager"])
    ended = shell(tmp_path, "bpbench", "conform", "autograd", "--dtype", "float64", "--json")
    assert json.loads(ended.stdout)["passed"] is True
