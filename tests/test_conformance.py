"""Does the conformance suite pass good backends, and name what is wrong with bad ones?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import bpbench
from backends.numpy_reference import NumPyBackend
from bpbench import testing
from bpbench.cli import commands
from bpbench.conformance import conform, promises
from tests.bad_backends import FAULTS
from tests.conftest import IN_PROCESS, SLOW

ROOT = Path(__file__).resolve().parent.parent
BAD = ROOT / "tests" / "bad_backends.py"


@pytest.mark.parametrize("backend", FAULTS, ids=lambda kind: kind.__name__)
def test_a_bad_backend_fails_with_a_message_that_names_the_fault(backend):
    report = conform(backend, dtypes=("float64",))
    assert not report.passed
    assert FAULTS[backend] in str(report)


def test_a_good_backend_keeps_every_promise_in_both_dtypes():
    report = conform(NumPyBackend)
    assert report.passed, str(report)
    assert {one.way.rpartition(" ")[2] for one in report.tried} == {"float32", "float64"}


QUICK = [name for name in IN_PROCESS if name not in SLOW and not name.startswith("numpy")]


def test_the_frameworks_backends_keep_every_promise(spec):
    if spec in SLOW or spec not in QUICK:
        pytest.skip("its results are compared with NumPy's in test_adapters; compiling is slow")
    report = conform(spec, dtypes=("float64",))
    assert report.passed, str(report)
