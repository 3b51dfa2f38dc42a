"""The diagnosis is measured at a shell, as the page on checking quotes it."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "experiments" / "diagnosis_quality.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=250
    )


def test_the_table_has_a_line_for_each_kind_and_one_for_all():
    done = run(
        "--kind", "db zero", "--kind", "1/m twice", "--every", "80", "--pairs", "2", "--each"
    )
    assert done.returncode == 0, done.stderr
    assert "| db zero | 3 of 3 (100.0 %) | 3 of 3 (100.0 %) |" in done.stdout
    assert "| 2 kinds | " in done.stdout
    assert "both named in 2 of 2 (100.0 %)" in done.stdout


def test_a_kind_that_does_not_exist_is_an_error_that_names_those_that_do():
    done = run("--kind", "db zeroo")
    assert done.returncode == 2
    assert "no kind is called like" in done.stderr
    assert "db zero" in done.stderr
    assert "Traceback" not in done.stderr
