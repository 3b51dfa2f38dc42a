"""Does the conformance suite pass good backends, and name what is wrong with bad ones?"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import bpbench
from bpbench import testing
from bpbench.backends.numpy_reference import NumPyBackend
from bpbench.cli import commands
from bpbench.conformance import conform, contracts
from bpbench.registry import BUILT_IN
from tests.bad_backends import FAULTS

ROOT = Path(__file__).resolve().parent.parent
BAD = ROOT / "tests" / "bad_backends.py"


@pytest.mark.parametrize("backend", FAULTS, ids=lambda kind: kind.__name__)
def test_a_bad_backend_fails_with_a_message_that_names_the_fault(backend):
    report = conform(backend, dtypes=("float64",))
    assert not report.passed
    assert FAULTS[backend] in str(report)


def test_a_good_backend_keeps_every_contract_in_both_dtypes():
    report = conform(NumPyBackend)
    assert report.passed, str(report)
    assert {one.way.rpartition(" ")[2] for one in report.tried} == {"float32", "float64"}


DEFAULTS = [f"{name}:{next(iter(entry.targets))}" for name, entry in BUILT_IN.items()]


@pytest.mark.parametrize("spec", DEFAULTS[1:], indirect=True)
def test_the_frameworks_backends_keep_every_contract(spec):
    report = conform(spec, dtypes=("float64",))
    assert report.passed, str(report)


def test_every_mode_of_a_backend_is_tried_at_a_shell_and_progress_is_told():
    ended = subprocess.run(
        [sys.executable, "-m", "bpbench", "conform", "numpy", "--dtype", "float64", "--json"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    report = json.loads(ended.stdout)
    assert report["passed"], ended.stdout
    ways = list(dict.fromkeys(one["way"] for one in report["tried"]))
    assert ways == [f"{mode}, cpu, float64" for mode in BUILT_IN["numpy"].targets]
    assert "[19/19] fast, cpu, float64" in ended.stderr


def test_what_a_backend_says_it_cannot_do_is_left_out_and_said():
    class OnlyDouble(NumPyBackend):
        def __init__(self, mode=None, device="cpu", dtype="float32"):
            super().__init__(mode, device, dtype)
            if dtype == "float32":
                raise bpbench.errors.Unsupported("computes in float64 only")

    report = conform(OnlyDouble)
    assert report.passed, str(report)
    assert "not tried (reference, cpu, float32): computes in float64 only" in str(report)


def test_every_contract_is_a_test_of_its_own_for_pytest(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        "from bpbench.testing import BackendConformance\n"
        "class TestGood(BackendConformance):\n"
        "    backend = 'numpy:reference'\n"
        "    dtypes = ('float64',)\n"
        "class TestBad(BackendConformance):\n"
        f"    backend = {str(BAD)!r} + ':IgnoresOrder'\n"
        "    dtypes = ('float64',)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    count = len(contracts("numpy:reference", dtypes=("float64",)))
    assert ended.returncode == 1, ended.stdout
    assert "the order is ignored" in ended.stdout
    passed = int(re.search(r"(\d+) passed", ended.stdout)[1])
    assert count < passed < 2 * count


def test_the_assertion_fails_with_the_report_as_its_message():
    testing.assert_backend_conforms("numpy:reference", dtypes=("float32",))
    with pytest.raises(AssertionError, match="losses are those after each step"):
        testing.assert_backend_conforms(f"{BAD}:LossesAfterTheStep", dtypes=("float32",))


def test_the_command_says_what_is_broken_and_ends_with_1():
    broken = CliRunner().invoke(commands, ["conform", f"{BAD}:IgnoresL2", "--dtype", "float64"])
    assert broken.exit_code == 1
    assert "l2 is ignored" in broken.stdout
    good = CliRunner().invoke(commands, ["conform", "numpy:reference", "--dtype", "float64"])
    assert good.exit_code == 0
    assert "contracts kept" in good.stdout


def test_the_command_gives_one_json_document():
    ended = CliRunner().invoke(
        commands, ["conform", f"{BAD}:WrongDtype", "--dtype", "float64", "--json"]
    )
    document = json.loads(ended.stdout)
    assert document["passed"] is False
    assert any("wrong dtype" in fault for one in document["tried"] for fault in one["faults"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["conform", "torhc"], "did you mean 'torch'"),
        (["conform", "nowhere.py:Mine"], "no file nowhere.py"),
        (["conform", f"{BAD}:NoSuch"], "no class 'NoSuch'"),
        (["conform", "numpy", "--mode", "fats"], "fats"),
    ],
)
def test_a_backend_that_does_not_exist_is_a_usage_error(arguments, words):
    ended = CliRunner().invoke(commands, arguments)
    assert ended.exit_code == 2
    assert words in ended.stderr


def test_something_else_than_a_backend_is_refused():
    with pytest.raises(bpbench.UsageError, match="no subclass"):
        conform(dict)
