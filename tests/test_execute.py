"""Does every cell end as the row that it should, whatever becomes of its worker?"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bpbench.backend import Backpropagation
from bpbench.cells import Cell
from bpbench.errors import BpbenchError, UsageError
from bpbench.execute import RunOptions, environment, protocol, run
from bpbench.execute.process import CellEnded, Limits, Place, WorkerProcess
from bpbench.execute.progress import Progress
from bpbench.execute.questions import accuracy
from bpbench.experiment import Experiment
from bpbench.network import MLP
from bpbench.optimizers import SGD
from bpbench.results import store
from tests.small_experiments import classes_experiment, planted, xor_experiment

pytestmark = pytest.mark.xdist_group("timed")  # one after the other: they share the cores

Row = dict[str, Any]


def version_of(package: str) -> str:
    """The version of a package, or nothing where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def rows_of(
    experiment: Experiment, tmp_path: Path, progress: Progress | None = None, **options: Any
) -> dict[str, Row]:
    """The rows of an experiment by backend and question: "Killed train"."""
    brief = {"out": tmp_path / "results", "rounds": 2, "processes": 1}
    rows: list[Any] = run(experiment, RunOptions(**(brief | options)), progress)
    return {
        f"{row['cell']['backend'].rpartition(':')[2]} {row['cell']['question']}": row
        for row in rows
    }


