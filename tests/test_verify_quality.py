"""The judge is judged at a shell, as README quotes it."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "experiments" / "verifier_quality.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=250
    )


def test_the_tables_have_a_line_for_each_rule_and_mistake():
    done = run("--networks", "6", "--widest", "12", "--backend", "numpy")
    assert done.returncode == 0, done.stderr
    assert "| bpbench | float32 | 0 of 6 (0.0 %) |" in done.stdout
    assert "| np.allclose | float64 |" in done.stdout
    assert "| a step skipped |" in done.stdout
    assert "numpy float64: " in done.stderr


def test_no_false_alarm_and_nothing_passed_in_silence():
    done = run(
        "--networks", "12", "--seed", "100", "--widest", "30", "--backend", "numpy", "--json"
    )
    rows = json.loads(done.stdout)["rows"]
    judged = [row for row in rows if "verdict" in row]
    assert len(judged) == 2 * 2 * 12
    assert {row["verdict"] for row in judged} <= {"right", "noise-limited", "vacuous", "kink"}
    planted = [row["outcome"] for row in rows if "outcome" in row]
    assert set(planted) <= {"seen", "vacuous", "noise-limited", "kink", "small"}
    assert planted.count("seen") > 0.7 * len(planted)


def test_help_names_the_options():
    done = run("--help")
    assert done.returncode == 0
    assert "--networks" in done.stdout
    assert "--all-modes" in done.stdout
