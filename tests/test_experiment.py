"""What may an experiment be, which cells does it come to, and what is said where it cannot be?"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpbench import datasets, experiment
from bpbench.datasets import Dataset, Part
from bpbench.errors import UsageError
from bpbench.experiment import Experiment
from bpbench.network import MLP, Parameters, initial_parameters
from bpbench.optimizers import SGD, Adam
from bpbench.registry import BUILT_IN
from tests.small_experiments import classes_experiment, planted, xor_experiment

ROOT = Path(__file__).resolve().parent.parent


def one(**changes: Any) -> str:
    """The id of the verify cell of a changed XOR experiment."""
    return xor_experiment(**changes).cells(questions=["verify"])[0].id


def test_five_backends_in_their_default_modes_where_none_are_named() -> None:
    cells = xor_experiment(backends=None).cells(questions=["verify"])
    assert [(cell.backend, cell.mode) for cell in cells] == [
        (name, next(iter(entry.targets))) for name, entry in BUILT_IN.items()
    ]


def test_training_has_a_cell_per_seed_and_the_other_questions_one() -> None:
    cells = xor_experiment(seeds=3).cells()
    assert [(cell.question, cell.seed) for cell in cells] == [
        ("verify", 0), ("train", 0), ("train", 1), ("train", 2), ("speed", 0),
    ]  # fmt: skip


def test_nothing_is_timed_or_trained_unverified() -> None:
    questions = [cell.question for cell in xor_experiment().cells(questions=["speed"])]
    assert questions == ["verify", "speed"]


def test_what_the_command_line_says_replaces_what_the_script_says() -> None:
    (cell,) = xor_experiment().cells(
        backends=["jax:eager"], devices=["cuda"], dtypes=["float32"], seeds=[4], threads=2,
        questions=["verify"],
    )  # fmt: skip
    found = (cell.backend, cell.mode, cell.device, cell.dtype, cell.seed, cell.threads)
    assert found == ("jax", "eager", "cuda", "float32", 4, 2)


def test_a_grid_has_every_combination_of_the_varied_fields() -> None:
    grid = xor_experiment(vary={"learning_rate": [0.1, 1], "depth": [1, 2], "initial": ["he"]})
    assert [dict(point.varied) for point in grid.points] == [
        {"learning_rate": "0.1", "depth": "1", "initial": "he"},
        {"learning_rate": "0.1", "depth": "2", "initial": "he"},
        {"learning_rate": "1", "depth": "1", "initial": "he"},
        {"learning_rate": "1", "depth": "2", "initial": "he"},
    ]
    assert [point.network.sizes for point in grid.points[:2]] == [(2, 3, 1), (2, 3, 3, 1)]
    assert [point.optimizer.learning_rate for point in grid.points] == [0.1, 0.1, 1, 1]
    assert len({cell.id for cell in grid.cells()}) == len(grid.cells()) == 12


def test_whole_descriptions_vary_as_well_as_their_fields() -> None:
    grid = xor_experiment(
        vary={"optimizer": [SGD(0.1), Adam(0.1)], "sizes": [(2, 2, 1)], "batch_size": [2, 4]}
    )
    assert [(str(p.optimizer), p.batch_size) for p in grid.points] == [
        ("SGD(learning_rate=0.1)", 2), ("SGD(learning_rate=0.1)", 4),
        ("Adam(learning_rate=0.1)", 2), ("Adam(learning_rate=0.1)", 4),
    ]  # fmt: skip
    assert grid.points[0].varied["sizes"] == "2-2-1"


def test_dtype_backend_and_threads_may_stand_among_the_varied_fields() -> None:
    grid = xor_experiment(
        vary={"dtype": ["float32", "float64"], "backend": ["numpy", "torch"], "threads": [1, 2]}
    )
    cells = grid.cells(questions=["verify"])
    assert len(grid.points) == 1
    assert len({(cell.dtype, cell.backend, cell.threads) for cell in cells}) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 61}, {"batch_size": 2}, {"optimizer": SGD(0.4)}, {"initial": "he"},
        {"shuffle": False}, {"drop_last": True}, {"network": MLP((2, 4, 1))}, {"seeds": [1]},
        {"initial": lambda network, seed: initial_parameters(network, seed + 1)},
        {"data": Dataset("xor", Part(datasets.xor().train.x, 1 - datasets.xor().train.y))},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_changed_experiment_is_another_cell(change: dict[str, Any]) -> None:
    assert one() == one()
    assert one(**change) != one()


def test_a_changed_backend_in_a_file_is_another_cell(tmp_path: Path) -> None:
    ids = []
    for code in ("class Mine: pass", "class Mine: ..."):
        (tmp_path / "mine.py").write_text(code)
        ids.append(one(backends=[f"{tmp_path}/mine.py:Mine"]))
    assert ids[0] != ids[1]
    assert ids[0].startswith("verify-Mine-default-cpu-float64-t1-s0-")


def test_a_cell_names_a_file_on_any_system() -> None:
    grid = xor_experiment(
        backends=[planted("Killed") + ":some/mode"],
        vary={"optimizer": [SGD(0.1)], "sizes": [(2, *[9] * 200, 1)]},
    )
    for cell in grid.cells():
        assert re.fullmatch(r"[A-Za-z0-9.=+_-]{1,180}", cell.id)


def test_initial_parameters_may_be_given_or_made_by_a_function() -> None:
    network = MLP((2, 3, 1))
    given = initial_parameters(network, 9)
    assert xor_experiment(initial=given).points[0].parameters(3).digest() == given.digest()
    made = xor_experiment(initial=lambda network, seed: initial_parameters(network, seed, "he"))
    expected = initial_parameters(network, 3, "he")
    assert made.points[0].parameters(3).digest() == expected.digest()


def test_a_function_for_initial_parameters_that_returns_none_is_an_error() -> None:
    with pytest.raises(UsageError, match="initial returned a NoneType"):
        xor_experiment(initial=lambda network, seed: None).points[0].parameters(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a/b"}, "name is 'a/b'; expected letters"),
        ({"network": "2-3-1"}, "network is a str; expected a bpbench MLP"),
        ({"data": np.eye(4)}, "data is a ndarray; expected a bpbench Dataset"),
        ({"optimizer": 0.1}, "optimizer is a float; expected a bpbench optimizer"),
        ({"epochs": 0}, "epochs is 0; expected a whole number of at least 1"),
        ({"batch_size": 5}, "batch_size is 5; expected a whole number from 1 to 4, the rows"),
        ({"dtype": "float46"}, r"dtype 'float46' is unknown; .*did you mean 'float64'"),
        ({"network": MLP((3, 3, 1))}, "has 2 inputs and 1 outputs, but the network has 3 and 1"),
        ({"seeds": 0}, "seeds is 0; expected how many"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\]; expected how many"),
        ({"threads": 0}, "threads is 0"),
        ({"shuffle": "yes"}, "shuffle is 'yes'; expected a bool"),
        ({"initial": "normla"}, "initial 'normla' is unknown; .*did you mean 'normal'"),
        ({"initial": 3}, "initial is a int; expected the name of a scheme"),
        ({"initial": initial_parameters(MLP((2, 4, 1)))}, r"parameters are for sizes \(2, 4, 1\)"),
        ({"questions": ["time"]}, "question 'time' is unknown; expected one of: speed, train"),
        ({"backends": ["torhc"]}, "backend 'torhc' is unknown; .*did you mean 'torch'"),
        ({"backends": ["jax:eger"]}, "mode 'eger' is unknown; .*did you mean 'eager'"),
        ({"backends": ["none.py:Mine"]}, "there is no file none.py"),
        ({"backends": ["tests/conftest.py"]}, "names no class"),
        ({"vary": {"learning_rat": [1]}}, "vary 'learning_rat' is unknown; .*'learning_rate'"),
        ({"vary": {"epochs": 3}}, "epochs is 3; expected a list of values"),
        ({"vary": {"epochs": []}}, "epochs has no values"),
        ({"vary": {"epochs": [3, 3]}}, "two values of epochs read '3'"),
        ({"vary": {"epochs": [3, 0]}}, "'xor' at epochs=0: epochs is 0"),
        ({"vary": {"sizes": [(2, 3, 1), (3, 1)]}}, "at sizes=3-1: data 'xor' has 2 inputs"),
        (
            {"vary": {"optimizer": [SGD(1), Adam(1)], "momentum": [0.5]}},
            r"momentum is no field of Adam",
        ),
        (
            {"network": MLP((2, 3, 1), output="softmax", loss="cross_entropy")},
            "train outputs of data 'xor': y has rows that do not sum to 1",
        ),
    ],
)
def test_an_experiment_that_cannot_be_meant_is_an_error(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        xor_experiment(**change)


def test_outputs_that_are_no_probabilities_are_an_error() -> None:
    data = Dataset("big", Part(np.eye(2), np.full((2, 1), 3.0)))
    network = MLP((2, 1), output="sigmoid", loss="binary_cross_entropy")
    with pytest.raises(UsageError, match="y goes from 3 to 3; loss 'binary_cross_entropy' expects"):
        xor_experiment(data=data, network=network, batch_size=1)


def test_a_short_last_batch_is_kept_or_dropped_as_asked() -> None:
    assert classes_experiment().points[0].order(0).steps == 7
    assert classes_experiment(drop_last=True).points[0].order(0).steps == 6


SCRIPT = """
from bpbench import MLP, SGD, Experiment, datasets