@pytest.fixture
def once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says whether a planted trouble has happened."""
    path = tmp_path / "happened"
    monkeypatch.setenv("BPBENCH_TEST_ONCE", str(path))
    return path


# ── What ends well ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Row], Path]:
    """The rows of an experiment that ends well, and the folder where they lie."""
    folder = tmp_path_factory.mktemp("classes")
    return rows_of(classes_experiment(), folder, processes=2), folder / "results"


def test_a_verified_row_says_how_far_from_the_truth_it_is(
    classes: tuple[dict[str, Row], Path],
) -> None:
    row = classes[0]["numpy verify"]
    assert (row["status"], row["say"]) == ("ok", "")
    assert row["measured"]["report"]["verdict"] == row["measured"]["training"]["verdict"] == "right"
    assert 0 < row["measured"]["max_scaled_error"] < 1e-5
    assert row["measured"]["worst_sigmas"] < 8


def test_a_trained_row_holds_what_training_gave(classes: tuple[dict[str, Row], Path]) -> None:
    import bpbench

    row = classes[0]["numpy train"]
    measured = row["measured"]
    arrays = store.read_arrays(classes[1], row)
    point = classes_experiment().points[0]
    model = bpbench.get_backend("numpy").model(point.network, point.parameters(0))
    losses = [
        loss
        for order in point.order(0).epochs(0, 20)
        for loss in model.train(point.data.train.x, point.data.train.y, order, point.optimizer)
    ]
    np.testing.assert_array_equal(arrays.pop("losses"), np.array(losses, "float32"))
    assert protocol.parameters_of(arrays).digest() == model.parameters().digest()
    assert measured["parameters_digest"] == model.parameters().digest()
    assert measured["steps"] == 7 * 20 == len(losses)
    assert measured["curve"][0] == [0, measured["first_loss"]]
    assert measured["curve"][-1] == [139, measured["final_loss"]]
    right = model.predict(point.data.test.x).argmax(1) == point.data.test.y.argmax(1)
    assert measured["accuracy"]["test"] == right.mean()
    assert set(measured["accuracy"]) == {"train", "test"}


def test_a_timed_row_keeps_every_sample(classes: tuple[dict[str, Row], Path]) -> None:
    measured = classes[0]["numpy speed"]["measured"]
    per_sample = ("samples", "cpu_per_wall", "canary_s", "disturbed", "sample_round")
    assert {len(measured[name]) for name in per_sample} == {measured["rounds"]} == {2}
    assert measured["sample_process"] == [0, 1]
    assert min(measured["samples"]) <= measured["min_s"] <= measured["median_s"]
    assert measured["interval"][0] <= measured["median_s"] <= measured["interval"][1]
    assert measured["samples_per_s"] == pytest.approx(8 / measured["median_s"])
    assert measured["steps_per_sample"] > 10
    assert measured["peak_memory_bytes"] > 2**20
    assert len(measured["warmups"]) == 4
    assert len(measured["processes"]) == 2
    assert {"import_s", "upload_s", "first_call_s", "second_call_s"} <= set(measured)


def test_a_timed_row_is_held_against_its_limit_and_the_same_code_timed_twice(
    classes: tuple[dict[str, Row], Path],
) -> None:
    measured = classes[0]["numpy speed"]["measured"]
    assert measured["flops"] == 2 * 8 * (2 * 4 * 6 + 3 * 6 * 3)
    assert measured["gflops"] == pytest.approx(measured["flops"] / measured["median_s"] / 1e9)
    assert 0 < measured["limit_min_s"] <= measured["limit_median_s"] < measured["median_s"]
    assert 0 < measured["share_of_limit"] < 1
    low, high = measured["aa_ratio"]
    assert 0 < low <= high
    assert measured["aa_of"] == "numpy:reference"


def test_a_sample_may_be_of_as_many_steps_as_anothers(tmp_path: Path) -> None:
    fast = "numpy:fast"
    bare = f"{Path(__file__).parent.parent}/benchmarks/bare_numpy.py:Bare"
    options = RunOptions(
        backends=[fast, "numpy:reference", bare], questions=["speed"], out=tmp_path,
        rounds=2, processes=1, blocks_like={bare: fast},
    )  # fmt: skip
    rows = run(xor_experiment(), options)
    timed = [row["measured"] for row in rows if row["cell"]["question"] == "speed"]
    own, slow, like = (measured["steps_per_sample"] for measured in timed)
    assert own == like > slow


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """The rows of two backends side by side, one of which prints."""
    experiment = classes_experiment(backends=["numpy", planted("Prints")])
    return rows_of(experiment, tmp_path_factory.mktemp("two"))


def test_who_shares_the_rounds_is_told(two: dict[str, Row]) -> None:
    speed = [row["measured"] for key, row in two.items() if key.endswith("speed")]
    assert len({measured["timing"] for measured in speed}) == 1
    assert speed[0]["aa_ratio"] == speed[1]["aa_ratio"]
    assert speed[0]["limit_median_s"] == speed[1]["limit_median_s"]


def test_a_row_says_what_ran_and_where(classes: tuple[dict[str, Row], Path]) -> None:
    row = classes[0]["numpy train"]
    assert row["versions"]["numpy"] == np.__version__
    assert row["machine"]["cpus"] == psutil.cpu_count()
    assert row["cell"]["optimizer"] == {**SGD(0.1, 1e-3, 0.9).describe()}
    assert row["cell"]["network"] == json.loads(json.dumps(classes_experiment().network.describe()))


def test_the_rows_are_read_back_as_they_were(classes: tuple[dict[str, Row], Path]) -> None:
    rows, folder = classes
    by_id = {row["cell"]["id"]: row for row in store.read(folder)}
    assert by_id == {row["cell"]["id"]: row for row in rows.values()}


def test_every_backend_is_given_the_same(two: dict[str, Row]) -> None:
    digests = [(key.split()[1], row["given_digest"]) for key, row in two.items()]
    assert set(Counter(digests).values()) == {2}
    finals = {r["measured"]["parameters_digest"] for k, r in two.items() if k.endswith("train")}
    assert len(finals) == 1


def test_what_a_backend_prints_harms_no_one(two: dict[str, Row]) -> None:
    assert [row["status"] for row in two.values()] == ["ok"] * 6


def test_a_backend_of_a_file_shows_the_mode_that_it_chose(two: dict[str, Row]) -> None:
    assert two["Prints verify"]["cell"]["mode"] == "reference"


def test_real_frameworks_run_side_by_side_and_none_in_the_supervisor(tmp_path: Path) -> None:
    code = (
        "import json, sys\n"
        "from bpbench.execute import RunOptions, run\n"
        "from tests.small_experiments import classes_experiment\n"
        "experiment = classes_experiment(backends=['numpy', 'torch', 'jax'])\n"
        f"options = RunOptions(out={str(tmp_path)!r}, rounds=2, processes=1)\n"
        "rows = run(experiment, options)\n"
        "modules = {'torch', 'jax', 'tensorflow', 'keras', 'pandas'} & set(sys.modules)\n"
        "print(json.dumps([rows, sorted(modules)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows, modules = json.loads(done.stdout)
    assert modules == []
    assert [row["say"] for row in rows if row["status"] != "ok"] == []
    losses = [r["measured"]["final_loss"] for r in rows if r["cell"]["question"] == "train"]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)


def test_a_training_that_diverges_says_from_which_step(tmp_path: Path) -> None:
    experiment = classes_experiment(network=MLP((4, 3), output="identity"), optimizer=SGD(2.0))
    row = rows_of(experiment, tmp_path, questions=["train"])["numpy train"]
    losses = store.read_arrays(tmp_path / "results", row)["losses"]
    step = int(np.argmax(~np.isfinite(losses)))
    assert row["status"] == "diverged"
    assert f"from step {step} of 140" in row["say"]
    assert row["measured"]["final_loss"] is None


# ── What ends badly ────────────────────────────────────────────────────────────────────────────

ENDINGS = {
    "Killed": ("crashed", "ended by SIGKILL"),
    "Aborted": ("crashed", "ended by SIGABRT"),
    "Segfaults": ("crashed", "ended by SIGSEGV"),
    "Raises": ("crashed", "ArithmeticError: the planted error"),
    "RaisesMemoryError": ("out of memory", "MemoryError: no room for the planted array"),
    "RaisesLikeAFramework": ("out of memory", "RESOURCE_EXHAUSTED"),
    "Exits": ("crashed", "ended early, with exit code 7"),
    "SaysExit": ("crashed", "ended early, with exit code 1"),
    "WritesEverywhere": ("crashed", "something other than an answer came from the worker"),
    "ClosesEverything": ("crashed", ""),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_lost_worker_costs_one_row(name: str, tmp_path: Path, once: Path) -> None:
    rows = rows_of(xor_experiment(backends=[planted(name)]), tmp_path, questions=["train"])
    status, say = ENDINGS[name]
    assert rows[f"{name} verify"]["status"] == status
    assert say in rows[f"{name} verify"]["say"]
    assert rows[f"{name} train"]["status"] == "ok"


@pytest.mark.parametrize("name", ["Hangs", "HangsInC"])
def test_a_worker_that_hangs_costs_one_row(name: str, tmp_path: Path, once: Path) -> None:
    experiment = xor_experiment(backends=[planted(name)])
    rows = rows_of(experiment, tmp_path, timeout=4, questions=["train"])
    lost = rows[f"{name} verify"]
    assert (lost["status"], lost["say"]) == (
        "timeout", "no answer within 4 s; a longer --timeout may help",
    )  # fmt: skip
    assert rows[f"{name} train"]["status"] == "ok"


def test_a_worker_that_takes_all_memory_costs_one_row(tmp_path: Path, once: Path) -> None:
    experiment = xor_experiment(backends=[planted("TakesMemory")])
    rows = rows_of(experiment, tmp_path, memory_limit=2**29, questions=["train"])
    lost = rows["TakesMemory verify"]
    assert lost["status"] == "out of memory"
    assert "more than the 0.5 GiB that it may have" in lost["say"]
    assert rows["TakesMemory train"]["status"] == "ok"


def test_a_worker_lost_while_others_are_timed_costs_one_row(tmp_path: Path, once: Path) -> None:
    backends = [planted("KilledWhileTimed"), "numpy", planted("Prints")]
    rows = rows_of(xor_experiment(backends=backends), tmp_path, rounds=4, processes=2)
    lost = rows.pop("KilledWhileTimed speed")
    assert lost["status"] == "crashed"
    assert "about to go" in lost["stderr"]
    assert [row["status"] for row in rows.values()] == ["ok"] * 8
    assert {len(r["measured"]["samples"]) for k, r in rows.items() if k.endswith("speed")} == {4}


def test_a_control_that_is_lost_costs_no_row(tmp_path: Path, once: Path) -> None:
    experiment = xor_experiment(backends=[planted("DiesTheThirdTime")])
    rows = rows_of(experiment, tmp_path, questions=["speed"], rounds=4, processes=2)
    assert [row["status"] for row in rows.values()] == ["ok"] * 2
    measured = rows["DiesTheThirdTime speed"]["measured"]
    assert len(measured["samples"]) == 4
    assert measured["aa_ratio"] is None
    assert once.read_text() == "start\n" * 4  # nobody tries again


def test_a_crash_says_where_it_was(tmp_path: Path, once: Path) -> None:
    rows = rows_of(xor_experiment(backends=[planted("Aborted")]), tmp_path, questions=["verify"])
    assert "in steps" in rows["Aborted verify"]["stderr"]


def test_a_backend_that_cannot_start_is_not_started_for_every_cell(
    tmp_path: Path, once: Path
) -> None:
    experiment = xor_experiment(backends=[planted("DiesAtTheStart")], seeds=4)
    rows = run(experiment, RunOptions(out=tmp_path, rounds=2, processes=1))
    assert {row["status"] for row in rows} == {"crashed"}
    assert once.read_text() == "start\n" * 2


def test_a_missing_backend_is_tried_again_by_every_run(tmp_path: Path, once: Path) -> None:
    experiment = xor_experiment(backends=[planted("Missing")])
    for times in (1, 2):
        rows = rows_of(experiment, tmp_path)
        assert {row["status"] for row in rows.values()} == {"missing"}
        assert "pip install plants" in rows["Missing speed"]["say"]
        assert once.read_text() == "start\n" * times


def test_a_framework_that_is_not_installed_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('there is none', name='torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rows = rows_of(xor_experiment(backends=["torch", "numpy"]), tmp_path)
    assert rows["torch train"]["status"] == "missing"
    assert "pip install 'bpbench[torch]'" in rows["torch train"]["say"]
    assert rows["numpy train"]["status"] == "ok"


def test_what_a_backend_cannot_do_is_unsupported(tmp_path: Path) -> None:
    rows = rows_of(xor_experiment(backends=[planted("OnlySmall"), planted("NoBiases")]), tmp_path)
    assert {row["status"] for row in rows.values()} == {"unsupported"}
    assert "dtype 'float64' is unknown; expected one of: float32" in rows["OnlySmall train"]["say"]
    assert rows["NoBiases speed"]["say"] == "planted has no networks at all"


# ── What trains wrongly ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["Stale", "SkipsEveryTenth", "LossesAfter", "OtherRows", "Forgetful"]
)
def test_right_gradients_with_wrong_training_are_caught(name: str, tmp_path: Path) -> None:
    rows = rows_of(classes_experiment(backends=[planted(name)]), tmp_path)
    assert {row["status"] for row in rows.values()} == {"wrong"}
    verify = rows[f"{name} verify"]
    assert verify["say"].startswith("right gradients, but wrong training: ")
    assert verify["measured"]["report"]["verdict"] == "right"
    assert verify["measured"]["training"]["verdict"] == "wrong"
    for question, done in (("train", "trained"), ("speed", "timed")):
        assert rows[f"{name} {question}"]["measured"] == {}
        assert rows[f"{name} {question}"]["say"] == f"not {done}: {verify['say']}"


def test_a_block_that_would_be_timed_and_trains_wrongly_is_caught(tmp_path: Path) -> None:
    experiment = xor_experiment(backends=[planted("SkipsEveryHundredth")])
    rows = rows_of(experiment, tmp_path, questions=["speed"])
    assert rows["SkipsEveryHundredth verify"]["status"] == "ok"
    speed = rows["SkipsEveryHundredth speed"]
    assert (speed["status"], speed["measured"]) == ("wrong", {})
    assert "that would be timed trains wrongly: the losses are wrong" in speed["say"]


@pytest.mark.skipif(
    not version_of("torch").startswith("2.13"), reason="the compiler's mistake is torch 2.13's"
)
def test_a_compiler_that_trains_wrongly_without_a_word_is_caught(tmp_path: Path) -> None:
    experiment = classes_experiment(
        backends=["tests/planted_inductor.py:InPlace"], optimizer=SGD(0.5), questions=["speed"]
    )
    rows = rows_of(experiment, tmp_path)
    verify, speed = rows["InPlace verify"], rows["InPlace speed"]
    assert verify["measured"]["report"]["verdict"] == "right"
    assert verify["measured"]["training"]["verdict"] == "wrong"
    assert (speed["status"], speed["measured"]) == ("wrong", {})
    assert speed["say"].startswith("not timed: right gradients, but wrong training: ")


def test_a_training_that_goes_wrong_on_its_way_is_caught(tmp_path: Path) -> None:
    experiment = xor_experiment(backends=[planted("SkipsEveryHundredth")], epochs=8000)
    row = rows_of(experiment, tmp_path, questions=["train"])["SkipsEveryHundredth train"]
    assert (row["status"], row["measured"]) == ("wrong", {})
    assert row["say"].startswith("wrong training: the losses are wrong")


def test_wrong_gradients_are_caught(tmp_path: Path) -> None:
    rows = rows_of(xor_experiment(backends=[planted("Doubles")]), tmp_path)
    assert {row["status"] for row in rows.values()} == {"wrong"}
    assert rows["Doubles verify"]["say"].startswith("wrong gradients: ")
    assert "dW[0]" in rows["Doubles verify"]["say"]


def test_the_verdict_of_an_earlier_run_counts(tmp_path: Path) -> None:
    experiment = xor_experiment(backends=[planted("Stale")])
    rows_of(experiment, tmp_path, questions=["verify"])
    assert rows_of(experiment, tmp_path)["Stale speed"]["status"] == "wrong"


# ── Going on ───────────────────────────────────────────────────────────────────────────────────


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.cells: list[str] = []
        self.kept = 0
        self.moments: list[str] = []
        self.advances: list[tuple[str, int, int]] = []

    def planned(self, cells: Any, kept: Any) -> None:
        self.cells = [cell.question for cell in cells]
        self.kept = len(kept)

    def started(self, cell: Cell) -> None:
        self.moments.append(f"{cell.question} started")

    def advanced(self, cell: Cell, done: int, total: int) -> None:
        self.advances.append((cell.question, done, total))

    def finished(self, row: Row) -> None:
        self.moments.append(f"{row['cell']['question']} finished")


def test_progress_is_told_of_every_cell(tmp_path: Path) -> None:
    told = Told()
    rows_of(xor_experiment(), tmp_path, progress=told)
    assert told.cells == ["verify", "train", "speed"]
    assert told.moments == [
        f"{question} {moment}" for question in told.cells for moment in ("started", "finished")
    ]
    training = [(done, total) for question, done, total in told.advances if question == "train"]
    assert training == [(done, 60) for done in range(2, 61, 2)]
    assert [a[1:] for a in told.advances if a[0] == "speed"] == [(1, 2), (2, 2)]


def test_finished_cells_are_not_run_again(tmp_path: Path) -> None:
    first = rows_of(xor_experiment(), tmp_path)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "results/xor").iterdir()}
    told = Told()
    assert rows_of(xor_experiment(seeds=2), tmp_path, progress=told) != first
    assert (told.cells, told.kept) == (["train"], 3)
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_lost_cells_are_kept_until_a_retry_is_asked_for(tmp_path: Path, once: Path) -> None:
    experiment = xor_experiment(backends=[planted("Killed")])
    assert rows_of(experiment, tmp_path)["Killed verify"]["status"] == "crashed"
    assert rows_of(experiment, tmp_path)["Killed verify"]["status"] == "crashed"
    told = Told()
    rows = rows_of(experiment, tmp_path, retry=True, progress=told)
    assert told.cells == ["verify"]
    assert rows["Killed verify"]["status"] == "ok"


def test_two_runs_cannot_write_to_one_folder(tmp_path: Path) -> None:
    with store.Store(tmp_path).held():
        message = f"another run \\(process {os.getpid()}\\) is writing to .*; wait until it has"
        with pytest.raises(BpbenchError, match=message):
            run(xor_experiment(), RunOptions(out=tmp_path))
    assert store.read(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BpbenchError, match="results cannot be written to"):
        run(xor_experiment(), RunOptions(out=tmp_path / "file"))


def test_a_run_leaves_nothing_but_results(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    (folder / "xor").mkdir(parents=True)
    (folder / f"{store.SCRATCH}old").mkdir()
    (folder / f"xor/{store.TEMPORARY}old.json").touch()
    rows_of(xor_experiment(), tmp_path)
    assert {path.name for path in folder.iterdir()} == {"xor", store.LOCK}
    suffixes = Counter(path.suffix for path in (folder / "xor").iterdir())
    assert suffixes == {".json": 3, ".safetensors": 1}
    assert not psutil.Process().children()


def test_of_a_changed_experiment_the_newest_rows_count(tmp_path: Path) -> None:
    for epochs in (20, 40):
        rows_of(xor_experiment(epochs=epochs), tmp_path, questions=["train"])
    read = store.read(tmp_path / "results")
    assert Counter(row["cell"]["question"] for row in read) == {"verify": 1, "train": 1}
    assert len(list((tmp_path / "results/xor").glob("*.json"))) == 4


def test_files_that_are_no_results_are_errors(tmp_path: Path) -> None:
    (tmp_path / "xor").mkdir()
    (tmp_path / "xor/a.json").write_text("{")
    with pytest.raises(BpbenchError, match=r"a\.json is no result file .*; remove it"):
        store.read(tmp_path)
    (tmp_path / "xor/a.json").write_text('{"schema": 99}')
    with pytest.raises(BpbenchError, match=r"its schema is 99, expected 1\); remove it"):
        store.read(tmp_path)
    with pytest.raises(UsageError, match="there is no folder of results"):
        store.read(tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 10_000}, "threads is 10000, but this process may use"),
        ({"timeout": -1}, "timeout is -1; expected a number above 0"),
        ({"questions": ["time"]}, "question 'time' is unknown"),
        ({"backends": ["torhc"]}, "backend 'torhc' is unknown; .*did you mean 'torch'"),
        ({"dtypes": ["float"]}, "dtype 'float' is unknown"),
        ({"blocks_like": {"torhc": "numpy:fast"}}, "blocks_like: backend 'torhc' is unknown"),
        ({"python": {"torhc": sys.executable}}, "python: backend 'torhc' is unknown"),
        ({"python": {"numpy": "/no/python"}}, "there is no interpreter /no/python for 'numpy'"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_runs(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        run(xor_experiment(), RunOptions(**({"out": tmp_path / "results"} | options)))
    assert not (tmp_path / "results").exists()


def test_two_experiments_of_one_name_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two experiments are called 'xor'"):
        run([xor_experiment(), xor_experiment()], RunOptions(out=tmp_path))


# ── The parts ──────────────────────────────────────────────────────────────────────────────────


def worker(tmp_path: Path, backend: str = "numpy", threads: int = 1) -> WorkerProcess:
    place = Place(backend, "default", "cpu", "float32", threads)
    limits = Limits(seconds=60, memory=2**40)
    return WorkerProcess(place, sys.executable, [0], limits, tmp_path / "log")


def test_a_worker_ends_when_its_supervisor_closes_the_pipe(tmp_path: Path) -> None:
    process = worker(tmp_path, planted("AlwaysHangsInC"))
    try:
        process.open()
        os.close(process._requests)
        assert psutil.Process(process.pid).wait(timeout=30) in (0, None)
    finally:
        process._requests = os.open(os.devnull, os.O_RDONLY)
        process.kill()


def test_a_worker_runs_on_the_cores_that_it_is_given(tmp_path: Path) -> None:
    process = worker(tmp_path)
    try:
        process.open()
        assert psutil.Process(process.pid).cpu_affinity() == [0]
        variables = psutil.Process(process.pid).environ()
        assert variables["OMP_NUM_THREADS"] == variables["NPROC"] == "1"
    finally:
        process.kill()


def test_a_worker_whose_interpreter_cannot_run_says_so(tmp_path: Path) -> None:
    place = Place("numpy", "reference", "cpu", "float32", 1)
    (tmp_path / "python").touch()
    with pytest.raises(CellEnded, match=r"cannot be run: .*Permission denied"):
        WorkerProcess(place, str(tmp_path / "python"), [], Limits(9, 9), tmp_path / "log")


def test_a_backend_may_run_under_another_interpreter(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\ntouch {tmp_path}/used\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    rows = rows_of(xor_experiment(), tmp_path, python={"numpy": str(other)}, questions=["verify"])
    assert rows["numpy verify"]["status"] == "ok"
    assert (tmp_path / "used").exists()


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (("jax", "scan", "cpu", "float64", 1), "JAX_ENABLE_X64", "1"),
        (("jax", "scan", "cpu", "float32", 1), "JAX_ENABLE_X64", "0"),
        (("jax", "scan", "cpu", "float32", 1), "XLA_PYTHON_CLIENT_PREALLOCATE", "false"),
        (("keras", "tensorflow", "cpu", "float32", 1), "KERAS_BACKEND", "tensorflow"),
        (("tensorflow", "function", "cpu", "float32", 2), "TF_NUM_INTEROP_THREADS", "2"),
        (("torch", "eager", "cpu", "float32", 2), "OMP_NUM_THREADS", "2"),
        (("torch", "eager", "cpu", "float32", 2), "CUDA_VISIBLE_DEVICES", "-1"),
    ],
)
def test_the_environment_is_set_before_the_framework_is_imported(
    place: tuple[str, str, str, str, int], name: str, value: str
) -> None:
    assert environment.worker_environment(*place)[name] == value


def test_a_gpu_stays_visible_to_a_worker_that_is_to_use_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    variables = environment.worker_environment("torch", "eager", "cuda", "float32", 1)
    assert "CUDA_VISIBLE_DEVICES" not in variables


def test_a_backpropagation_goes_through_a_file_unchanged(tmp_path: Path) -> None:
    import bpbench

    network = MLP((2, 3, 1), bias=False)
    model = bpbench.get_backend("numpy").model(network, bpbench.initial_parameters(network))
    found = model.backpropagate(np.ones((4, 2)), np.ones((4, 1)))
    protocol.save(tmp_path / "file", protocol.pack(found))
    back = protocol.unpack(protocol.load(tmp_path / "file"))
    assert isinstance(back, Backpropagation)
    assert back.loss == found.loss
    assert back.gradients.b == ()
    for name in ("z", "a", "delta"):
        for ours, theirs in zip(getattr(back, name), getattr(found, name), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("line", [b"{", b"[1]", b"\xff\xfe", b"", b"[" * 100_000])
def test_garbage_is_no_message(line: bytes) -> None:
    assert protocol.decode(line) is None


def test_accuracy_is_that_of_the_largest_output_or_of_one_half() -> None:
    y = np.eye(3)[[0, 1, 2, 2]]
    output = np.array([[0.9, 0, 0], [0, 0.2, 0.1], [0.5, 0, 0.4], [0, 0, 1]])
    assert accuracy(output, y) == 0.75
    assert accuracy(np.array([[0.6], [0.4]]), np.array([[1.0], [1.0]])) == 0.5
    assert accuracy(output, y * 0.5) is None
    assert accuracy(np.ones((2, 2)), np.ones((2, 2))) is None
