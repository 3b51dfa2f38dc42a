"""Does ``bpbench check`` do at a shell what docs/checking.md says?"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bpbench.cli import commands

ROOT = Path(__file__).resolve().parent.parent

FILE = '''
"""Someone's network."""
import numpy as np
print("loading")

def sigmoid(z):
    return 1 / (1 + np.exp(-z))

def backward(W, b, X, Y):
    a1 = sigmoid(X @ W[0] + b[0])
    a2 = sigmoid(a1 @ W[1] + b[1])
    d2 = (a2 - Y) * a2 * (1 - a2) / len(X)
    d1 = d2 @ W[1].T
    return {"dW1": X.T @ d1, "db1": d1.sum(0), "dW2": a1.T @ d2, "db2": d2.sum(0)}

def my_other(W, b, X, Y):
    raise SystemError("not yet")
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def invoke(*arguments):
    return CliRunner().invoke(commands, [str(a) for a in arguments])


def test_the_command_explains_what_is_wrong_and_ends_with_1(file):
    ended = invoke("check", file, "--sizes", "784,30,10")
    assert ended.exit_code == 1
    assert ended.stdout.startswith("wrong: backward on 784-30-10")
    assert "layer 0, delta[0]: f'(z) is missing" in ended.stdout
    assert "loading" in ended.stderr


def test_the_command_gives_one_json_document(file):
    ended = invoke("check", f"{file}:backward", "--sizes", "6,5,3", "--json")
    document = json.loads(ended.stdout)
    assert document["verdict"] == "wrong"
    assert document["findings"][0]["mistake"] == "hidden f' missing"


def test_a_function_that_raises_gives_a_report_at_a_shell_too(file):
    ended = invoke("check", f"{file}:my_other")
    assert ended.exit_code == 1
    assert "raises SystemError: not yet" in ended.stdout
    assert "Traceback" not in ended.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.py"], "no file nowhere.py"),
        (["{}:backwards"], "did you mean 'backward'"),
        (["{}", "--sizes", "3,x"], "whole numbers"),
        (["{}", "--loss", "mse"], "half_squared_error"),
        (["{}", "--hidden", "sigmoid,tanh"], "hidden"),
    ],
)
def test_what_cannot_be_meant_at_a_shell_ends_with_2(file, arguments, words):
    ended = invoke("check", *[argument.format(file) for argument in arguments])
    assert ended.exit_code == 2
    assert words in ended.stderr


def test_a_file_may_hold_its_network(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import bpbench\nfrom tests.handwritten import Handwritten\n"
        "network = bpbench.MLP((3, 5, 2), 'relu', 'identity', bias=False)\n"
        "gradients = Handwritten(network)\n"
    )
    ended = invoke("check", path)
    assert ended.exit_code == 0, ended.output
    assert "3-5-2 relu, identity" in ended.stdout


def test_a_file_of_several_functions_must_say_which(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def one(): pass\ndef two(): pass\n")
    ended = invoke("check", path)
    assert ended.exit_code == 2
    assert "one, two" in ended.stderr


# ── The page ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The files of docs/checking.md, in a folder of their own."""
    text = (ROOT / "docs" / "checking.md").read_text()
    for name, code in re.findall(r"`(\w+\.py)`\n```python\n(.*?)```", text, re.S):
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("document", "my_check"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_the_documents_own_program_is_checked_by_a_wrapper_of_five_lines(page):
    lines = (page / "my_check.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 5
    ended = invoke("check", "my_check.py", "--sizes", "2,3,1")
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.startswith(
        "right: my_gradients on 2-3-1 sigmoid, sigmoid, half_squared_error; "
        "W (n_out, n_in), samples in columns, b (n, 1)"
    )


def test_the_documents_derivative_given_z_is_found_in_both_layers(page):
    source = (page / "document.py").read_text()
    for name in ("z1 = ", "z2 = "):
        source = source.replace(name, f"global {name[:2]}\n    {name}")
    source = source.replace("sigmoid_derivative(a", "sigmoid_derivative(z")
    (page / "document.py").write_text(source)
    ended = invoke("check", "my_check.py", "--sizes", "2,3,1", "--json")
    found = json.loads(ended.stdout)["findings"]
    assert [(f["mistake"], f["layer"]) for f in found] == [
        ("z(1-z), 1-z^2", 1), ("z(1-z), 1-z^2", 0),
    ]  # fmt: skip