experiment = Experiment(
    name="xor",
    network=MLP(sizes=(2, 3, 1), hidden="sigmoid", output="sigmoid", loss="half_squared_error"),
    data=datasets.xor(),
    optimizer=SGD(learning_rate=0.1),
    epochs=10_000,
    batch_size=4,
    dtype="float64",
)
"""


def script(tmp_path: Path, *more: str) -> Path:
    path = tmp_path / "script.py"
    path.write_text("\n".join((SCRIPT, *more)))
    return path


def test_every_experiment_of_a_script_is_found_once(tmp_path: Path) -> None:
    more = "from dataclasses import replace\nsame = experiment\nothers = [replace(same, name='b')]"
    found = experiment.load(script(tmp_path, more))
    assert [e.name for e in found] == ["xor", "b"]
    assert isinstance(found[0], Experiment)
    assert found[0].points[0].epochs == 10_000


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("del experiment", "declares no experiment"),
        ("import copy; other = copy.copy(experiment)", "two experiments called 'xor'"),
        ("1 / 0", r"script.py cannot be loaded: ZeroDivisionError: division by zero \(line 14\)"),
        ("experiment.main()", "main.. belongs at the end of the script, under if __name__"),
        ("Experiment(name='x')", "missing 6 required positional arguments|missing .* required"),
    ],
)
def test_a_script_that_declares_nothing_usable_is_an_error(
    tmp_path: Path, more: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        experiment.load(script(tmp_path, more))


def test_a_script_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"there is no experiment script no\.py"):
        experiment.load("no.py")


@pytest.mark.parametrize("name", ["xor", "digits"])
def test_the_experiments_of_the_demonstration_load(name: str) -> None:
    assert [e.name for e in experiment.load(ROOT / f"experiments/{name}.py")] == [name]


def test_parameters_are_checked_against_every_network_of_a_grid() -> None:
    given = Parameters((np.ones((3, 2)), np.ones((1, 3))), (np.ones(3), np.ones(1)))
    with pytest.raises(UsageError, match="parameters are for sizes"):
        xor_experiment(initial=given, vary={"width": [3, 4]})


def test_an_experiment_runs_from_any_folder(tmp_path: Path) -> None:
    path = script(tmp_path)
    assert experiment.load(os.path.relpath(path))[0].name == "xor"
